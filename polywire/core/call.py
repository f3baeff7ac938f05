"""What a call is, and what the core is told of an operation: their words, without what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from polywire.core.access import Principal
from polywire.core.clock import Clock, Timer
from polywire.core.counters import OperationCounters
from polywire.core.delivery import Backoff
from polywire.core.errors import DeadlineExceeded, Invalid, PolywireError
from polywire.core.message import Header, Origin, new_id

__all__ = ["Call", "Encoding", "JobPolicy", "Operation"]

NOBODY = Origin()
_encode = msgspec.json.Encoder().encode


class Call:
    """One call of an operation, whatever protocol it came by.

    ``arguments``: by parameter name. ``deadline``: ms since the epoch, or None. ``attempt``: 1, and more where a job
    is tried again. ``job``: the id of the job that this call is an attempt of, or None.
    """

    __slots__ = (
        "_cancelled", "_clock", "_id", "_task", "_why", "arguments", "attempt", "deadline", "headers", "job",
        "on_progress", "operation", "origin", "principal", "timer",
    )  # fmt: skip

    def __init__(
        self,
        operation: str,
        arguments: Mapping[str, Any],
        principal: Principal,
        *,
        clock: Clock,
        headers: Sequence[Header] = (),
        origin: Origin = NOBODY,
        deadline: int | None = None,
        attempt: int = 1,
        job: str | None = None,
    ) -> None:
        self.operation = operation
        self.arguments = arguments
        self.principal = principal
        self.headers = headers
        self.origin = origin
        self.deadline = deadline
        self.attempt = attempt
        self.job = job
        self.on_progress: Callable[[bytes], None] | None = None
        """Takes what a job's `progress` says, as JSON; from any thread."""
        self.timer: Timer | None = None
        self._clock = clock
        self._id: str | None = None
        self._task: asyncio.Task[Any] | None = None
        self._why: PolywireError | None = None
        self._cancelled: int | None = None  # how often the task was cancelled, before we did

    def __repr__(self) -> str:
        return f"<Call {self.operation} {self.id} by {self.principal.name}>"

    @property
    def id(self) -> str:
        """Its own: two attempts of a job have two."""
        if self._id is None:
            self._id = new_id()
        return self._id

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, not less than 0; None without one."""
        return None if self.deadline is None else max(0, self.deadline - self._clock.now()) / 1000

    def progress(self, value: Any) -> None:
        """Tell how far a job has come: anything that can be written as JSON, for those who look at the job.

        Cheap enough for a loop: what nobody looked at is replaced by what is told next. Of a call that is no job
        nobody hears. From any thread. Raises `Invalid`, `TooLarge`.
        """
        if self.on_progress is None:
            return
        try:
            payload = _encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise Invalid(f"the progress cannot be written as JSON: {error}") from None
        self.on_progress(payload)

    # Ending it from outside; of the core

    def runs_in(self, task: asyncio.Task[Any] | None) -> None:
        """This is what `interrupt` cancels. Raises why it was interrupted, if it was before."""
        self._task = task
        if self._why is not None:
            raise self._why

    def rests(self) -> None:
        """Nothing runs. A cancellation that the function ignored is taken back from the task."""
        if self._cancelled is not None:
            self.interrupted()
        self._task = None

    def expire(self) -> None:
        self.interrupt(DeadlineExceeded(f"operation {self.operation!r} did not end in the time it was given"))

    def interrupt(self, why: PolywireError) -> None:
        """Cancel what runs; its caller is told ``why``."""
        if self._why is not None:
            return
        self._why = why
        if self._task is not None:
            self._cancelled = self._task.cancelling()
            self._task.cancel()

    def interrupted(self) -> PolywireError | None:
        """Why the task was cancelled, if that was `interrupt`; None if somebody else has cancelled it, too."""
        if self._cancelled is None or self._task is None:
            return None
        before, self._cancelled = self._cancelled, None
        return self._why if self._task.uncancel() <= before else None


class Encoding(NamedTuple):
    """Arguments and result as bytes, for what is kept of a call. They raise `Invalid`."""

    read_arguments: Callable[[bytes], Mapping[str, Any]]
    write_arguments: Callable[[Mapping[str, Any]], bytes]
    read_result: Callable[[bytes], Any]
    write_result: Callable[[Any], bytes]
    content_type: str = "application/json"
    """Of a result."""


class JobPolicy(NamedTuple):
    """How often a job is tried (None: for ever), how soon again, and how many run at the same time."""

    attempts: int | None = 3
    backoff: Backoff = Backoff()
    concurrency: int = 10


_USUAL = JobPolicy()


class Operation:
    """What the core is told of a declared operation.

    Either ``invoke`` or ``stream`` (an operation that answers with many items). ``timeout``: ms, in place of
    `Limits.call_timeout` and `Limits.job_timeout`; 0: none. Without an ``encoding`` nothing can be kept of its calls:
    it takes no jobs and no idempotency keys.
    """

    __slots__ = ("counters", "encoding", "invoke", "jobs", "name", "stream", "timeout")

    def __init__(
        self,
        name: str,
        *,
        invoke: Callable[[Call], Awaitable[Any]] | None = None,
        stream: Callable[[Call], AsyncIterator[Any]] | None = None,
        timeout: int | None = None,
        encoding: Encoding | None = None,
        jobs: JobPolicy = _USUAL,
    ) -> None:
        self.name = name
        self.invoke = invoke
        self.stream = stream
        self.timeout = timeout
        self.encoding = encoding
        self.jobs = jobs
        self.counters = OperationCounters()
