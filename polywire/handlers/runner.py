"""Runs one handler over the deliveries of its subscription.

A fixed number of workers takes deliveries one after the other (or in batches); no task is made per message. A worker
does not wait for the commit of an outcome before it takes the next delivery: results and acknowledgements of a turn
share one commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from polywire.core.endings import being_cancelled, ended_within, task_ended
from polywire.core.errors import Invalid, PolywireError
from polywire.core.message import Flag
from polywire.core.subscription import Consumer, Delivery
from polywire.handlers.injection import Parameters
from polywire.handlers.invocation import Invocation, Middleware, RunInThread
from polywire.handlers.outcomes import Again, Reject

if TYPE_CHECKING:
    from polywire.contract.topics import TopicContract
    from polywire.core.core import Core

__all__ = ["Handler", "Runner"]

_logger = logging.getLogger("polywire.handlers")
_TURN = 0.001  # seconds of handlers per loop turn


class Handler(msgspec.Struct):
    """A declared handler: the function, how it is called, and what is done with its outcome."""

    function: Callable[..., Any]
    parameters: Parameters
    name: str
    publish: TopicContract[Any] | None
    manual: bool
    batch: int | None
    concurrency: int


class Runner:
    """Life: construct → `start` → deliveries come → `stop` (what is running ends; what waits is returned)."""

    def __init__(self, handler: Handler, core: Core, middleware: Sequence[Middleware], in_thread: RunInThread) -> None:
        self._handler = handler
        self._core = core
        self._invocation = Invocation(handler.parameters, handler.name, middleware, in_thread)
        self._waiting: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._consumer: Consumer | None = None
        self._stopping = False

    def start(self) -> None:
        handler = self._handler
        for _ in range(handler.concurrency):
            self._workers.append(asyncio.get_running_loop().create_task(self._work()))
        credit = max(self._core.limits.credit, (handler.batch or 1) * handler.concurrency)
        self._consumer = self._core.subscriptions.consume(self._core.access.system, handler.name, self, credit=credit)

    async def stop(self, seconds: float) -> list[asyncio.Task[object]]:
        """Let running handlers end, for so long; return to the subscription what they have not begun.

        Handlers that do not end when they are cancelled are left behind, and returned.
        """
        self._stopping = True
        self._wake.set()
        name = f"handler {self._handler.name}"
        left = await asyncio.gather(*(ended_within(seconds, task_ended(worker), name) for worker in self._workers))
        if self._consumer is not None:
            self._consumer.close()
        return [task for task in left if task is not None]

    # ConsumerSink

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self._waiting.extend(deliveries)
        self._wake.set()

    def ended(self, error: PolywireError) -> None:  # noqa: ARG002 - a sink's
        self._waiting.clear()

    # Workers

    async def _work(self) -> None:
        batch = self._handler.batch
        begun = time.perf_counter()
        while not self._stopping:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                begun = time.perf_counter()
                continue
            if batch is not None:
                await self._handle_batch(batch)
            else:
                await self._handle(self._waiting.popleft())
            # A handler that never awaits must not keep the loop from everything else.
            if time.perf_counter() - begun > _TURN:
                await asyncio.sleep(0)
                begun = time.perf_counter()

    async def _handle(self, delivery: Delivery) -> None:
        taken = self._taken(delivery)
        if taken is not None:
            await self._run([delivery], taken[0])

    async def _handle_batch(self, size: int) -> None:
        deliveries: list[Delivery] = []
        payloads: list[Any] = []
        while self._waiting and len(deliveries) < size:
            delivery = self._waiting.popleft()
            taken = self._taken(delivery)
            if taken is not None:
                deliveries.append(delivery)
                payloads.append(taken[0])
        if deliveries:
            await self._run(deliveries, payloads)

    def _taken(self, delivery: Delivery) -> tuple[Any] | None:
        """The payload; None if the handler cannot take it: then the delivery is settled."""
        record = delivery.message.record
        deletes = not record.payload and record.flags & Flag.RETAINED
        try:
            return (self._handler.parameters.decode(b"null" if deletes else record.payload),)
        except Invalid as error:
            # The removal of a retained message is not one of the topic's type; only who says `| None` sees it.
            delivery.ack() if deletes else delivery.reject(f"cannot be decoded: {error.detail}")
            return None

    def _arguments(self, payload: Any) -> dict[str, Any]:
        name = self._handler.parameters.payload_name
        return {} if name is None else {name: payload}

    async def _run(self, deliveries: list[Delivery], payload: Any) -> None:
        try:
            result = await self._invocation(deliveries, self._arguments(payload))
            self._succeed(deliveries, result)
        except Reject as outcome:
            for delivery in deliveries:
                delivery.reject(outcome.reason)
        except Again as outcome:
            for delivery in deliveries:
                delivery.nack(outcome.after)
        except asyncio.CancelledError as error:
            if being_cancelled():
                for delivery in deliveries:
                    delivery.release()
                raise
            self._failed(deliveries, error)  # of something that the handler waited for
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is an outcome
            self._failed(deliveries, error)

    def _failed(self, deliveries: Sequence[Delivery], error: BaseException) -> None:
        if isinstance(error, PolywireError) and error.retryable:
            _logger.warning("handler %s: %s; tried again", self._handler.name, error)
        else:
            _logger.error("handler %s failed on %r", self._handler.name, deliveries[0].message, exc_info=error)
        for delivery in deliveries:
            delivery.nack()

    def _succeed(self, deliveries: list[Delivery], result: Any) -> None:
        publish = self._handler.publish
        if publish is not None and result is not None:
            values = result if isinstance(result, list) and not publish.codec.takes_lists else [result]
            records = [publish.record(value) for value in values]
            if records:
                system = self._core.access.system
                self._core.publish_settling(system, deliveries, [(publish.settings.name, records)])
                return
        if not self._handler.manual:
            for delivery in deliveries:
                delivery.ack()
