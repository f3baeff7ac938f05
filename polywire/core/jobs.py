"""Jobs: calls that are stored before they are answered, run on their own, at least once, and whose results are kept.

What is to be done waits as a message of topic ``_calls``, under the operation's name as key, for a subscription of kind
``jobs`` that the hub makes for each operation when it is first submitted. What is known of a job stands in table
``_jobs`` until it expires. The end of a job is stored there in the commit that acknowledges its message: a crash before
that commit brings the job again. That a job has begun, and how far it has come, only memory knows; a crash undoes both.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from polywire.core.access import Action, Principal
from polywire.core.admission import check_record
from polywire.core.attempts import Attempt, Worker
from polywire.core.call import NOBODY, Operation
from polywire.core.errors import Conflict, Invalid, NotFound, Unavailable, Unsupported
from polywire.core.job import JobEvent, JobInfo, StoredJob, decode_job, encode_job, events_of
from polywire.core.message import Header, Origin, Record
from polywire.core.replies import Asked, Keep, encoding_of
from polywire.core.routing import Source
from polywire.core.streams import Latest
from polywire.core.subscription import Subscription, SubscriptionSettings
from polywire.core.table import Entry, Table
from polywire.core.topics import Topic, TopicSettings

if TYPE_CHECKING:
    from polywire.core.core import Core
    from polywire.core.log import Told

__all__ = ["Jobs"]

_logger = logging.getLogger("polywire.jobs")
CALLS, JOBS = "_calls", "_jobs"
KIND: Literal["jobs"] = "jobs"
_CALLS_RETENTION = 60_000  # ms; what waits is held as long as it waits


class Jobs:
    """Life: `start` (after recovery) → `work` (runs what waits) → serve → `stop` (lets end what runs)."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._workers: dict[str, Worker] = {}
        self._attempts: dict[str, Attempt] = {}
        self._changing: dict[str, asyncio.Future[None]] = {}
        self._watching: dict[str, set[asyncio.Event]] = {}
        self._working = False
        self._stopped = False
        self.table = Table(core, JOBS, core.limits.jobs)

    def __iter__(self) -> Iterator[Subscription]:
        """Of each operation that was ever submitted, what waits."""
        return (one for one in self._core.subscriptions if one.settings.kind == KIND)

    @property
    def running(self) -> int:
        return len(self._attempts)

    # Life

    def work(self) -> None:
        """Begin to run what waits; names what nobody can run any more."""
        self._working = True
        for waiting in list(self):
            operation = self._core.calls.get(waiting.name)
            if operation is not None:
                self._employ(operation, waiting)
            elif waiting.pending.count:
                _logger.warning(
                    "%d jobs wait for operation %s, which the application no longer has",
                    waiting.pending.count, waiting.name,
                )  # fmt: skip

    def _employ(self, operation: Operation, waiting: Subscription) -> None:
        waiting.declared = True
        worker = self._workers[operation.name] = Worker(self._core, self, operation)
        worker.consumer = self._core.subscriptions.consume(
            self._core.access.system, operation.name, worker, credit=operation.jobs.concurrency, kind=KIND
        )

    async def stop(self, seconds: float) -> list[asyncio.Task[None]]:
        """Begin nothing more, and wait for what runs, for so long; what is cut off then runs again after a restart.

        Returns what does not end, even so. Who follows a job is told that the hub stops.
        """
        self._working, self._stopped = False, True
        for watchers in self._watching.values():
            for watcher in watchers:
                watcher.set()
        left = await asyncio.gather(*(worker.stop(seconds) for worker in self._workers.values()))
        self._workers.clear()
        return [task for tasks in left for task in tasks]

    # Submitting

    async def submit(
        self,
        principal: Principal,
        name: str,
        arguments: Mapping[str, Any],
        *,
        due: int | None = None,
        idempotency: str | None = None,
        headers: Sequence[Header] = (),
        origin: Origin = NOBODY,
    ) -> JobInfo:
        """Returns when the job is stored. ``due``: not before then (ms since the epoch).

        ``idempotency``: a repeat with the same key and arguments is answered with the first one's job. Raises what
        `Calls.require` raises, `Unsupported` (an operation that streams), `Conflict` (the key was used with other
        arguments, or for a call), `Invalid`, `TooLarge`, `LimitExceeded`, `Unavailable`.
        """
        operation = self._core.calls.require(principal, name)
        if operation.invoke is None:
            raise Unsupported(f"operation {name!r} answers with a stream: it can be called, and is no job")
        payload = encoding_of(operation).write_arguments(arguments)
        record = Record(
            payload, name.encode(), content_type="application/json", headers=list(headers),
            origin=Origin(principal.name, origin.wire, origin.client),
        )  # fmt: skip
        if idempotency is None:
            job = await self._store(operation, record, due)
            return self._info(record.id, job)

        async def produce(keep: Keep) -> bytes:
            await self._store(operation, record, due, keep)
            return record.id.encode()

        asked = Asked("job", principal.name, name, idempotency, payload)
        return await self.info(principal, (await self._core.calls.replies.once(asked, produce)).decode())

    async def _store(
        self, operation: Operation, record: Record, due: int | None, keep: Keep | None = None
    ) -> StoredJob:
        """The record gets the job's id."""
        await self.table.require_room()
        self._core.require_running(self._core.access.system)
        check_record(record, self._core.limits)
        now = self._core.clock.now()
        record.id = secrets.token_hex(16)
        job = StoredJob(operation.name, record.origin.principal if record.origin else "", "waiting", now)
        topic = self._topic()
        self._core.log.admit(topic, record.size())
        waiting = self._core.subscriptions.find(operation.name, KIND) or self._waiting(operation)
        if due is not None and due > now:
            job.due = due
            job.delay = self._core.delays.add(topic, [record], due)[0]
        else:
            self._core.publishing.internal(CALLS, [record], None)
        self.table.put(record.id.encode(), encode_job(job))
        if keep is not None:
            keep(record.id.encode(), None)
        if self._working and operation.name not in self._workers:
            self._employ(operation, waiting)
        await self._core.log.committed()
        return job

    def _topic(self) -> Topic:
        return self._core.catalog.get(CALLS) or self._core.catalog.make(
            TopicSettings(CALLS, retention=_CALLS_RETENTION)
        )

    def _waiting(self, operation: Operation) -> Subscription:
        settings = SubscriptionSettings(
            operation.name, [Source(CALLS, key=operation.name)], kind=KIND, dead_letters=False
        )
        return self._core.subscriptions.declare(settings, Latest())

    # Looking

    async def info(self, principal: Principal, id: str, *, wait: int = 0) -> JobInfo:
        """How it stands; waits up to ``wait`` ms for its end.

        Raises `NotFound`, `Denied`, `Unauthenticated`, and `Unavailable` when the hub stops meanwhile.
        """
        job = await self._job(principal, id)
        if wait > 0 and job.ended is None:
            deadline = self._core.clock.now() + wait
            with self._watched(principal, id) as changed:
                timer = self._core.clock.call_at(deadline, changed.set)
                try:
                    while (job := await self._job(principal, id)).ended is None:
                        if self._core.clock.now() >= deadline:
                            break
                        self._require_going_on()
                        await changed.wait()
                        changed.clear()
                finally:
                    timer.cancel()
        return self._info(id, job)

    async def follow(self, principal: Principal, id: str, *, after: str | None = None) -> AsyncIterator[JobEvent]:
        """What happens to it until its end; with ``after``, the cursor of an event, what happened since.

        Of several reports of progress that nobody has seen yet only the last is told. Raises as `info` (before the
        first event), `Invalid` for a cursor that is none, `Unavailable` when the hub stops.
        """
        seen = _cursor(after)
        with self._watched(principal, id) as changed:
            while True:
                job = await self._job(principal, id)
                for event in events_of(job, seen):
                    seen = event.time
                    yield event
                if job.ended is not None:
                    return
                self._require_going_on()
                await changed.wait()
                changed.clear()

    def _require_going_on(self) -> None:
        if self._stopped:
            raise Unavailable("the hub is stopping", retry_after=1)

    @contextmanager
    def _watched(self, principal: Principal, id: str) -> Iterator[asyncio.Event]:
        """Set when something changes: of the job, or of what the principal may."""
        changed = asyncio.Event()
        watching = self._watching.setdefault(id, set())
        watching.add(changed)
        forget = principal.on_revoked(changed.set)
        try:
            yield changed
        finally:
            forget()
            watching.discard(changed)
            if not watching and self._watching.get(id) is watching:
                del self._watching[id]

    def tell(self, id: str) -> None:
        """Something changed."""
        for watcher in self._watching.get(id, ()):
            watcher.set()

    def watched(self, id: str) -> bool:
        return id in self._watching

    async def _job(self, principal: Principal, id: str) -> StoredJob:
        """Raises as `info`."""
        attempt = self._attempts.get(id)
        job = attempt.shown() if attempt is not None else None
        if job is None:
            entry = await self.find(id)
            if entry is None:
                raise NotFound(f"there is no job {id[:80]!r}", hint="results are kept for a time, and then forgotten")
            job = decode_job(entry.value)
        self._require(principal, job)
        return job

    async def find(self, id: str) -> Entry | None:
        """What is stored of a job."""
        if not id.isascii() or not 0 < len(id) <= 64:
            return None
        return await self.table.find(id.encode())

    def _require(self, principal: Principal, job: StoredJob) -> None:
        """A job is its principal's, and theirs who may manage its operation. What anonymous callers submit is known by
        its id alone: theirs who know it and may call."""
        if principal.name == job.principal:
            if principal.kind == "anonymous":
                self._core.access.require(principal, Action.CALL, job.operation)
                return
            if principal.active:
                return
        self._core.access.require(principal, Action.MANAGE, job.operation)

    def _info(self, id: str, job: StoredJob) -> JobInfo:
        return JobInfo(
            id, job.operation, job.principal, job.status, job.submitted, job.due, job.started, job.ended, job.expires,
            job.attempt, job.progress, job.result, job.content_type, job.error.error() if job.error else None,
        )  # fmt: skip

    # Cancelling

    async def cancel(self, principal: Principal, id: str) -> JobInfo:
        """End it: one that waits is never begun, one that runs is interrupted.

        What is returned may still be ``running``, where a function does not let itself be interrupted at once. Raises
        `Conflict` for one that has ended otherwise, and as `info`.
        """
        await self._job(principal, id)
        while (changing := self._changing.get(id)) is not None:
            await asyncio.wait([changing])
        attempt = self._attempts.get(id)
        if attempt is not None:
            await attempt.cancel()
        else:
            with self.changing(id):
                await self._cancel_waiting(id)
        job = await self._job(principal, id)
        if job.ended is not None and job.status != "cancelled":
            raise Conflict(f"job {id} has {job.status}", hint="what has ended cannot be cancelled")
        return self._info(id, job)

    async def _cancel_waiting(self, id: str) -> None:
        """Nobody begins it meanwhile. Its message goes when its turn comes."""
        entry = await self.find(id)
        if entry is None:
            return
        job = decode_job(entry.value)
        if job.ended is not None:
            return
        job.status, job.due, job.error = "cancelled", None, None
        job.ended = max(self._core.clock.now(), job.changed + 1)
        self.store(id, job)
        await self._core.log.committed()
        self.tell(id)
        if job.delay is not None:
            await self._cancel_delay(job.delay)

    async def _cancel_delay(self, delay: str) -> None:
        try:
            await self._core.delays.cancel(delay)
        except NotFound:
            return  # its time came just now

    @contextmanager
    def changing(self, id: str) -> Iterator[None]:
        """While this holds nobody else changes the job, nor begins it."""
        changing = self._changing[id] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._changing[id]
            changing.set_result(None)

    # Of attempts

    async def begins(self, attempt: Attempt) -> None:
        """From here on the attempt is what is known of the job."""
        while (changing := self._changing.get(attempt.id)) is not None:
            await asyncio.wait([changing])
        self._attempts[attempt.id] = attempt

    def ends(self, attempt: Attempt) -> None:
        if self._attempts.get(attempt.id) is attempt:
            del self._attempts[attempt.id]
        self.tell(attempt.id)

    def store(self, id: str, job: StoredJob, told: Told | None = None) -> None:
        """In the open transaction; the job has been stored before. ``told`` hears of the commit."""
        if job.ended is not None:
            job.expires = job.ended + self._core.limits.job_retention
        self.table.put(id.encode(), encode_job(job), expires=job.expires, new=False, told=told)


def _cursor(text: str | None) -> int:
    if text is None:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 16:
        raise Invalid(f"not the cursor of an event of a job: {text[:64]!r}")
    return int(text)
