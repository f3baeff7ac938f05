"""All subscriptions of the hub:

made (`Registry`), joined, settled by token, looked into, moved about (docs/promises.md, "Subscriptions").
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Literal

import msgspec

from polywire.core.access import Principal
from polywire.core.dead_letters import DEAD, RETRY, dead_name, original, restored
from polywire.core.errors import NotFound, PolywireError
from polywire.core.message import Flag, Message, Record
from polywire.core.pull import Pull
from polywire.core.redrive import undoing
from polywire.core.registry import Registry
from polywire.core.streams import Start
from polywire.core.subscription import Consumer, ConsumerSink, Delivery, Subscription, SubscriptionInfo

__all__ = ["Peeked", "Subscriptions"]

_PEEK_AT_FIRST, _PEEK_AT_MOST = 16, 512  # messages read at once: more, where they turn out to be small
_PEEK_SIZE = 1 << 20


class Peeked(msgspec.Struct):
    seq: int
    attempts: int
    due: int | None
    state: Literal["ready", "unsettled", "delayed"]
    message: Message


class Subscriptions(Registry):
    """Names are separate for each ``kind``. Kind ``dead`` with a `dead_name` is what died in a subscription."""

    # Consuming

    def consume(
        self,
        principal: Principal,
        name: str,
        sink: ConsumerSink,
        *,
        credit: int | None = None,
        lease: int | None = None,
        size_credit: int | None = None,
        kind: str = "queue",
    ) -> Consumer:
        """Join as a consumer. Raises `NotFound`, `Denied`."""
        subscription, limits = self._owned(principal, name, kind), self._core.limits
        credit = limits.credit if credit is None else credit
        consumer = Consumer(subscription, principal, sink, credit, lease, size_credit or limits.credit_size)
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
        credit = min(max, limits.dispatch_batch)
        consumer = Consumer(subscription, principal, pull, credit, lease or limits.lease, limits.credit_size)
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

    def list(self, principal: Principal, *, kind: str | None = None) -> Sequence[SubscriptionInfo]:
        """Those of a kind that the principal may know of; without one, of all kinds but session, of which there may be
        as many as there are clients. Dead letters are counted with their subscription."""
        kinds = [kind] if kind is not None else [one for one in self._kinds if one != "session"]
        found = [s for one in sorted(kinds) if one != "dead" for s in self.of_kind(one) if self._may(principal, s)]
        return [self._info(s) for s in sorted(found, key=lambda s: (s.settings.kind, s.name))]

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
        self._store(subscription)
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
        self._store(subscription)
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

    def overflowed(self, subscription: Subscription, seq: int, count: int) -> None:
        self._dead_letters.overflowed(subscription, seq, count)

    def dead_letter(self, topic: str, record: Record, reason: str) -> None:
        """For what a wire cannot refuse: keep it, with the reason, among the dead letters of its topic.

        So many a second (`Limits.dead_letter_rate`) as the log has room for; what is more is dropped and counted.
        """
        self._dead_letters.keep(topic, record, reason)

    @property
    def dead_letters_dropped(self) -> int:
        return self._dead_letters.dropped

    async def redrive(
        self,
        principal: Principal,
        name: str,
        *,
        limit: int | None = None,
        seqs: Sequence[int] | None = None,
        kind: str = "queue",
    ) -> int:
        """Give dead letters back to their subscription, each in one commit with its removal. Returns how many."""
        self._owned(principal, name, kind)
        dead = self.find(dead_name(kind, name), "dead")
        return await self._dead_letters.redrive(dead, limit, seqs) if dead is not None else 0


def _peeked(subscription: Subscription, message: Message) -> Peeked:
    extra = subscription.pending.extras.get(message.seq)
    attempts, due = (extra.attempts, extra.due or None) if extra is not None else (0, None)
    return Peeked(message.seq, attempts, due, subscription.state_of(message.seq), message)
