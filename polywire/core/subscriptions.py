"""All subscriptions of the hub:

made, joined, settled by token, looked into, moved about (docs/promises.md, "Subscriptions").
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

import msgspec

from polywire.core.access import Action, Principal
from polywire.core.address import is_pattern
from polywire.core.admission import check_pattern
from polywire.core.bindings import Bindings
from polywire.core.dead_letters import DEAD, RETRY, original, restored
from polywire.core.engine import StateChange
from polywire.core.errors import (
    Conflict,
    Denied,
    FieldError,
    Invalid,
    LimitExceeded,
    NotFound,
    PolywireError,
)
from polywire.core.message import Flag, Message, Record
from polywire.core.pull import Pull
from polywire.core.redrive import DeadLetters, undoing
from polywire.core.replay import Fills, start_text
from polywire.core.routing import FOREVER, Binding, Source
from polywire.core.streams import Latest, Start
from polywire.core.subscription import (
    Consumer,
    ConsumerSink,
    Delivery,
    StoredSubscription,
    Subscription,
    SubscriptionInfo,
    SubscriptionSettings,
)

if TYPE_CHECKING:
    from polywire.core.core import Core

__all__ = ["Peeked", "Subscriptions"]

SUBSCRIPTION_STATE = "subscription"
_LATEST = Latest()
_USED_LAG = 0.05  # of its time to expiry that what is stored of the last use may be behind
_PEEK_AT_FIRST, _PEEK_AT_MOST = 16, 512  # messages read at once: more, where they turn out to be small
_PEEK_SIZE = 1 << 20
_logger = logging.getLogger("polywire.subscriptions")


class Peeked(msgspec.Struct):
    seq: int
    attempts: int
    due: int | None
    state: Literal["ready", "unsettled", "delayed"]
    message: Message


class Subscriptions:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._log = core.log
        self._all: dict[tuple[str, str], Subscription] = {}
        self._next_id = 1
        self._bindings = Bindings(core)
        self._fills = Fills(core, self._state)
        self._dead_letters = DeadLetters(core, self._dead_letters_of)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._all.values())

    # Making and removing

    async def create(
        self, principal: Principal, settings: SubscriptionSettings, start: Start = _LATEST
    ) -> SubscriptionInfo:
        """Make it, or join what is there. Holds what is appended from now on, or from ``start`` on.

        Raises `Invalid`, `Denied` (also where it belongs to somebody else), `NotFound` (a source's topic on a strict
        hub),
        `Conflict` (it exists with other settings), `LimitExceeded`.
        """
        existing = self._all.get((settings.kind, settings.name))
        if existing is not None:
            self._require_owner(principal, existing)
            if existing.settings != settings:
                raise Conflict(
                    f"subscription {settings.name!r} exists with other settings",
                    hint="delete it first, or take another name",
                )
            return self._info(existing)
        self._check(principal, settings)
        subscription = self._make(settings, principal.name, [*settings.sources])
        self._begin_fill(subscription, start)
        self._log.change(self._state(subscription))
        await self._log.committed()
        return self._info(subscription)

    def _check(self, principal: Principal, settings: SubscriptionSettings) -> None:
        _check_name(settings.name)
        if not settings.sources:
            raise Invalid(
                f"subscription {settings.name!r} has no source", fields=[FieldError("$.sources", "at least one source")]
            )
        if len(self._all) >= self._core.limits.subscriptions:
            raise LimitExceeded(f"the hub has its limit of {self._core.limits.subscriptions} subscriptions")
        if settings.attempts is not None and settings.attempts < 1:
            raise Invalid("attempts must be at least 1", fields=[FieldError("$.attempts", "must be at least 1")])
        for source in settings.sources:
            self._check_source(principal, source)
        for source in settings.sources:
            self._ensure_topic(source)

    def _check_source(self, principal: Principal, source: Source) -> None:
        self._core.access.require(principal, Action.SUBSCRIBE, f"{source.topic}.{source.key or '#'}")
        for pattern in (source.topic, source.key):
            check_pattern(pattern, self._core.limits)

    def _ensure_topic(self, source: Source) -> None:
        if not is_pattern(source.topic):
            self._core.catalog.ensure(source.topic)

    def declare(self, settings: SubscriptionSettings, start: Start) -> Subscription:
        """A subscription of the application itself; what changed in its declaration is taken over."""
        _check_name(settings.name)
        existing = self._all.get((settings.kind, settings.name))
        if existing is None:
            subscription = self._make(settings, self._core.access.system.name, [*settings.sources])
            self._begin_fill(subscription, start)
        else:
            subscription = existing
            for binding in [
                b for b in existing.bindings if b.source not in settings.sources and b.source.topic != RETRY
            ]:
                self._bindings.end(binding)
            for source in settings.sources:
                self._add_source(existing, source)
            existing.settings = settings
            existing.owner = self._core.access.system.name
        subscription.declared = True
        self._log.change(self._state(subscription))
        return subscription

    def _make(self, settings: SubscriptionSettings, owner: str, sources: Sequence[Source]) -> Subscription:
        subscription = Subscription(
            self._next_id, settings, owner, self._log, self._write_dead_letter, self._core.clock.now()
        )
        self._next_id += 1
        self._all[settings.kind, settings.name] = subscription
        for source in sources:
            self._bindings.add(subscription, source)
        if settings.kind not in ("dead", "jobs"):
            self._bindings.add(subscription, Source(RETRY, key=settings.name))
        return subscription

    def restore(self, id: int, stored: StoredSubscription) -> Subscription:
        """Take in a subscription found at start."""
        subscription = Subscription(
            id, stored.settings, stored.owner, self._log, self._write_dead_letter, stored.created
        )
        subscription.used = subscription.used_stored = stored.used
        subscription.paused = stored.paused
        subscription.filling = stored.filling
        self._next_id = max(self._next_id, id + 1)
        self._all[stored.settings.kind, stored.settings.name] = subscription
        for binding in stored.bindings:
            self._bindings.restore(subscription, binding)
        return subscription

    async def delete(self, principal: Principal, name: str, kind: str = "queue") -> None:
        """Its pending messages and dead letters go with it.

        Raises `NotFound`, `Denied`, `Conflict` for a declared one.
        """
        subscription = self._owned(principal, name, kind)
        if subscription.declared:
            raise Conflict(
                f"subscription {name!r} is declared by the application", hint="take it out of the application first"
            )
        self._drop(subscription, NotFound(f"subscription {name!r} was deleted"))
        dead = self._all.get(("dead", name)) if kind == "queue" else None
        if dead is not None:
            self._drop(dead, NotFound(f"the dead letters of {name!r} were deleted"))
        await self._log.committed()

    def _drop(self, subscription: Subscription, why: PolywireError) -> None:
        subscription.end(why)
        subscription.deleted = True
        del self._all[subscription.settings.kind, subscription.name]
        self._fills.cancel(subscription)
        for binding in list(subscription.bindings):
            self._bindings.remove(binding)
        transaction = self._log.change(StateChange(SUBSCRIPTION_STATE, str(subscription.id), None))
        transaction.dropped_subscriptions.append(subscription.id)

    def expire(self, now: int) -> None:
        """Remove durable subscriptions that nobody has used for their time, after saying so."""
        for subscription in list(self):
            limit = subscription.settings.expires or self._core.limits.subscription_expires
            if subscription.consumers:
                subscription.used = now
            elif subscription.owner != self._core.access.system.name and now - subscription.used > limit:
                self._core.event(
                    "subscription.expired", subscription=subscription.name, pending=subscription.pending.count
                )
                self._drop(subscription, NotFound(f"subscription {subscription.name!r} expired"))
                continue
            if subscription.used - subscription.used_stored > limit * _USED_LAG:
                self._log.change(self._state(subscription))

    # Sources

    async def bind(self, principal: Principal, name: str, source: Source, kind: str = "queue") -> None:
        subscription = self._owned(principal, name, kind)
        self._check_source(principal, source)
        self._ensure_topic(source)
        self._add_source(subscription, source)
        self._log.change(self._state(subscription))
        await self._log.committed()

    def _add_source(self, subscription: Subscription, source: Source) -> None:
        if all(b.source != source or b.end != FOREVER for b in subscription.bindings):
            self._bindings.add(subscription, source)

    async def unbind(self, principal: Principal, name: str, source: Source, kind: str = "queue") -> None:
        subscription = self._owned(principal, name, kind)
        for binding in [b for b in subscription.bindings if b.source == source]:
            self._bindings.end(binding)
        self._log.change(self._state(subscription))
        await self._log.committed()

    def close_bindings(self, routed: int) -> None:
        """Take away removed sources; called after a checkpoint, which stored that all below ``routed`` is routed."""
        for subscription in self._bindings.close(routed):
            self._log.change(self._state(subscription))

    def topic_made(self, name: str) -> Sequence[Binding]:
        """Sources that take in this new topic."""
        return self._bindings.taking(name)

    # Replay

    def _begin_fill(self, subscription: Subscription, start: Start) -> None:
        if isinstance(start, Latest):
            self._fills.cancel(subscription)
        else:
            self._fills.begin(subscription, start_text(start))

    def resume_fills(self) -> None:
        for subscription in self:
            if subscription.filling is not None and not self._fills.running(subscription):
                self._fills.begin(subscription, subscription.filling)

    async def filled(self) -> None:
        """Wait until every replay has ended."""
        for subscription in list(self):
            await self._fills.ended(subscription)

    def stop_fills(self) -> None:
        self._fills.stop()
        self._dead_letters.stop()

    # Consuming

    def consume(
        self,
        principal: Principal,
        name: str,
        sink: ConsumerSink,
        *,
        credit: int | None = None,
        lease: int | None = None,
        kind: str = "queue",
    ) -> Consumer:
        """Join as a consumer. Raises `NotFound`, `Denied`."""
        subscription = self._owned(principal, name, kind)
        consumer = Consumer(
            subscription, principal, sink, credit if credit is not None else self._core.limits.credit, lease
        )
        consumer.forget = principal.on_revoked(lambda: self._revoked(consumer))
        subscription.join(consumer)
        return consumer

    def _revoked(self, consumer: Consumer) -> None:
        try:
            self._require_owner(consumer.principal, consumer.subscription)
        except PolywireError as error:
            consumer.close()
            consumer.sink.ended(error)

    async def pull(
        self, principal: Principal, name: str, *, max: int, wait: int = 0, lease: int | None = None, kind: str = "queue"
    ) -> list[Delivery]:
        """Up to ``max`` deliveries, each leased for ``lease`` ms; waits up to ``wait`` ms for the first. Maybe none."""
        subscription = self._owned(principal, name, kind)
        pull, limits = Pull(), self._core.limits
        consumer = Consumer(subscription, principal, pull, min(max, limits.dispatch_batch), lease or limits.lease)
        consumer.forget = principal.on_revoked(lambda: self._revoked(consumer))
        return await pull.run(consumer, wait)

    # Settling by token

    async def ack(self, principal: Principal, name: str, tokens: Sequence[str], kind: str = "queue") -> None:
        """After the commit. Raises `NotFound` naming unknown tokens; then none of them is settled."""
        for delivery in self._deliveries(principal, name, tokens, kind):
            delivery.ack()
        await self._log.committed()

    async def nack(
        self, principal: Principal, name: str, tokens: Sequence[str], delay: int | None = None, kind: str = "queue"
    ) -> None:
        for delivery in self._deliveries(principal, name, tokens, kind):
            delivery.nack(delay)
        await self._log.committed()

    async def reject(
        self, principal: Principal, name: str, tokens: Sequence[str], reason: str, kind: str = "queue"
    ) -> None:
        for delivery in self._deliveries(principal, name, tokens, kind):
            delivery.reject(reason)
        await self._log.committed()

    async def extend(
        self, principal: Principal, name: str, tokens: Sequence[str], lease: int, kind: str = "queue"
    ) -> None:
        for delivery in self._deliveries(principal, name, tokens, kind):
            delivery.subscription.lease(delivery, lease)

    def _deliveries(self, principal: Principal, name: str, tokens: Sequence[str], kind: str) -> list[Delivery]:
        subscription = self._owned(principal, name, kind)
        found = [(token, subscription.find(token)) for token in dict.fromkeys(tokens)]
        unknown = [token for token, delivery in found if delivery is None]
        if unknown:
            raise NotFound(
                f"{len(unknown)} of {len(found)} deliveries are not with you: {', '.join(unknown[:3])[:200]}",
                hint="they were settled before, or their lease ran out and they were given to another consumer",
                extra={"unknown": unknown[:100]},
            )
        return [delivery for _, delivery in found if delivery is not None]

    # Looking and moving

    def list(self, principal: Principal) -> Sequence[SubscriptionInfo]:
        """Those the principal may know of; dead letters are counted with their subscription."""
        return [
            self._info(s) for s in sorted(self, key=lambda s: (s.settings.kind, s.name))
            if s.settings.kind != "dead" and self._may(principal, s)
        ]  # fmt: skip

    def info(self, principal: Principal, name: str, kind: str = "queue") -> SubscriptionInfo:
        return self._info(self._owned(principal, name, kind))

    async def peek(
        self, principal: Principal, name: str, *, limit: int = 100, after: int = 0, kind: str = "queue"
    ) -> Sequence[Peeked]:
        """What is pending, by seq, without taking it. May end early for its size: see `peek_page`."""
        return (await self.peek_page(principal, name, limit=limit, after=after, kind=kind))[0]

    async def peek_page(
        self, principal: Principal, name: str, *, limit: int = 100, after: int = 0, kind: str = "queue"
    ) -> tuple[Sequence[Peeked], int | None]:
        """Up to ``limit`` pending messages or about 1 MiB of them, and the seq to go on after; None at the end."""
        subscription = self._owned(principal, name, kind)
        found: list[Peeked] = []
        size, at_once = 0, _PEEK_AT_FIRST
        while len(found) < limit and size < _PEEK_SIZE:
            seqs = [*islice(subscription.pending.from_(after + 1), min(limit - len(found), at_once))]
            if not seqs:
                return found, None
            at_once = min(2 * at_once, _PEEK_AT_MOST) if size < _PEEK_SIZE // 8 else at_once
            for message in map(original, await self._log.fetch(seqs)):
                found.append(_peeked(subscription, message))
                size += message.record.size()
            after = seqs[-1]
        return found, after if subscription.pending.next_from(after + 1) is not None else None

    async def pause(self, principal: Principal, name: str, kind: str = "queue") -> None:
        await self._set_paused(self._owned(principal, name, kind), True)

    async def resume(self, principal: Principal, name: str, kind: str = "queue") -> None:
        subscription = self._owned(principal, name, kind)
        await self._set_paused(subscription, False)
        subscription.pump()

    async def _set_paused(self, subscription: Subscription, paused: bool) -> None:
        subscription.paused = paused
        self._log.change(self._state(subscription))
        await self._log.committed()

    async def purge(self, principal: Principal, name: str, kind: str = "queue") -> int:
        subscription = self._owned(principal, name, kind)
        count = subscription.purge()
        await self._log.committed()
        return count

    async def reset(self, principal: Principal, name: str, start: Start, kind: str = "queue") -> int:
        """Forget what is pending and hold what the log has from ``start`` on. Returns how many are pending then."""
        subscription = self._owned(principal, name, kind)
        subscription.release_all()
        subscription.purge()
        self._begin_fill(subscription, start)
        self._log.change(self._state(subscription))
        await self._fills.ended(subscription)
        await self._log.committed()
        subscription.pump()
        return subscription.pending.count

    async def remove(self, principal: Principal, name: str, seq: int, kind: str = "queue") -> None:
        """Drop one pending message. Raises `NotFound`."""
        subscription = self._owned(principal, name, kind)
        if not subscription.discard(seq):
            raise NotFound(f"message {seq} is not pending in subscription {name!r}")
        await self._log.committed()

    async def move(
        self, principal: Principal, name: str, seq: int, topic: str, key: bytes | None = None, kind: str = "queue"
    ) -> None:
        """Publish a pending message to another topic and drop it here, in one commit. Raises `NotFound`."""
        subscription = self._owned(principal, name, kind)
        messages = await self._log.fetch([seq]) if seq in subscription.pending else []
        if not messages or seq not in subscription.pending:
            raise NotFound(f"message {seq} is not pending in subscription {name!r}")
        message = restored(messages[0]) if messages[0].topic in (DEAD, RETRY) else messages[0]
        record = msgspec.structs.replace(message.record)
        if key is not None:
            record.key = key
        record.flags &= ~(Flag.DEDUP | Flag.RETAINED)
        self._core.post(principal, topic, [record], undoing(subscription, seq))
        subscription.discard(seq)
        await self._log.committed()

    # Dead letters

    def _write_dead_letter(self, delivery: Delivery, reason: str) -> None:
        self._dead_letters.write(delivery, reason)

    def overflowed(self, subscription: Subscription, seq: int, count: int) -> None:
        self._dead_letters.overflowed(subscription, seq, count)

    def dead_letter(self, topic: str, record: Record, reason: str) -> None:
        """For what a wire cannot refuse: keep it, with the reason, among the dead letters of its topic."""
        self._dead_letters.keep(topic, record, reason)

    def _dead_letters_of(self, name: str) -> Subscription:
        existing = self._all.get(("dead", name))
        if existing is not None:
            return existing
        settings = SubscriptionSettings(name=name, sources=[Source(DEAD, key=name)], kind="dead", dead_letters=False)
        self._core.catalog.ensure(DEAD, internal=True)
        subscription = self._make(settings, self._core.access.system.name, settings.sources)
        self._log.change(self._state(subscription))
        return subscription

    async def redrive(
        self, principal: Principal, name: str, *, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> int:
        """Give dead letters back to their subscription, each in one commit with its removal. Returns how many."""
        self._owned(principal, name, "queue")
        dead = self._all.get(("dead", name))
        return await self._dead_letters.redrive(dead, limit, seqs) if dead is not None else 0

    def dead_count(self, name: str) -> int:
        dead = self._all.get(("dead", name))
        return dead.pending.count if dead is not None else 0

    # Finding, and whose it is

    def find(self, name: str, kind: str = "queue") -> Subscription | None:
        return self._all.get((kind, name))

    def _owned(self, principal: Principal, name: str, kind: str) -> Subscription:
        """The subscription, if it is the principal's own or it may manage that name. Raises `NotFound`, `Denied`."""
        queue = self._all.get(("queue", name))
        if kind == "dead" and queue is not None:
            self._require_owner(principal, queue)
            return self._dead_letters_of(name)
        subscription = self._all.get((kind, name))
        if subscription is None:
            raise NotFound(f"no subscription {name[:250]!r}", hint="polywire subscriptions lists them")
        self._require_owner(principal, subscription)
        return subscription

    def _require_owner(self, principal: Principal, subscription: Subscription) -> None:
        if not self._may(principal, subscription):
            if principal.kind == "anonymous":
                self._core.access.require(principal, Action.MANAGE, subscription.name)
            raise Denied(
                f"{principal.name!r} may not use subscription {subscription.name!r} of {subscription.owner!r}",
                hint=f"grant it manage:{subscription.name}",
            )

    def _may(self, principal: Principal, subscription: Subscription) -> bool:
        own = principal.active and principal.name == subscription.owner and principal.kind != "anonymous"
        return own or self._core.access.allows(principal, Action.MANAGE, subscription.name)

    def _state(self, subscription: Subscription) -> StateChange:
        subscription.used_stored = subscription.used
        value = msgspec.msgpack.encode(subscription.to_store()) if subscription.stored else None
        return StateChange(SUBSCRIPTION_STATE, str(subscription.id), value)

    def state(self, subscription: Subscription) -> StateChange:
        return self._state(subscription)

    def _info(self, subscription: Subscription) -> SubscriptionInfo:
        return subscription.info(self.dead_count(subscription.name) if subscription.settings.kind == "queue" else 0)


def _peeked(subscription: Subscription, message: Message) -> Peeked:
    extra = subscription.pending.extras.get(message.seq)
    attempts, due = (extra.attempts, extra.due or None) if extra is not None else (0, None)
    return Peeked(message.seq, attempts, due, subscription.state_of(message.seq), message)


def _check_name(name: str) -> None:
    if not name or len(name) > 250 or not name.isprintable() or is_pattern(name):
        raise Invalid(
            "a subscription's name has 1 to 250 printable characters and no wildcard",
            fields=[FieldError("$.name", "not a name")],
        )
