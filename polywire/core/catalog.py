"""The topics there are, by name:

found, made, declared, restored, dropped; and the epochs of every name there ever was.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from polywire.core.address import is_pattern, is_reserved, legal_topic, require_topic
from polywire.core.engine import StateChange
from polywire.core.errors import Conflict, Invalid, LimitExceeded, NotFound
from polywire.core.limits import Limits
from polywire.core.log import Log
from polywire.core.routing import Source
from polywire.core.topics import Admit, StoredTopic, Topic, TopicSettings

if TYPE_CHECKING:
    from polywire.core.routing import Binding

__all__ = ["ON_USE_RESERVED", "TOPIC_STATE", "Catalog"]

TOPIC_STATE = "topic"
EPOCH_STATE = "epoch"
ON_USE_RESERVED = frozenset({"default", "_other"})
"""Reserved names that come to be by use: a WebSocket on ``/``, and what no wire's name fits."""
_logger = logging.getLogger("polywire.catalog")


class Catalog:
    """``strict``: names are declared or created, never made on use."""

    def __init__(self, log: Log, limits: Limits, *, strict: bool) -> None:
        self.strict = strict
        self.refused_on_use = 0
        self.bindings_of: Callable[[str], Sequence[Binding]] = lambda _name: ()
        """The sources of subscriptions that take in a topic of this name."""
        self._log = log
        self._limits = limits
        self._names: dict[str, Topic] = {}
        self._nameless: dict[int, Topic] = {}  # deleted, and held by a queue
        self._epochs: dict[str, int] = {}
        self._next_id = 1
        self._on_use = 0

    def __iter__(self) -> Iterator[Topic]:
        """In order of names."""
        return iter([topic for _, topic in sorted(self._names.items())])

    def get(self, name: str) -> Topic | None:
        return self._names.get(name)

    def existing(self, name: str) -> Topic:
        """Raises `NotFound`, with the nearest name as a hint."""
        topic = self._names.get(name)
        if topic is None:
            raise self._unknown(name)
        return topic

    def ensure(self, name: str, *, internal: bool = False) -> Topic:
        """The topic, made on use where that is allowed. Raises `Invalid`, `NotFound`, `LimitExceeded`."""
        topic = self._names.get(name)
        if topic is not None:
            return topic
        if internal:
            retention = self._limits.dead_letter_retention if name == "_dead" else None
            return self.make(TopicSettings(name, retention=retention))
        if name not in ON_USE_RESERVED and (not legal_topic(name) or is_reserved(name)):
            require_topic(name)
            raise Invalid(f"the topic name {name!r} is reserved")
        if self.strict:
            raise self._unknown(name)
        if self._on_use >= self._limits.topics_on_use:
            self.refused_on_use += 1
            _logger.warning("topic %s was not made on use: there are %d already", name, self._on_use)
            raise LimitExceeded(
                f"the hub makes at most {self._limits.topics_on_use} topics on use", hint="declare it, or delete some"
            )
        topic = self.make(TopicSettings(name), on_use=True)
        self._on_use += 1
        return topic

    def _unknown(self, name: str) -> NotFound:
        near = difflib.get_close_matches(name[:250], [n for n in self._names if not n.startswith("_")], 1)
        hint = f"did you mean {near[0]!r}?" if near else "declare it, or create it with PUT /topics/NAME"
        return NotFound(f"no topic {name[:250]!r}", hint=hint)

    def declare(self, settings: TopicSettings, admit: Admit | None) -> None:
        """What the application says of a topic holds from now on. Raises `Conflict` for another durability."""
        topic = self._names.get(settings.name)
        if topic is None:
            topic = self.make(settings)
        elif topic.settings.durability != settings.durability:
            held, wanted = topic.settings.durability, settings.durability
            raise Conflict(
                f"topic {settings.name!r} is {held} in the data folder and declared {wanted}",
                hint="delete the topic first, or declare it under another name",
            )
        elif topic.settings != settings:
            topic.configure(settings, self._limits)
            self._log.change(self.state(topic))
        self._on_use -= topic.on_use
        topic.on_use = False
        topic.declared = True
        topic.admit = admit

    def make(self, settings: TopicSettings, *, on_use: bool = False) -> Topic:
        """A new incarnation of the name, in the next commit. Raises `LimitExceeded`; the hub's own are always made."""
        if len(self._names) >= self._limits.topics and not settings.name.startswith("_"):
            raise LimitExceeded(f"the hub has its limit of {self._limits.topics} topics", hint="delete some")
        epoch = self._epochs.get(settings.name, 0) + 1
        topic = Topic(self._next_id, epoch, settings, self._limits)
        topic.on_use = on_use
        self._next_id += 1
        self._epochs[settings.name] = epoch
        self._log.change(self.state(topic), StateChange(EPOCH_STATE, settings.name, str(epoch).encode()))
        self._place(topic)
        return topic

    def _place(self, topic: Topic) -> None:
        self._log.by_id[topic.id] = topic
        if topic.deleted:
            self._nameless[topic.id] = topic
        else:
            self._names[topic.name] = topic
        for binding in self.bindings_of(topic.name):
            binding.attach(topic)

    def restore(self, id: int, stored: StoredTopic, epoch: int) -> Topic:
        """Take in a topic found at start, in this epoch."""
        topic = Topic(id, epoch, stored.settings, self._limits)
        topic.deleted = stored.deleted
        topic.on_use = stored.on_use
        self._on_use += stored.on_use and not stored.deleted
        self._next_id = max(self._next_id, id + 1)
        self._place(topic)
        return topic

    def restore_epoch(self, name: str, epoch: int) -> None:
        self._epochs[name] = epoch

    def last_epoch(self, name: str) -> int:
        return self._epochs.get(name, 0)

    def of(self, source: Source, *, deleted: bool = False) -> list[Topic]:
        """The topics a source takes in, now; with ``deleted`` also those that have lost their name."""
        if is_pattern(source.topic):
            found = [topic for name, topic in self._names.items() if source.takes_topic(name)]
        else:
            exact = self._names.get(source.topic)
            found = [exact] if exact is not None else []
        if deleted:
            found += [topic for topic in self._nameless.values() if source.takes_topic(topic.name)]
        return found

    def state(self, topic: Topic) -> StateChange:
        return StateChange(TOPIC_STATE, str(topic.id), msgspec.msgpack.encode(topic.stored()))

    def unname(self, topic: Topic) -> None:
        """Take away the name; the topic stays, nameless, until `drop`."""
        del self._names[topic.name]
        self._nameless[topic.id] = topic
        topic.deleted = True
        self._on_use -= topic.on_use
        self._log.change(self.state(topic))

    def drop(self, topic: Topic) -> None:
        """Nothing holds a message of this deleted topic any more: its log goes."""
        transaction = self._log.change(StateChange(TOPIC_STATE, str(topic.id), None))
        transaction.dropped_topics.append(topic.id)
        self._nameless.pop(topic.id, None)
        self._log.forget_topic(topic)
