"""Dead letters:

how they are written in the commit that settles, and how they are given back (docs/promises.md, "Subscriptions").
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from polywire.core.dead_letters import DEAD, RETRY, dead_letter, dead_name, unrefusable
from polywire.core.delivery import Consumer, Delivery
from polywire.core.errors import LimitExceeded, PolywireError
from polywire.core.message import Record
from polywire.core.pull import Pull
from polywire.core.rate import Rate
from polywire.core.subscription import Subscription

if TYPE_CHECKING:
    from polywire.core.core import Core

__all__ = ["DeadLetters", "undoing"]

_AT_ONCE = 256
_WARN_EVERY = 60_000  # ms
_logger = logging.getLogger("polywire.subscriptions")


class DeadLetters:
    """``of(dead_name)`` is the subscription of kind ``dead`` that holds the dead letters of a subscription.

    ``dropped``: what no wire could refuse, and was too much to be kept.
    """

    def __init__(self, core: Core, of: Callable[[str], Subscription]) -> None:
        self._core = core
        self._of = of
        self._rate = Rate(core.limits.dead_letter_rate)
        self._warned = 0
        self.dropped = 0
        self._burials: set[asyncio.Task[None]] = set()

    def write(self, delivery: Delivery, reason: str) -> None:
        """Put a copy into the topic of dead letters, in the transaction that settles the delivery."""
        subscription, message = delivery.subscription, delivery.message
        if message.topic == DEAD:
            # A reader of dead letters cannot take one. It is still among those of its subscription: the cycle ends.
            subscription.dropped += 1
            _logger.error("subscription %s cannot take dead letter %s: dropped", subscription.name, message.position)
            return
        record = dead_letter(delivery, reason, self._core.clock.now())
        self._of(dead_name(subscription.settings.kind, subscription.name))
        self._core.publishing.internal(
            DEAD, [record], lambda error: subscription.undo(delivery) if error is not None else None
        )

    def keep(self, topic: str, record: Record, reason: str) -> None:
        """What a wire could not refuse, with the reason, among the dead letters of its topic."""
        now = self._core.clock.now()
        copy = unrefusable(topic, record, reason, now)
        try:
            if not self._rate.allows(now):
                raise LimitExceeded(f"the hub keeps its limit of {self._core.limits.dead_letter_rate} a second")
            self._core.publishing.internal(DEAD, [copy], None, refusable=True)
        except PolywireError as error:
            self.dropped += 1
            if now - self._warned >= _WARN_EVERY:
                self._warned = now
                _logger.warning("what topic %s could not take (%s) is dropped, not kept: %s", topic, reason, error)

    def overflowed(self, subscription: Subscription, seq: int, count: int) -> None:
        """The topic is at its hard limit: what this subscription holds of the run becomes dead letters."""
        if not subscription.pending.holds(seq, count):
            return
        if not subscription.settings.dead_letters:
            subscription.forget(seq, count)
            return
        seqs = [held for held in subscription.pending.from_(seq) if held < seq + count]
        task = asyncio.get_running_loop().create_task(self._bury(subscription, seqs))
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _bury(self, subscription: Subscription, seqs: Sequence[int]) -> None:
        nobody = Consumer(subscription, self._core.access.system, Pull(), 0, None, 0)
        try:
            messages = await self._core.log.fetch(seqs)
        except PolywireError as error:
            _logger.warning("subscription %s: no dead letters for now: %s", subscription.name, error)
            return
        for message in messages:
            if message.seq in subscription.pending:
                delivery = Delivery(subscription, nobody, message, 0, self._core.clock.now())
                self.write(delivery, "its topic reached its hard limit")
                subscription.forget(message.seq, 1)

    def stop(self) -> None:
        for task in self._burials:
            task.cancel()

    async def redrive(self, dead: Subscription, limit: int | None, seqs: Sequence[int] | None) -> int:
        """Give them back, each in one commit with its removal. Returns how many."""
        self._core.catalog.ensure(RETRY, internal=True)
        wanted = [*islice(dead.pending.from_(0), limit)] if seqs is None else [s for s in seqs if s in dead.pending]
        redriven = 0
        for first in range(0, len(wanted), _AT_ONCE):
            for message in await self._core.log.fetch(sorted(wanted[first : first + _AT_ONCE])):
                if message.seq in dead.pending:
                    self._core.publishing.internal(RETRY, [message.record], undoing(dead, message.seq))
                    dead.discard(message.seq)
                    redriven += 1
            await self._core.log.committed()
        return redriven


def undoing(subscription: Subscription, seq: int) -> Callable[[PolywireError | None], None]:
    """What went elsewhere in a commit that failed is pending here again."""

    def told(error: PolywireError | None) -> None:
        if error is not None:
            subscription.restore(seq)

    return told
