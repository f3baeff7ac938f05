"""A topic as the core holds it while it runs, and what is declared of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from polywire.core.errors import FieldError, Invalid
from polywire.core.kept import Kept
from polywire.core.limits import Limits
from polywire.core.matching import KeyIndex
from polywire.core.message import Record
from polywire.core.position import Cursor
from polywire.core.tail import Run

if TYPE_CHECKING:
    from polywire.core.dedup import DedupWindow
    from polywire.core.routing import Binding
    from polywire.core.streams import Follower

__all__ = ["Admit", "Topic", "TopicInfo", "TopicSettings"]

Admit = Callable[[Record], object]
"""Checks a record against what its topic was declared to hold, and completes it. Raises `Invalid`."""


class TopicSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be declared of a topic. Times in ms, sizes in bytes; None takes the hub's limit."""

    name: str
    durability: Literal["durable", "memory"] = "durable"
    retention: int | None = None
    retention_size: int | None = None
    hard_limit: int | None = None
    overflow: Literal["refuse", "drop-oldest", "dead-letter"] = "refuse"
    latest: bool = False
    dedup: bool = False

    def check(self) -> None:
        """Raises `Invalid` for values no topic can have."""
        wrong = [
            FieldError(f"$.{name}", "must be greater than 0")
            for name in ("retention", "retention_size", "hard_limit")
            if (value := getattr(self, name)) is not None and value <= 0
        ]
        if wrong:
            raise Invalid(f"topic {self.name!r} cannot be declared so", fields=wrong)


class StoredTopic(msgspec.Struct, frozen=True):
    """How a topic stands in the engine's state, under its id."""

    name: str
    epoch: int
    settings: TopicSettings
    oldest: int = 0
    next: int = 0
    deleted: bool = False  # without a name, kept until no queue holds a message of it
    on_use: bool = False


class TopicInfo(msgspec.Struct, frozen=True):
    """``subscriptions``: names, without those of sessions, of which there may be as many as there are clients."""

    name: str
    epoch: int
    oldest: int
    next: int
    count: int
    size: int
    settings: TopicSettings
    declared: bool
    followers: int
    subscriptions: list[str]


class Topic:
    """``next`` is the offset the next append gets; ``head`` the first one not yet committed; ``oldest`` the first
    still replayable."""

    def __init__(self, id: int, epoch: int, settings: TopicSettings, limits: Limits) -> None:
        self.id = id
        self.name = settings.name
        self.epoch = epoch
        self.next = 0
        self.head = 0
        self.oldest = 0
        self.count = 0
        self.size = 0
        self.uncommitted = 0
        self.appended = 0  # messages since the hub started
        self.dropped = 0
        self.declared = False
        self.on_use = False
        self.deleted = False
        self.admit: Admit | None = None
        self.tail = Run()
        self.bindings: dict[Binding, None] = {}
        self.filtered: KeyIndex[Binding] = KeyIndex()
        self.shown: dict[Binding, None] = {}  # of both those that `info` names
        self.followers: dict[Follower, None] = {}  # live, without a filter
        self.filtering: KeyIndex[Follower] = KeyIndex()
        self.offered = 0  # live readers had their chance at everything below, since the hub started
        self.waiting: list[Callable[[], None]] = []  # long polls, told once
        self.kept = Kept()  # retained messages of a memory topic
        self.retained_keys: set[bytes] = set()
        self.dedup: DedupWindow | None = None
        self.sweep = 0  # where retention looks next
        self.configure(settings, limits)

    def configure(self, settings: TopicSettings, limits: Limits) -> None:
        self.settings = settings
        self.volatile = settings.durability == "memory"
        self.retention = settings.retention or limits.retention
        self.retention_size = settings.retention_size or limits.retention_size
        self.hard_limit = settings.hard_limit or (limits.memory_topic_size if self.volatile else limits.topic_size)

    def __repr__(self) -> str:
        return f"<Topic {self.name} {self.epoch}-0 [{self.oldest}, {self.head})>"

    @property
    def newest_cursor(self) -> Cursor:
        return Cursor(self.epoch, self.head - 1)

    @property
    def oldest_cursor(self) -> Cursor:
        return Cursor(self.epoch, self.oldest - 1)

    def stored(self) -> StoredTopic:
        return StoredTopic(self.name, self.epoch, self.settings, self.oldest, self.head, self.deleted, self.on_use)

    def info(self) -> TopicInfo:
        names = sorted({binding.subscription.name for binding in self.shown})
        followers = len(self.followers) + len(self.filtering)
        return TopicInfo(
            self.name,
            self.epoch,
            self.oldest,
            self.head,
            self.count,
            self.size,
            self.settings,
            self.declared,
            followers,
            names,
        )
