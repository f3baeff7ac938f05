"""Running jobs: of each operation so many at a time, each attempt in a task of its own, which cancelling may end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from polywire.core.access import Action, Principal
from polywire.core.call import NOBODY, Call, Operation
from polywire.core.delivery import Consumer, Delivery
from polywire.core.errors import Denied, Internal, PolywireError, TooLarge
from polywire.core.job import Status, StoredError, StoredJob, decode_job
from polywire.core.replies import Unwritable, encoding_of, written

if TYPE_CHECKING:
    from polywire.core.core import Core
    from polywire.core.jobs import Jobs

__all__ = ["Attempt", "Worker"]

_logger = logging.getLogger("polywire.jobs")
_LAST_WORDS = 0.5  # seconds for what is cancelled when the hub stops
_PATIENCE = 1.0  # seconds that who cancels a job waits for its end
_TELL_EVERY = 0.1  # seconds between two tellings of progress
_READ_AGAIN = 1_000  # ms, when the disk did not tell of a job


class Worker:
    """Takes what waits for one operation, as much as it has credit for."""

    def __init__(self, core: Core, jobs: Jobs, operation: Operation) -> None:
        self.consumer: Consumer | None = None
        self._core = core
        self._jobs = jobs
        self._operation = operation
        self._tasks: set[asyncio.Task[None]] = set()

    # ConsumerSink

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            attempt = Attempt(self._core, self._jobs, self._operation, delivery)
            self._tasks.add(attempt.task)
            attempt.task.add_done_callback(self._tasks.discard)

    def ended(self, error: PolywireError) -> None:
        """What runs may come to its end."""

    async def stop(self, seconds: float) -> list[asyncio.Task[None]]:
        """See `Jobs.stop`."""
        left: set[asyncio.Task[None]] = set()
        if self.consumer is not None:
            self.consumer.grant(0)
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=seconds)
        if left:
            _logger.warning("%d jobs of %s did not end within %.1f s", len(left), self._operation.name, seconds)
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=min(_LAST_WORDS, seconds))
        if self.consumer is not None:
            self.consumer.close()
        return list(left)


class Attempt:
    """One attempt of a job, from its delivery to the commit of its outcome."""

    def __init__(self, core: Core, jobs: Jobs, operation: Operation, delivery: Delivery) -> None:
        self.id = delivery.message.record.id
        self._core = core
        self._jobs = jobs
        self._operation = operation
        self._delivery = delivery
        self._job: StoredJob | None = None
        self._cancelled = False  # by somebody who may
        self._over = False
        self._latest = b""
        self._posted = False
        self._shown = True
        self._told = 0.0
        self._telling: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.task = self._loop.create_task(self._run())

    def shown(self) -> StoredJob | None:
        """The job as it stands; None while only the disk knows of it."""
        self._shown = True
        return self._job

    async def cancel(self) -> None:
        """Interrupt it, and wait a while for its end."""
        self._cancelled = True
        if self._job is not None and not self._over:  # before it is known, the mark is enough
            self.task.cancel()
        await asyncio.wait([self.task], timeout=_PATIENCE)

    async def _run(self) -> None:
        try:
            await self._jobs.begins(self)
            await self._attempt()
        except PolywireError as error:
            _logger.warning("job %s of %s waits on: %s", self.id, self._operation.name, error)
            self._delivery.nack(_READ_AGAIN)
        except Exception:
            _logger.exception("job %s of %s waits on", self.id, self._operation.name)
            self._delivery.nack(_READ_AGAIN)
        finally:
            self._over = True
            self._delivery.release()  # unless it was settled
            self._jobs.ends(self)

    async def _attempt(self) -> None:
        """Raises `PolywireError` where the disk could not be read, or did not take the outcome: then it is undone."""
        entry = await self._jobs.find(self.id)
        job = decode_job(entry.value) if entry is not None else None
        if job is None or job.ended is not None:  # cancelled, and perhaps forgotten since
            self._delivery.ack()
            return
        if self._cancelled:
            self._job = job
            self._end("cancelled")
        else:
            self._begin(job)
            await self._settle()
        await self._core.log.committed()

    async def _settle(self) -> None:
        try:
            result = await self._call()
        except asyncio.CancelledError:
            if self._cancelled:
                self._end("cancelled")
            elif self._being_cancelled():
                raise
            else:
                self._failed(Internal(f"operation {self._operation.name!r} was cancelled from within"))
        except PolywireError as error:
            self._end("cancelled") if self._cancelled else self._failed(error)
        else:
            self._end("succeeded", result=result)

    def _being_cancelled(self) -> bool:
        return self.task.cancelling() > 0

    def _begin(self, job: StoredJob) -> None:
        job.status = "running"
        job.attempt = self._delivery.attempt
        job.started = self._later(job)
        job.due = job.retrying = job.progress = job.progressed = None
        self._job = job
        self._jobs.tell(self.id)

    def _later(self, job: StoredJob) -> int:
        return max(self._core.clock.now(), job.changed + 1)

    async def _call(self) -> bytes:
        """The result, encoded. Raises `PolywireError`."""
        operation, record = self._operation, self._delivery.message.record
        encoding = encoding_of(operation)
        now = self._core.clock.now()
        timeout = self._core.limits.job_timeout if operation.timeout is None else operation.timeout
        call = Call(
            operation.name, encoding.read_arguments(record.payload), self._principal(),
            clock=self._core.clock, headers=record.headers, origin=record.origin or NOBODY,
            deadline=now + timeout if timeout else None, attempt=self._delivery.attempt, job=self.id,
        )  # fmt: skip
        call.on_progress = self._report
        forget = self._core.calls.watch(call)
        try:
            result = await self._core.calls.run(operation, call, now)
        finally:
            forget()
        return written(operation, result, self._core.limits.message_size)

    def _principal(self) -> Principal:
        """Who submitted it, with what they may do by now. Raises `Denied`, `Unauthenticated`."""
        name = self._job.principal if self._job is not None else ""
        principal = self._core.access.named(name)
        if principal is None:
            raise Denied(f"the API key {name!r}, which submitted the job, was revoked")
        self._core.access.require(principal, Action.CALL, self._operation.name)
        return principal

    # Outcomes: each in the commit that settles the delivery

    def _failed(self, error: PolywireError) -> None:
        policy, attempt = self._operation.jobs, self._delivery.attempt
        may_help = error.retryable or (isinstance(error, Internal) and not isinstance(error, Unwritable))
        if not may_help or (policy.attempts is not None and attempt >= policy.attempts):
            self._end("failed", error=error)
            return
        wait = policy.backoff.delay(attempt) if error.retry_after is None else int(error.retry_after * 1_000)
        if self._job is None or not self._delivery.nack(wait):
            return
        job = msgspec.structs.replace(self._job, status="waiting", error=StoredError.of(error))
        job.retrying = self._later(job)
        job.due = self._core.clock.now() + wait if wait > 0 else None
        self._jobs.store(self.id, job)

    def _end(self, status: Status, *, result: bytes | None = None, error: PolywireError | None = None) -> None:
        self._over = True
        # Taken back (its queue was purged, the hub stops): what came of it comes of another attempt.
        if self._job is None or not self._delivery.ack():
            return
        job = msgspec.structs.replace(self._job, status=status, result=result, error=None)
        if status == "succeeded":
            job.content_type = encoding_of(self._operation).content_type
        if error is not None:
            job.error = StoredError.of(error)
        job.ended = self._later(job)
        self._jobs.store(self.id, job, self._undo)

    def _undo(self, error: PolywireError | None) -> None:
        if error is not None:
            self._delivery.subscription.undo(self._delivery)

    # Progress

    def _report(self, payload: bytes) -> None:
        """From any thread. What is not told yet is replaced, so that a loop that reports costs nobody else."""
        limit = self._core.limits.progress_size
        if len(payload) > limit:
            raise TooLarge(f"a report of progress has at most {limit} bytes, not {len(payload)}")
        self._latest = payload
        if threading.get_ident() == self._thread:
            self._take()
        elif not self._posted:
            self._posted = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
                self._loop.call_soon_threadsafe(self._take_posted)

    def _take_posted(self) -> None:
        self._posted = False
        self._take()

    def _take(self) -> None:
        job = self._job
        if job is None or self._over:
            return
        if self._shown or job.progressed is None:
            job.progressed = self._later(job)
            self._shown = False
        job.progress = self._latest
        if self._telling is None and self._jobs.watched(self.id):
            wait = max(0.0, self._told + _TELL_EVERY - self._loop.time())
            self._telling = self._loop.call_later(wait, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._told = self._loop.time()
        self._jobs.tell(self.id)
