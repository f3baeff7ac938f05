"""Operations as durable jobs: ``submit``, ``job``, ``follow``."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from polywire.core.durations import parse_duration
from polywire.server.job_views import event_view, job_view
from polywire.wires.websocket.jsonrpc import params
from polywire.wires.websocket.jsonrpc.binding import item_text, json_text
from polywire.wires.websocket.jsonrpc.calls import arguments_of
from polywire.wires.websocket.jsonrpc.codec import InvalidRequest, Request

if TYPE_CHECKING:
    from polywire.wires.websocket.jsonrpc.server import JsonRpcConnection as Connection

__all__ = ["follow", "job", "submit"]


def submit(conn: Connection, request: Request) -> None:
    """Answered once the job is stored."""
    said = params.decode(request.params, params.SubmitParams)
    delay = None if said.delay is None else params.read("$.delay", parse_duration, said.delay)
    arguments = arguments_of(conn, said.operation, said.arguments, "$.arguments")
    due = None if delay is None else conn.core.clock.now() + delay
    conn.run(request, _submit(conn, said, arguments, due))


async def _submit(conn: Connection, said: params.SubmitParams, arguments: dict[str, Any], due: int | None) -> bytes:
    jobs = conn.core.jobs
    submitted = jobs.submit(
        conn.principal, said.operation, arguments, due=due, idempotency=said.idempotency_key, origin=conn.origin
    )
    return json_text(job_view(await submitted))


def job(conn: Connection, request: Request) -> None:
    """How it stands; with ``wait``, at its end or after that time."""
    said = params.decode(request.params, params.JobParams)
    wait = 0 if said.wait is None else params.read("$.wait", parse_duration, said.wait)
    conn.run(request, _job(conn, said.job, wait))


async def _job(conn: Connection, id: str, wait: int) -> bytes:
    return json_text(job_view(await conn.core.jobs.info(conn.principal, id, wait=wait)))


def follow(conn: Connection, request: Request) -> None:
    """Each thing that happens is an item, until the job has ended; the answer says how many there were."""
    said = params.decode(request.params, params.FollowParams)
    if request.id is None:
        raise InvalidRequest("follow streams: without an id there is nothing to name its items by")
    conn.run(request, _follow(conn, request.id, said))


async def _follow(conn: Connection, id: bytes, said: params.FollowParams) -> bytes:
    count = 0
    happening: Any = conn.core.jobs.follow(conn.principal, said.job, after=said.after)
    async with aclosing(happening):
        async for event in happening:
            await conn.out.room()
            conn.out.notify(item_text(id, json_text({"cursor": event.cursor, **event_view(event)})))
            count += 1
    return json_text({"items": count})
