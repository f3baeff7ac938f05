"""A job as it is stored, and as those see it who ask: an operation that runs on its own, and whose result is kept."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from polywire.core.errors import (
    Conflict,
    DeadlineExceeded,
    Denied,
    FieldError,
    Internal,
    Invalid,
    LimitExceeded,
    NotFound,
    PolywireError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

__all__ = ["ENDED", "JobEvent", "JobInfo", "Status", "StoredError", "StoredJob", "decode_job", "encode_job"]

Status = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
EventType = Literal["submitted", "started", "progress", "retrying", "succeeded", "failed", "cancelled"]
ENDED = frozenset({"succeeded", "failed", "cancelled"})
_STANDARD: dict[str, type[PolywireError]] = {
    kind.code: kind
    for kind in (
        Invalid, Unauthenticated, Denied, NotFound, Conflict, TooLarge,
        LimitExceeded, Unsupported, Unavailable, DeadlineExceeded, Internal,
    )
}  # fmt: skip


class StoredError(msgspec.Struct, array_like=True, frozen=True):
    """An error that outlives the process. ``code`` is that of a class of the tree: of its nearest one, for others."""

    code: str
    detail: str
    hint: str | None
    fields: tuple[tuple[str, str], ...]
    retry_after: float | None
    extra: dict[str, Any]

    @classmethod
    def of(cls, error: PolywireError) -> StoredError:
        code = next((name for name, kind in _STANDARD.items() if isinstance(error, kind)), Internal.code)
        extra = {name: value for name, value in error.extra.items() if _is_plain(value)}
        fields = tuple((field.path, field.message) for field in error.fields)
        return cls(code, error.detail, error.hint, fields, error.retry_after, extra)

    def error(self) -> PolywireError:
        fields = [FieldError(*field) for field in self.fields]
        kind = _STANDARD.get(self.code, Internal)
        return kind(self.detail, hint=self.hint, fields=fields, retry_after=self.retry_after, extra=self.extra)


class StoredJob(msgspec.Struct, array_like=True):
    """Times in ms since the epoch, each later than the one before it: they are what cursors of its events are made of.

    ``delay``: the id by which it waits for its ``due`` time. ``changed``: of what is told last.
    """

    operation: str
    principal: str
    status: Status
    submitted: int
    due: int | None = None
    delay: str | None = None
    started: int | None = None
    attempt: int = 0
    retrying: int | None = None
    ended: int | None = None
    result: bytes | None = None
    content_type: str | None = None
    error: StoredError | None = None
    progress: bytes | None = None
    progressed: int | None = None
    expires: int | None = None

    @property
    def changed(self) -> int:
        times = (self.submitted, self.started, self.progressed, self.retrying, self.ended)
        return max(time for time in times if time is not None)


class JobInfo(msgspec.Struct, frozen=True):
    """A job as it stands. All times are ms since the epoch.

    ``due``: when it is tried (again), while it waits for that. ``attempt``: how often it was begun. ``progress``: what
    it reported last, as JSON. ``result``: of one that succeeded, encoded as ``content_type`` says; JSON unless the
    operation answers with bytes. ``error``: of one that failed, or of the attempt before. ``expires``: when it is
    forgotten; None until it has ended.
    """

    id: str
    operation: str
    principal: str
    status: Status
    submitted: int
    due: int | None = None
    started: int | None = None
    ended: int | None = None
    expires: int | None = None
    attempt: int = 0
    progress: bytes | None = None
    result: bytes | None = None
    content_type: str | None = None
    error: PolywireError | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


class JobEvent(msgspec.Struct, frozen=True):
    """One thing that happened to a job.

    ``cursor``: go on after it with ``follow(after=)``. ``data``: the progress or the result, encoded (JSON, unless
    ``content_type`` says otherwise). ``error``: of ``retrying`` and ``failed``. ``due``: of ``retrying``, when.
    """

    cursor: str
    type: EventType
    time: int
    attempt: int = 0
    data: bytes | None = None
    content_type: str | None = None
    error: PolywireError | None = None
    due: int | None = None


encode_job = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(StoredJob).decode


def events_of(job: StoredJob, after: int) -> list[JobEvent]:
    """What happened after that time, as far as it is known: of several reports or attempts, the last."""
    error = job.error.error() if job.error is not None else None
    found = [JobEvent(str(job.submitted), "submitted", job.submitted)]
    if job.started is not None:
        found.append(JobEvent(str(job.started), "started", job.started, job.attempt))
    if job.progressed is not None:
        found.append(JobEvent(str(job.progressed), "progress", job.progressed, job.attempt, job.progress))
    if job.retrying is not None:
        time = job.retrying
        found.append(JobEvent(str(time), "retrying", time, job.attempt, error=error, due=job.due))
    told = sorted((event for event in found if event.time > after), key=lambda event: event.time)
    # Its end is told whatever the clock was set to.
    if job.ended is not None and job.ended != after:
        told.append(_end(job, job.ended, error))
    return told


def _end(job: StoredJob, ended: int, error: PolywireError | None) -> JobEvent:
    if job.status == "succeeded":
        return JobEvent(str(ended), "succeeded", ended, job.attempt, job.result, job.content_type)
    if job.status == "failed":
        return JobEvent(str(ended), "failed", ended, job.attempt, error=error)
    return JobEvent(str(ended), "cancelled", ended, job.attempt)


def _is_plain(value: Any) -> bool:
    """Whether it can be stored: extras are for people, and may hold anything."""
    try:
        msgspec.msgpack.encode(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
