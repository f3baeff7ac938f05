"""Live readers that are behind on a topic, brought back to its head: from memory, or from the disk.

A reading that is behind has a `Lag` for the topic, and live batches of the topic pass it by. When its reader has room
again it waits in one queue with the others; one task (more, while some wait for the disk) gives it what follows, of one
of its topics at a time, until it has caught up with the publication or the reader is full. What was read from the disk
and not taken is kept for the next time, as far as a budget of all reaches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from polywire.core.log import Log, weight
from polywire.core.message import Batch
from polywire.core.patterns import PatternIndex
from polywire.core.reading import ALL, Entry, Hits, Reading
from polywire.core.slices import Turn
from polywire.core.streams import read_from

if TYPE_CHECKING:
    from polywire.core.topics import Topic

__all__ = ["Lag", "Lagging"]

_READ_MESSAGES = 1_024
_READ_SIZE = 256 << 10
_KEPT_SIZE = 16 << 20
_TASKS = 4
_FIRST_STEP = 64  # records looked at for a reader of which nobody knows how many it takes
_LONGEST_STEP = 1_024


class Lag:
    """``next``: the offset that comes next. ``ahead``: what was read from the disk and comes after it."""

    __slots__ = ("ahead", "next", "step")

    def __init__(self, next: int) -> None:
        self.next = next
        self.step = _FIRST_STEP
        self.ahead: list[Batch] = []


class Lagging:
    """``fail(reading, error)`` ends a reading."""

    def __init__(self, log: Log, index: PatternIndex[Entry], fail: Callable[[Reading, Exception], None]) -> None:
        self._log = log
        self._index = index
        self._fail = fail
        self._all: dict[Reading, None] = {}
        self._queue: deque[Reading] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._working = 0  # tasks that do not wait for the disk
        self._kept = 0  # bytes of what was read ahead
        self._arriving: deque[Reading] = deque()  # at the batch that is being published
        self.publishing: Topic | None = None
        self.missed = 0

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, reading: Reading, topic: Topic, offset: int) -> None:
        """The reader did not take what is at this offset."""
        if reading.lags is None:
            reading.lags = {}
            self._all[reading] = None
        reading.lags[topic] = Lag(offset)

    def resume(self, reading: Reading) -> None:
        if reading.lags is not None and not reading.busy:
            self._wait(reading)

    def hand_over(self, topic: Topic, batch: Batch, hits: Hits) -> Iterator[None]:
        """Readings that came up to the batch while it was published get it last of all, and are live from the next."""
        while self._arriving:
            reading = self._arriving.popleft()
            lag = reading.lag(topic)
            if lag is not None:
                self._hand_over_to(reading, topic, lag, batch, hits)
            else:
                self._go_on(reading)
            yield

    def _hand_over_to(self, reading: Reading, topic: Topic, lag: Lag, batch: Batch, hits: Hits) -> None:
        first = max(0, lag.next - batch.offset)
        try:
            stop = reading.give(batch, reading.pieces(hits, batch.seq, first))
        except Exception as error:  # noqa: BLE001 - one reader's fault must not reach the others, nor the log
            self._fail(reading, error)
            return
        if stop == ALL:
            self._drop(reading, topic)
            self._go_on(reading)
        else:
            lag.next = batch.offset + stop
            self._rest(reading, topic, lag)

    def published(self) -> None:
        """Publishing the batch is over. Who still waits for it, since that failed, reads it like any other."""
        self.publishing = None
        while self._arriving:
            self._go_on(self._arriving.popleft())

    def forget(self, topic: Topic) -> None:
        """The topic is deleted: what readers had not taken, they missed."""
        for reading in list(self._all):
            if (lag := reading.lag(topic)) is not None:
                self._drop(reading, topic)
                self._miss(reading, topic, lag, topic.head)

    def leave(self, reading: Reading) -> None:
        for topic in list(reading.lags or ()):
            self._drop(reading, topic)

    def stop(self) -> None:
        self._queue.clear()
        for task in self._tasks:
            task.cancel()

    def _drop(self, reading: Reading, topic: Topic) -> None:
        if reading.lags is None:
            return
        lag = reading.lags.pop(topic, None)
        if lag is not None:
            self._let_go(lag)
        if not reading.lags:
            reading.lags = None
            self._all.pop(reading, None)

    # The queue

    def _wait(self, reading: Reading) -> None:
        reading.busy = True
        self._queue.append(reading)
        self._start()

    def _go_on(self, reading: Reading) -> None:
        """With the next of its topics, when its turn comes."""
        reading.busy = False
        self.resume(reading)

    def _rest(self, reading: Reading, topic: Topic, lag: Lag) -> None:
        """Its reader is full."""
        reading.busy = False
        lag.step = _FIRST_STEP
        _put_last(reading, topic)
        if self._kept > _KEPT_SIZE:
            self._let_go(lag)

    def _start(self) -> None:
        if self._queue and self._working == 0 and len(self._tasks) < _TASKS:
            self._working += 1
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        turn = Turn()
        try:
            while self._queue:
                reading = self._queue.popleft()
                try:
                    await self._advance(reading, turn)
                except Exception as error:  # noqa: BLE001 - whatever it is, the reader is told
                    self._fail(reading, error)
                await turn.breathe()
        finally:
            self._working -= 1

    # A turn of one reading

    async def _advance(self, reading: Reading, turn: Turn) -> None:
        """Some of what is next in one of its topics."""
        if reading.lags is None:
            reading.busy = False
            return
        topic, lag = next(iter(reading.lags.items()))
        self._miss(reading, topic, lag, topic.oldest)
        batch = self._at_hand(topic, lag)
        if lag.next >= topic.offered:
            self._arrive(reading, topic)
        elif batch is not None:
            await self._give_from(reading, topic, lag, batch, turn)
        elif reading.lossless and not topic.volatile:
            await self._read(reading, topic, lag)
        else:
            self._miss(reading, topic, lag, self._in_memory_from(topic))
            self._go_on(reading)

    def _arrive(self, reading: Reading, topic: Topic) -> None:
        if self.publishing is topic:
            self._arriving.append(reading)
        else:
            self._drop(reading, topic)
            self._go_on(reading)

    def _at_hand(self, topic: Topic, lag: Lag) -> Batch | None:
        """The batch with the offset that is next or, after a gap, the first behind it, if it need not be read."""
        while lag.ahead:
            if lag.ahead[0].offset + len(lag.ahead[0]) > lag.next:
                return lag.ahead[0]
            self._kept -= weight(lag.ahead.pop(0))
        in_memory = topic.tail.first_number()
        if in_memory is None or lag.next < in_memory:
            return None
        return next((b for b in topic.tail.from_(lag.next) if b.offset + len(b) > lag.next), None)

    @staticmethod
    def _in_memory_from(topic: Topic) -> int:
        in_memory = topic.tail.first_number()
        return topic.offered if in_memory is None else min(in_memory, topic.offered)

    async def _give_from(self, reading: Reading, topic: Topic, lag: Lag, batch: Batch, turn: Turn) -> None:
        """Some of this batch; and all that was read from the disk, so that it is not held while others have their
        turn."""
        following: Batch | None = batch
        while following is not None and lag.next < topic.offered:
            if not await self._give(reading, topic, lag, following, turn):
                self._rest(reading, topic, lag)
                return
            following = self._at_hand(topic, lag) if lag.ahead and reading.lag(topic) is lag else None
        _put_last(reading, topic)
        self._go_on(reading)

    async def _give(self, reading: Reading, topic: Topic, lag: Lag, batch: Batch, turn: Turn) -> bool:
        """Some records from where it stands. Whether the reader took them all."""
        first = max(0, lag.next - batch.offset)
        # What is on the disk but was not yet offered comes live; a batch from there may hold some of both.
        end = min(len(batch), topic.offered - batch.offset, first + lag.step)
        hits = await self._look_up(topic, batch, first, end, turn)
        if reading.lag(topic) is not lag:
            return True
        stop = reading.give(batch, reading.pieces(hits, batch.seq, first))
        lag.next = batch.offset + (end if stop == ALL else stop)
        lag.step = min(4 * lag.step, _LONGEST_STEP)
        return stop == ALL

    async def _look_up(self, topic: Topic, batch: Batch, first: int, end: int, turn: Turn) -> Hits:
        looking = self._index.runs(topic.name, batch.records, first, end)
        while True:
            try:
                next(looking)
            except StopIteration as found:
                hits: Hits = found.value
                return hits
            await turn.breathe()

    async def _read(self, reading: Reading, topic: Topic, lag: Lag) -> None:
        self._working -= 1
        self._start()  # for the others
        try:
            batches = await read_from(self._log, topic, lag.next, messages=_READ_MESSAGES, size=_READ_SIZE)
        finally:
            self._working += 1
        if reading.lag(topic) is lag:
            lag.ahead.extend(batches)
            self._kept += sum(map(weight, batches))
            if not batches:
                self._miss(reading, topic, lag, self._in_memory_from(topic))
        self._go_on(reading)

    def _let_go(self, lag: Lag) -> None:
        self._kept -= sum(map(weight, lag.ahead))
        lag.ahead.clear()

    def _miss(self, reading: Reading, topic: Topic, lag: Lag, resumed: int) -> None:
        """Go on there, if that is further on."""
        count = resumed - lag.next
        if count <= 0:
            return
        lag.next = resumed
        self.missed += count
        try:
            reading.reader.missed(topic.name, count)
        except Exception as error:  # noqa: BLE001 - as in `_hand_over_to`
            self._fail(reading, error)


def _put_last(reading: Reading, topic: Topic) -> None:
    """So that each of its topics has its turn."""
    if reading.lags is not None and topic in reading.lags:
        reading.lags[topic] = reading.lags.pop(topic)
