"""One queue-mode subscription while it runs: what is pending, who takes it, how it is settled (docs/promises.md,
"Subscriptions").

A pending message is in exactly one of these places:

    ahead      at or after ``_cursor``: nobody has looked at it yet; the bitmap of `Pending` says which there are
    fetched    taken from the log, waiting for a consumer's credit
    unsettled  with a consumer, as a `Delivery`
    delayed    not before its due time
    parked     (ordered only) behind an unsettled message of the same key
    returned   to be delivered again, before anything ahead

Only the bitmap, attempts and due times are stored; after a restart everything else is "ahead" again.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from polywire.core.dead_letters import RETRY, original
from polywire.core.delivery import (
    Backoff,
    Consumer,
    ConsumerSink,
    Delivery,
    StoredSubscription,
    SubscriptionInfo,
    SubscriptionSettings,
)
from polywire.core.errors import PolywireError
from polywire.core.message import Message
from polywire.core.pending import Extra, Pending
from polywire.core.routing import FOREVER, Binding
from polywire.core.turns import KeyTurns

if TYPE_CHECKING:
    from polywire.core.clock import Timer
    from polywire.core.log import Log

__all__ = [
    "Backoff",
    "Consumer",
    "ConsumerSink",
    "Delivery",
    "StoredSubscription",
    "Subscription",
    "SubscriptionInfo",
    "SubscriptionSettings",
]

_logger = logging.getLogger("polywire.subscriptions")
_DEAD_LETTER_RETRY = 5_000  # ms
_READ_SIZE = 1 << 20
_READ_AT_FIRST = 16
_TURN = 1_024  # deliveries handed out in one turn of the loop
_NOTHING: deque[Message] = deque(maxlen=0)  # in place of one of its own: an empty one takes 760 bytes

DeadLetter = Callable[["Delivery", str], None]


class Subscription:
    __slots__ = (  # there may be a hundred thousand
        "_at_once", "_cursor", "_dead_letter", "_deadlines", "_due", "_fetched", "_fetching", "_leases", "_log",
        "_pumping", "_reading", "_returned", "_rewound", "_timer", "_timer_at", "_turn", "_turns", "_unsettled",
        "acked", "bindings", "consumers", "created", "declared", "deleted", "delivered", "dropped", "filling", "id",
        "name", "owner", "paused", "pending", "redelivered", "returns", "settings", "through", "used", "used_stored",
    )  # fmt: skip

    def __init__(
        self, id: int, settings: SubscriptionSettings, owner: str, log: Log, dead_letter: DeadLetter, now: int
    ) -> None:
        self.id = id
        self.settings = settings
        self.name = settings.name
        self.owner = owner
        self.created = now
        self.used = now
        self.used_stored = 0
        self.pending = Pending()
        self.bindings: list[Binding] = []
        self.through = 0  # recovery: routing is reflected below this seq
        self.paused = False
        self.filling: str | None = None
        self.deleted = False
        self.declared = False  # by the application that runs
        self.consumers: list[Consumer] = []
        self.redelivered: set[int] = set()
        self.delivered = self.acked = self.returns = self.dropped = 0
        self._log = log
        self._dead_letter = dead_letter
        self._cursor = 0
        self._fetched = _NOTHING
        self._unsettled: dict[int, Delivery] = {}
        self._returned: list[int] = []
        self._due: list[tuple[int, int]] = []
        self._deadlines: list[tuple[int, int, Delivery]] = []  # moment, a number that decides ties, whose
        self._leases = itertools.count()
        self._turns = KeyTurns()
        self._fetching = False
        self._at_once = min(_READ_AT_FIRST, log.limits.dispatch_batch)
        self._rewound = 0
        self._reading: asyncio.Task[None] | None = None
        self._pumping = False
        self._turn = 0
        self._timer: Timer | None = None
        self._timer_at = 0

    def __repr__(self) -> str:
        return f"<Subscription {self.settings.kind} {self.name} pending={self.pending.count}>"

    @property
    def stored(self) -> bool:
        return self.settings.durable and not self.deleted

    @property
    def busy(self) -> bool:
        """Whether its consumers still have something to do now: what is due, fetched or unsettled."""
        if self.paused or not self.consumers:
            return False
        now = self._log.clock.now()
        return self.pending.count > sum(1 for extra in self.pending.extras.values() if extra.due > now)

    # What routing and recovery do

    def hold(self, seq: int, count: int, *, volatile: bool = False) -> None:
        """These are pending from now on. Numbers behind the cursor are delivered first."""
        if seq < self._cursor:
            for number in range(seq, min(seq + count, self._cursor)):
                if number not in self.pending:
                    self._return(number)
        self.pending.add_range(seq, count, volatile=volatile)
        self._log.holding[self] = None

    @property
    def away(self) -> bool:
        """Whether no consumer is there, and there is a limit for that time."""
        return self.settings.offline_limit is not None and not self.consumers

    def hold_while_away(self, seqs: Sequence[int], *, volatile: bool = False) -> bool:
        """As `hold`, up to the limit; the newest are dropped. Whether any was held."""
        room = max(0, (self.settings.offline_limit or 0) - self.pending.count)
        fresh = [seq for seq in seqs if seq not in self.pending]
        for seq in fresh[:room]:
            self.hold(seq, 1, volatile=volatile)
        self.dropped += len(fresh[room:])
        return bool(fresh[:room])

    def forget(self, seq: int, count: int) -> int:
        """These are gone from the log or expired: no longer pending, nor delivered again. Returns how many were."""
        removed = self.pending.discard_range(seq, count)
        self.dropped += removed
        if removed:
            self._gone(range(seq, seq + count))
            self._log.settled(self)
            self.pump_soon()
        return removed

    def _gone(self, seqs: Sequence[int]) -> None:
        """These left the list without being settled: nothing may wait for them."""
        if self.redelivered:
            self.redelivered.difference_update(seqs)
        if self.settings.ordered:
            for key, seq in self._turns.keys_of(seqs):
                if seq not in self._unsettled:
                    self._free(key)

    def load(self, chunk: int, through: int, bits: bytes, extras: bytes) -> None:
        self.pending.load(chunk, bits, extras)
        self._log.holding[self] = None
        self.through = max(self.through, through)

    def _return(self, seq: int) -> None:
        """To be looked at before anything ahead; from the cursor on it is ahead already."""
        if seq < self._cursor:
            heapq.heappush(self._returned, seq)

    def begin(self) -> None:
        """After recovery: arm the timer of what is delayed."""
        now = self._log.clock.now()
        for seq, extra in self.pending.extras.items():
            if extra.due > now:
                heapq.heappush(self._due, (extra.due, seq))
        self._arm()

    # Consumers

    def join(self, consumer: Consumer) -> None:
        self.consumers.append(consumer)
        self.pump()

    def leave(self, consumer: Consumer) -> None:
        if consumer.closed:
            return
        consumer.closed = True
        if consumer.forget is not None:
            consumer.forget()
        if consumer in self.consumers:
            self.consumers.remove(consumer)
        for delivery in [d for d in self._unsettled.values() if d.consumer is consumer]:
            self.release(delivery)
        self.used = self._log.clock.now()

    def retire(self, consumer: Consumer) -> None:
        """It takes nothing any more; what it holds stays leased."""
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.used = self._log.clock.now()
            if consumer.forget is not None:
                consumer.forget()

    def end(self, error: PolywireError) -> None:
        """Every consumer leaves and is told why."""
        for consumer in list(self.consumers):
            self.leave(consumer)
            consumer.sink.ended(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Delivering

    def pump(self) -> None:
        """Hand out what is ready to consumers that have room."""
        if self._pumping or self.paused or self.filling is not None or self.deleted:
            return
        self._pumping = True
        left, turn = _TURN, self._turn
        try:
            while left > 0 and (consumer := self._next_consumer()) is not None:
                most = min(consumer.room, self._log.limits.dispatch_batch)
                batch = self._ready(most, consumer.size_credit - consumer.unsettled_size)
                if not batch:
                    self._turn = turn  # it was not served: with two consumers, each message would go to the same one
                    break
                self._hand_over(consumer, batch)
                left, turn = left - len(batch), self._turn
        finally:
            self._pumping = False
        if left <= 0:
            self.pump_soon()

    def _next_consumer(self) -> Consumer | None:
        """Round robin over those with room."""
        count = len(self.consumers)
        for step in range(count):
            consumer = self.consumers[(self._turn + step) % count]
            if consumer.room > 0:
                self._turn = (self._turn + step + 1) % count
                return consumer
        return None

    def _ready(self, limit: int, size: int) -> list[Message]:
        """Up to ``limit`` messages or about ``size`` bytes to deliver now. If they must be read first, a read is begun
        and they come later."""
        ready: list[Message] = []
        # While a read is under way, what it brings may belong before what is here.
        while len(ready) < limit and size > 0 and not self._fetching:
            if self._returned or not self._fetched:
                self._refill(limit - len(ready))
                if self._must_wait():
                    break
            message = self._fetched.popleft()
            if not (ready and ready[-1].seq == message.seq) and self._may_deliver(message):
                ready.append(message)
                size -= message.record.size()
        return ready

    def _may_deliver(self, message: Message) -> bool:
        seq = message.seq
        if seq not in self.pending or seq in self._unsettled:
            return False
        expires = message.record.expires
        if expires is not None and expires <= self._log.clock.now():
            self.forget(seq, 1)
            return False
        if self.settings.ordered and not self._turns.take(message.record.key, seq):
            return False
        extra = self.pending.extras.get(seq) if self.pending.extras else None
        return extra is None or extra.due <= self._log.clock.now()

    def _must_wait(self) -> bool:
        return self._fetching or not self._fetched

    def _refill(self, wanted: int) -> None:
        """Fill ``_fetched`` with what comes next, or begin to read it."""
        seqs = self._take(min(wanted, self._at_once))
        if not seqs:
            return
        found, missing = self._log.lookup(seqs)
        if missing:
            # What is in memory waits with what is not, so that the order stays; and one read serves several turns.
            more = self._take(self._at_once - len(seqs)) if not self._returned else []
            self._fetching = True
            self._reading = asyncio.get_running_loop().create_task(self._fetch(sorted(seqs + more), self._rewound))
        else:
            self._put(found)

    def _put(self, found: Sequence[Message]) -> None:
        """Returned messages go before what was fetched ahead of their return."""
        shown = [original(message) for message in found]
        if self._fetched and shown and shown[0].seq < self._fetched[-1].seq:
            self._fetched = deque(sorted([*shown, *self._fetched], key=lambda message: message.seq))
        elif self._fetched:
            self._fetched.extend(shown)
        else:
            self._fetched = deque(shown)

    def _take(self, limit: int) -> list[int]:
        taken: list[int] = []
        while len(taken) < limit and self._returned:
            seq = heapq.heappop(self._returned)
            if seq in self.pending and seq not in self._unsettled and not (taken and taken[-1] == seq):
                taken.append(seq)
        if taken:
            return taken
        if self._turns.waiting >= self._log.limits.parked:
            return taken
        # An ordered subscription needs the key of what is delayed: others of that key wait behind it.
        extras = self.pending.extras if not self.settings.ordered else None
        now = self._log.clock.now() if extras else 0
        for seq in self.pending.from_(self._cursor):
            self._cursor = seq + 1
            if seq in self._unsettled or (extras and (extra := extras.get(seq)) is not None and extra.due > now):
                continue
            taken.append(seq)
            if len(taken) >= limit:
                break
        return taken

    async def _fetch(self, seqs: list[int], rewound: int) -> None:
        try:
            found = await self._log.fetch(seqs)
        except Exception:
            _logger.exception("subscription %s: reading pending messages failed; tried again in a second", self.name)
            for seq in seqs:
                self._return(seq)
            self._fetching = False
            self._log.clock.call_at(self._log.clock.now() + 1_000, self.pump)
            return
        self._fetching = False
        if rewound != self._rewound:  # they are looked up again
            self.pump()
            return
        self._learn(found)
        have = {message.seq for message in found}
        for seq in seqs:
            if seq not in have:
                self.forget(seq, 1)
        self._put(found)
        self.pump()

    def _learn(self, found: Sequence[Message]) -> None:
        """Read as many at once as take about `_READ_SIZE`: how large they are shows when they are here."""
        size = sum(message.record.size() for message in found)
        if size > _READ_SIZE:
            self._at_once = max(1, len(found) * _READ_SIZE // size)
        elif size < _READ_SIZE // 2:
            self._at_once = min(2 * self._at_once, self._log.limits.dispatch_batch)

    async def fetched(self) -> None:
        """Wait for the read that is under way, if there is one."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _hand_over(self, consumer: Consumer, messages: Sequence[Message]) -> None:
        now = self._log.clock.now()
        extras = self.pending.extras
        deliveries: list[Delivery] = []
        for message in messages:
            extra = extras.get(message.seq) if extras else None
            delivery = Delivery(self, consumer, message, extra.attempts if extra else 0, now)
            self._unsettled[message.seq] = delivery
            deliveries.append(delivery)
            lease = consumer.lease or self.settings.ack_timeout
            if lease is not None:
                self.lease(delivery, lease)
        consumer.unsettled += len(deliveries)
        consumer.unsettled_size += sum([delivery.size for delivery in deliveries])
        self.delivered += len(deliveries)
        try:
            consumer.sink.deliver(deliveries)
        except Exception:
            _logger.exception("subscription %s: a consumer failed and is taken off", self.name)
            self.leave(consumer)

    # Settling

    def find(self, token: str) -> Delivery | None:
        seq, _, _ = token.partition("-")
        delivery = self._unsettled.get(int(seq)) if seq.isascii() and seq.isdecimal() and len(seq) < 20 else None
        return delivery if delivery is not None and delivery.token == token else None

    def _close(self, delivery: Delivery) -> bool:
        """Take the delivery from its consumer. False if it was settled or returned before."""
        if self._unsettled.get(delivery.seq) is not delivery:
            return False
        del self._unsettled[delivery.seq]
        delivery.consumer.unsettled -= 1
        delivery.consumer.unsettled_size -= delivery.size
        return True

    def ack(self, delivery: Delivery) -> bool:
        if not self._close(delivery):
            return False
        self.acked += 1
        self._done(delivery)
        return True

    def _done(self, delivery: Delivery) -> None:
        """It is no longer pending, in the next commit."""
        seq = delivery.seq
        self.pending.discard(seq)
        self.redelivered.discard(seq)
        self._log.settled(self)
        self._unpark(delivery)
        if self.consumers and (self._fetched or self._returned or self.pending.count > len(self._unsettled)):
            self.pump_soon()

    def _unpark(self, delivery: Delivery) -> None:
        key = delivery.message.record.key
        if self.settings.ordered and self._turns.holds(key, delivery.seq):
            self._free(key)

    def _free(self, key: bytes | None) -> None:
        following = self._turns.free(key, lambda seq: seq in self.pending and seq not in self._unsettled)
        if following is not None:
            self._return(following)

    def undo(self, delivery: Delivery) -> None:
        """The commit that carried this settlement failed."""
        self.restore(delivery.seq, attempts=delivery.attempt - 1)

    def restore(self, seq: int, *, attempts: int = 0) -> None:
        """The commit that took it off the list failed: it is pending again, and delivered again in a while."""
        batch = self._log.volatile.find(seq)
        self.pending.add(seq, volatile=batch is not None and seq < batch.seq + len(batch))
        self._log.holding[self] = None
        if attempts:
            self.pending.extras[seq] = Extra(attempts)
        self.redelivered.add(seq)
        self._return(seq)
        self._log.settled(self)
        self._log.clock.call_at(self._log.clock.now() + 1_000, self.pump)

    def nack(self, delivery: Delivery, delay: int | None = None) -> bool:
        cap = self.settings.attempts
        if cap is not None and delivery.attempt >= cap:
            return self.reject(delivery, f"gave up after {delivery.attempt} attempts")
        if not self._close(delivery):
            return False
        if self._left(delivery):
            return True
        backoff = self.settings.backoff
        if delay is None:
            delay = backoff.delay(delivery.attempt) if backoff is not None else 0
        self._again(delivery.seq, delivery.attempt, delay)
        return True

    def _again(self, seq: int, attempts: int, delay: int) -> None:
        due = self._log.clock.now() + delay if delay > 0 else 0
        self.returns += 1
        self.pending.extras[seq] = Extra(attempts, due)
        self.pending.touch(seq)
        if due:
            heapq.heappush(self._due, (due, seq))
            self._arm()
        else:
            self._return(seq)
        self._log.settled(self)
        self.pump_soon()

    def _left(self, delivery: Delivery) -> bool:
        """Whether it expired or was dropped while its consumer had it: nothing is left to give back."""
        if delivery.seq in self.pending:
            return False
        self._unpark(delivery)
        self.pump_soon()
        return True

    def release(self, delivery: Delivery) -> bool:
        if not self._close(delivery):
            return False
        if self._left(delivery):
            return True
        self.redelivered.add(delivery.seq)
        self._return(delivery.seq)
        self.pump_soon()
        return True

    def reject(self, delivery: Delivery, reason: str) -> bool:
        if self._unsettled.get(delivery.seq) is not delivery:
            return False
        if delivery.seq not in self.pending:
            return self.ack(delivery)
        try:
            if self.settings.dead_letters:
                self._dead_letter(delivery, reason)
            else:
                self.dropped += 1
        except PolywireError as error:
            _logger.warning("subscription %s: no dead letter could be written (%s); delivered again", self.name, error)
            self._close(delivery)
            self._again(delivery.seq, delivery.attempt - 1, _DEAD_LETTER_RETRY)
            return True
        self._close(delivery)
        self._done(delivery)
        return True

    def lease(self, delivery: Delivery, lease: int) -> None:
        """(Re)start the time in which it must be settled, in ms."""
        delivery.deadline = self._log.clock.now() + lease
        if len(self._deadlines) > 2 * len(self._unsettled) + 64:
            self._deadlines = [entry for entry in self._deadlines if self._waits(entry[2], entry[0])]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (delivery.deadline, next(self._leases), delivery))
        self._arm()

    def _waits(self, delivery: Delivery, deadline: int) -> bool:
        return delivery.deadline == deadline and self._unsettled.get(delivery.seq) is delivery

    # Time

    def _arm(self) -> None:
        moments = [queue[0][0] for queue in (self._due, self._deadlines) if queue]
        if not moments:
            return
        if self._timer is not None:
            if self._timer_at <= min(moments):
                return
            self._timer.cancel()
        self._timer_at = min(moments)
        self._timer = self._log.clock.call_at(self._timer_at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        now = self._log.clock.now()
        while self._due and self._due[0][0] <= now:
            due, seq = heapq.heappop(self._due)
            extra = self.pending.extras.get(seq)
            if extra is not None and extra.due == due and seq in self.pending:
                self._return(seq)
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, _, delivery = heapq.heappop(self._deadlines)
            if self._waits(delivery, deadline):
                self.nack(delivery)
        self._arm()
        self.pump()

    def pump_soon(self) -> None:
        """Many settlements of one loop turn make one pump."""
        if not self._pumping and self.consumers:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._pumping = False
        self.pump()

    # What people do by hand

    def rewind(self) -> None:
        """Look at the whole pending list again, from its start."""
        self._rewound += 1
        self._fetched.clear()
        self._returned.clear()
        if self.settings.ordered:
            self._turns.begin_again({d.message.record.key: seq for seq, d in self._unsettled.items()})
        self._cursor = 0

    def purge(self) -> int:
        """Drop everything that is not with a consumer; returns how many."""
        removed = self.pending.clear(keep=self._unsettled)
        self.rewind()
        self._due.clear()
        self.redelivered.intersection_update(self._unsettled)
        self._log.settled(self)
        return removed

    def discard(self, seq: int) -> bool:
        """Drop one message, whether or not a consumer has it."""
        delivery = self._unsettled.get(seq)
        if delivery is not None:
            return self.ack(delivery)
        if not self.pending.discard(seq):
            return False
        self._gone((seq,))
        self._log.settled(self)
        self.pump_soon()
        return True

    def release_all(self) -> None:
        """Take every delivery back from its consumer, without counting an attempt."""
        for delivery in list(self._unsettled.values()):
            self._close(delivery)

    def state_of(self, seq: int) -> Literal["unsettled", "delayed", "ready"]:
        if seq in self._unsettled:
            return "unsettled"
        extra = self.pending.extras.get(seq)
        return "delayed" if extra is not None and extra.due > self._log.clock.now() else "ready"

    def to_store(self) -> StoredSubscription:
        bindings = [b.stored() for b in self.bindings]
        return StoredSubscription(
            self.settings, self.owner, bindings, self.created, self.used, self.paused, self.filling
        )

    def info(self, dead: int) -> SubscriptionInfo:
        now = self._log.clock.now()
        oldest = min((d.since for d in self._unsettled.values()), default=None)
        return SubscriptionInfo(
            name=self.name,
            kind=self.settings.kind,
            sources=[b.source for b in self.bindings if b.source.topic != RETRY and b.end == FOREVER],
            owner=self.owner,
            pending=self.pending.count,
            unsettled=len(self._unsettled),
            delayed=sum(1 for extra in self.pending.extras.values() if extra.due > now),
            dead=dead,
            oldest_unsettled=now - oldest if oldest is not None else None,
            paused=self.paused,
            filling=self.filling is not None,
            consumers=len(self.consumers),
            delivered=self.delivered,
            acked=self.acked,
            returned=self.returns,
            dropped=self.dropped,
            settings=self.settings,
        )
