"""A job in the hands of the application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from polywire.core.durations import LONGEST, parse_duration
from polywire.core.errors import Conflict, DeadlineExceeded, Internal, PolywireError
from polywire.core.job import EventType, JobInfo, Status

if TYPE_CHECKING:
    from polywire.router import Declarations

__all__ = ["Job", "JobEvent"]

T = TypeVar("T")


class JobEvent(msgspec.Struct, frozen=True):
    """One thing that happened to a job.

    ``progress``: what it reported. ``result``: of ``succeeded``. ``error``: of ``failed`` and ``retrying``. ``due``: of
    ``retrying``, when. ``cursor``: `Job.events` goes on after it.
    """

    type: EventType
    time: datetime
    attempt: int
    cursor: str
    progress: Any = None
    result: Any = None
    error: PolywireError | None = None
    due: datetime | None = None


class Job(Generic[T]):
    """An operation that runs on its own, at least once; ``Job[T]`` gives a ``T``.

    The same job may be had again by its ``id``: ``hub.job(id)``, also after a restart.
    """

    def __init__(self, owner: Declarations, id: str) -> None:
        self._owner = owner
        self.id = id

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    async def info(self) -> JobInfo:
        """All that is known of it. Raises `NotFound` once it is forgotten."""
        core = self._owner.core
        return await core.jobs.info(core.access.system, self.id)

    async def status(self) -> Status:
        return (await self.info()).status

    async def result(self, wait: str | float | None = None) -> T:
        """What the operation answered, when it has: waits for that, at most ``wait`` (``"30s"`` or seconds).

        Raises the error that the job failed with, `Conflict` if it was cancelled, `DeadlineExceeded` if it has not
        ended in that time, `Unavailable` when the hub stops, `NotFound`.
        """
        core = self._owner.core
        longest = LONGEST if wait is None else parse_duration(wait)
        info = await core.jobs.info(core.access.system, self.id, wait=longest)
        if info.status == "failed":
            raise info.error or Internal(f"job {self.id} failed")
        if info.status == "cancelled":
            raise Conflict(f"job {self.id} was cancelled")
        if info.status != "succeeded":
            core.require_running(core.access.system)
            raise DeadlineExceeded(f"job {self.id} has not ended: it is {info.status}")
        return self._read(info.operation, info.result)  # type: ignore[no-any-return]

    async def cancel(self) -> None:
        """End it: one that waits is never begun, one that runs is interrupted. Raises `Conflict` if it has ended
        otherwise, `NotFound`."""
        core = self._owner.core
        await core.jobs.cancel(core.access.system, self.id)

    async def events(self, after: str | None = None) -> AsyncIterator[JobEvent]:
        """What happens to it until its end; of several reports of progress that nobody has seen yet the last.

        Raises `NotFound`, `Unavailable` when the hub stops.
        """
        core = self._owner.core
        operation = (await self.info()).operation
        events: Any = core.jobs.follow(core.access.system, self.id, after=after)
        async with aclosing(events):
            async for event in events:
                yield JobEvent(
                    event.type,
                    _time(event.time),
                    event.attempt,
                    event.cursor,
                    progress=msgspec.json.decode(event.data) if event.type == "progress" and event.data else None,
                    result=self._read(operation, event.data) if event.type == "succeeded" else None,
                    error=event.error,
                    due=_time(event.due) if event.due is not None else None,
                )

    def _read(self, operation: str, result: bytes | None) -> Any:
        """As the operation has it now, or as JSON if it is gone."""
        declared = self._owner.core.calls.get(operation)
        if declared is None or declared.encoding is None:
            return msgspec.json.decode(result or b"null")
        return declared.encoding.read_result(result or b"")


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
