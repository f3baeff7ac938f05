"""What a subscription is asked for, and what its consumers get:

settings, deliveries, consumers (docs/promises.md, "Subscriptions").
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from polywire.core.dead_letters import original
from polywire.core.errors import PolywireError
from polywire.core.message import Message
from polywire.core.routing import Source, StoredBinding

if TYPE_CHECKING:
    from polywire.core.access import Principal
    from polywire.core.subscription import Subscription

__all__ = [
    "Backoff",
    "Consumer",
    "ConsumerSink",
    "Delivery",
    "Kind",
    "StoredSubscription",
    "SubscriptionInfo",
    "SubscriptionSettings",
]

_tokens = itertools.count(random.SystemRandom().getrandbits(40))

Kind = Literal["queue", "group", "session", "share", "webhook", "dead", "jobs"]


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long until the next attempt: ``first * factor ** (attempt - 1)`` ms, at most ``max``, give or take
    ``jitter`` of it."""

    first: int = 1_000
    factor: float = 2.0
    max: int = 600_000
    jitter: float = 0.1

    def delay(self, attempts: int) -> int:
        delay = min(self.first * self.factor ** min(attempts - 1, 64), self.max)
        return int(delay * (1 + random.uniform(-self.jitter, self.jitter)))  # noqa: S311 - spreads load, guards nothing


class SubscriptionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times in ms. ``attempts`` None: no cap. ``backoff`` None: a nack requeues at once, at the original place.

    ``expires``: unused for so long it is removed; 0: never; None: the hub's limit, and never for those of kinds session
    and share, which their wire removes. ``offline_limit``: while no consumer is there and so many messages are pending,
    new ones are not held, and counted as dropped.
    """

    name: str
    sources: list[Source]
    kind: Kind = "queue"
    ordered: bool = False
    attempts: int | None = None
    backoff: Backoff | None = None
    ack_timeout: int | None = None
    expires: int | None = None
    durable: bool = True
    dead_letters: bool = True
    offline_limit: int | None = None


class StoredSubscription(msgspec.Struct, frozen=True):
    """How a subscription stands in the engine's state, under its id. ``filling``: its replay had not ended."""

    settings: SubscriptionSettings
    owner: str
    bindings: list[StoredBinding]
    created: int
    used: int
    paused: bool = False
    filling: str | None = None


class SubscriptionInfo(msgspec.Struct, frozen=True):
    name: str
    kind: str
    sources: list[Source]
    owner: str
    pending: int
    unsettled: int
    delayed: int
    dead: int
    oldest_unsettled: int | None
    """Age in ms of the delivery that has been with its consumer the longest."""
    paused: bool
    filling: bool
    consumers: int
    delivered: int
    acked: int
    returned: int
    dropped: int
    """Messages given up: beyond the offline limit, expired, past what their topic may hold, or rejected where there are
    no dead letters."""
    settings: SubscriptionSettings


class Delivery:
    """One message handed to one consumer. Settle it once; later calls are ignored and return False."""

    __slots__ = ("attempt", "consumer", "deadline", "message", "redelivered", "since", "size", "subscription", "token")

    def __init__(
        self, subscription: Subscription, consumer: Consumer, message: Message, attempts: int, now: int
    ) -> None:
        self.subscription = subscription
        self.consumer = consumer
        self.message = original(message)
        self.size = self.message.record.size()
        self.attempt = attempts + 1
        self.redelivered = attempts > 0 or message.seq in subscription.redelivered
        self.since = now
        self.deadline: int | None = None
        self.token = f"{message.seq}-{next(_tokens):x}"

    @property
    def seq(self) -> int:
        return self.message.seq

    def ack(self) -> bool:
        return self.subscription.ack(self)

    def nack(self, delay: int | None = None) -> bool:
        """Again: after ``delay`` ms, or as the subscription's backoff says. Past the attempts cap: a dead letter."""
        return self.subscription.nack(self, delay)

    def reject(self, reason: str) -> bool:
        """To the dead letters."""
        return self.subscription.reject(self, reason)

    def release(self) -> bool:
        """Back as if it had not been delivered: no attempt is counted."""
        return self.subscription.release(self)


class ConsumerSink(Protocol):
    def deliver(self, deliveries: Sequence[Delivery]) -> None: ...

    def ended(self, error: PolywireError) -> None:
        """The subscription was deleted, the right revoked, or the hub stops. What is unsettled has been returned."""
        ...


class Consumer:
    """A taker with credit: it never holds more than ``credit`` unsettled deliveries, nor more than one beyond
    ``size_credit`` bytes of them."""

    def __init__(
        self,
        subscription: Subscription,
        principal: Principal,
        sink: ConsumerSink,
        credit: int,
        lease: int | None,
        size_credit: int,
    ) -> None:
        self.subscription = subscription
        self.principal = principal
        self.sink = sink
        self.credit = credit
        self.size_credit = size_credit
        self.lease = lease
        self.unsettled = 0
        self.unsettled_size = 0
        self.closed = False
        self.forget: Callable[[], None] | None = None

    @property
    def room(self) -> int:
        return self.credit - self.unsettled if self.unsettled_size < self.size_credit else 0

    def grant(self, credit: int) -> None:
        """Change the credit; more room is used at once."""
        self.credit = credit
        self.subscription.pump()

    def close(self) -> None:
        """Leave; what is unsettled is returned and not counted as an attempt."""
        self.subscription.leave(self)
