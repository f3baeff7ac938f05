"""Calling without ASGI says and does what calling through it does: each request is sent both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from polywire.core.limits import Limits
from polywire.server.direct import Abandon, Answer, DirectHead
from polywire.testing import Served, serve
from polywire.wires.rest.direct_calls import DirectCalls
from tests.core.harness import until
from tests.wires.rest import calling
from tests.wires.rest.test_direct import JSON, TEXT, Answered, Connection

FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


class Hub:
    """Served, and what the direct handler said to each request: True for those it took."""

    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served = served
        self.core = served.hub.core
        self.said: list[bool] = []
        self.writers: list[asyncio.StreamWriter] = []
        handle = DirectCalls.__call__

        def noted(handler: DirectCalls, head: DirectHead, body: bytes, answer: Answer) -> bool | Abandon:
            taken = handle(handler, head, body, answer)
            self.said.append(bool(taken))
            return taken

        monkeypatch.setattr(DirectCalls, "__call__", noted)

    async def connect(self) -> Connection:
        port = int(self.served.http_url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.writers.append(writer)
        return Connection(reader, writer)

    async def ask(self, request: bytes) -> Answered:
        return await (await self.connect()).ask(request)

    def counted(self) -> dict[str, tuple[int, int, int]]:
        return {one.name: (one.counters.calls, one.counters.errors, one.counters.running) for one in self.core.calls}


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    calling.events.clear()
    calling.hub.limits = Limits(message_size=1_000)
    async with serve(calling.hub, data=str(tmp_path / "data")) as served:
        hub = Hub(served, monkeypatch)
        yield hub
        for writer in hub.writers:
            writer.transport.abort()
    calling.hub.limits = Limits()


def call(path: bytes, body: bytes, lines: bytes = JSON) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n%b" % (path, lines, len(body), body)


def ordinary_ways(path: bytes, body: bytes, lines: bytes) -> list[bytes]:
    """The same request, made unusual by something that changes nothing."""
    chunks = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return [
        call(path + b"?", body, lines),
        call(path, body, lines + b"Content-Encoding: identity\r\n"),
        b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (path, lines, chunks),
    ]


class Case(NamedTuple):
    path: bytes
    body: bytes
    lines: bytes
    status: int
    taken: bool | None
    """By the direct handler; None: it is not even offered."""


ADD, ECHO = b"/operations/add", b"/operations/echo"
XML = b"Accept: application/xml\r\n"


@pytest.mark.parametrize(
    "case",
    [
        Case(ADD, b'{"a": 1, "b": 2}', JSON, 200, True),
        Case(ADD, b'{"a": 1, "b": 2}', b"", 200, True),
        Case(ADD, b' {"a": 1, "b": 2}', FORM, 200, True),
        Case(ADD, b'{"a": 1, "b": 2}', JSON + XML, 200, True),
        Case(ADD, b'{"a": 1, "b": 2}', JSON + b"Polywire-Timeout: 5s\r\n", 200, True),
        Case(ECHO, b'{"name": "ada", "age": 1, "tags": []}', JSON, 200, True),
        Case(b"/operations/blocking", b'{"text": "a"}', JSON + b"Accept: text/plain\r\n", 200, True),
        Case(b"/operations/nothing", b"", b"", 204, True),
        Case(b"/operations/who", b"", b"Polywire-Header-A: b\r\n", 200, True),
        Case(b"/operations/greet", b'{"name": "ada"}', JSON, 200, True),
        Case(b"/operations/picture", b"{}", JSON, 200, True),
        Case(b"/operations/swap", b'{"data": "YWI="}', JSON, 200, True),
        Case(b"/users", b'{"name": "ada", "age": 1}', JSON, 201, True),
        Case(b"/users/1/rename", b'{"name": "x"}', JSON, 200, True),
        Case(b"/users/x/rename", b'{"name": 1}', JSON, 400, True),
        # the request is wrong
        Case(ADD, b"", JSON, 400, True),
        Case(ADD, b"{", JSON, 400, True),
        Case(ADD, b"[" * 900, JSON, 400, True),
        Case(ADD, b'{"a": 1, "a": 1, "b": 2}', JSON, 400, True),
        Case(ADD, b'{"a": NaN, "b": 1e999}', JSON, 400, True),
        Case(ADD, b'{"a": "x", "b": null, "c": 1}', JSON, 400, True),
        Case(ADD, b"{", JSON + XML, 400, True),
        Case(ECHO, b'{"name": 1, "age": 200}', JSON, 400, True),
        Case(b"/users", b'{"name": 1}', JSON, 400, True),
        Case(ADD, b"1", TEXT, 415, False),
        # what the operation says
        *(Case(b"/operations/fail", b'{"how": "%b"}' % how, JSON, status, True) for how, status in (
            (b"not_found", 404), (b"conflict", 409), (b"denied", 403), (b"invalid", 400), (b"other", 500))),
        Case(b"/operations/lie", b"", b"", 500, True),
        Case(b"/operations/cancels_itself", b"", b"", 500, True),
        Case(b"/operations/wait", b"{}", JSON + b"Polywire-Timeout: 50ms\r\n", 504, True),
        # something is unusual
        Case(ADD, b"a=1&b=2", FORM, 200, False),
        Case(ADD, b"<x><a>1</a><b>2</b></x>", b"Content-Type: text/xml\r\n", 200, False),
        Case(b"/operations/swap", b"ab", b"", 200, False),
        Case(ADD, b" " * 1_001, JSON, 413, False),
        Case(ADD, b'{"a": 1, "b": 2}', JSON + b"Prefer: wait=5\r\n", 200, False),
        Case(ADD, b'{"a": 1, "b": 2}', JSON + b"Accept: image/png\r\n", 406, False),
        Case(ADD, b'{"a": 1, "b": 2}', JSON + b"Polywire-Timeout: soon\r\n", 400, False),
        Case(b"/operations/ad", b"{}", JSON, 404, False),
        Case(b"/operations", b"{}", JSON, 405, None),
        Case(ADD, b"{}", JSON + b"X-API-Key: pw_x_y\r\n", 401, None),
    ],
)  # fmt: skip
async def test_both_ways_answer_the_same(hub: Hub, case: Case) -> None:
    connection = await hub.connect()
    answer = await connection.ask(call(*case[:3]))
    counted = hub.counted()
    assert answer.status == case.status, answer.body
    assert hub.said == ([] if case.taken is None else [case.taken])
    for number, request in enumerate(ordinary_ways(*case[:3]), start=2):
        other = await connection.ask(request)
        assert other == answer
        expected = {name: tuple(count * number for count in counts) for name, counts in counted.items()}
        assert hub.counted() == expected
    assert len(hub.said) == (case.taken is not None)


class Other(NamedTuple):
    method: bytes
    target: bytes
    lines: bytes
    status: int
    taken: bool | None


@pytest.mark.parametrize(
    "case",
    [
        Other(b"GET", b"/users/1", b"", 200, True),
        Other(b"GET", b"/users/1?deep=true&fields=a&fields=%C3%A9+b", b"", 200, True),
        Other(b"GET", b"/users/1", XML, 200, True),
        Other(b"GET", b"/users/1", b"Accept: text/html, */*\r\n", 200, True),
        Other(b"GET", b"/users/me", b"", 200, True),
        Other(b"GET", b"/users?limit=1", b"", 200, True),
        Other(b"GET", b"/operations/greet?name=ada", b"", 200, True),
        Other(b"GET", b"/operations/picture", b"", 200, True),
        Other(b"DELETE", b"/users/1", b"", 204, True),
        Other(b"DELETE", b"/users/1", b"Content-Length: 0\r\n", 204, True),
        Other(b"GET", b"/users/99", b"", 404, True),
        Other(b"GET", b"/users/x?deep=2&zzz=1", b"", 400, True),
        Other(b"GET", b"/users?limit=0", XML, 400, True),
        Other(b"GET", b"/operations/add?a=1&b=2", b"", 405, False),
        Other(b"GET", b"/operations/nothing-here", b"", 404, False),
        Other(b"GET", b"/users/1/nothing", b"", 404, False),
        Other(b"PATCH", b"/users/1", b"", 200, None),
        Other(b"GET", b"/users/1", b"If-None-Match: *\r\n", 304, True),
        Other(b"GET", b"/users/1", b"Accept: image/png\r\n", 406, False),
        Other(b"GET", b"/users/1?a=%FF", b"", 400, False),
        Other(b"GET", b"/users/%31", b"", 200, None),
        Other(b"GET", b"/health", b"", 200, True),
        Other(b"GET", b"/ready", b"", 200, None),
        Other(b"GET", b"/ticks", b"", 200, False),
    ],
)
async def test_both_ways_answer_the_same_without_a_body(hub: Hub, case: Other) -> None:
    async def asked(lines: bytes) -> Answered:
        return await connection.ask(b"%b %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (case.method, case.target, lines))

    connection = await hub.connect()
    if case.target == b"/ticks":  # which comes in pieces
        connection.writer.write(b"GET /ticks HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: hub.said == [False])
        return
    answer = await asked(case.lines)
    assert answer.status == case.status, answer.body
    assert hub.said == ([] if case.taken is None else [case.taken])
    assert await asked(case.lines + b"TE: x\r\n") == answer
    assert len(hub.said) == (case.taken is not None)


async def test_a_repeated_head_is_read_once(hub: Hub) -> None:
    connection = await hub.connect()
    for number in range(3):
        answer = await connection.ask(call(ADD, b'{"a": %d, "b": 2}' % number))
        assert answer.json == number + 2
    assert hub.said == [True] * 3


async def test_pipelined_calls_are_answered_in_order(hub: Hub) -> None:
    connection = await hub.connect()
    connection.writer.write(b"".join(call(ADD, b'{"a": %d, "b": 0}' % number) for number in range(50)))
    assert [(await connection.answer()).json for _ in range(50)] == list(range(50))


@pytest.mark.parametrize("lines", [JSON, JSON + b"Content-Encoding: identity\r\n"])
async def test_a_client_that_leaves_takes_its_call_along(hub: Hub, lines: bytes) -> None:
    connection = await hub.connect()
    connection.writer.write(call(b"/operations/wait", b"{}", lines))
    await until(lambda: calling.events == ["opened"])
    assert hub.core.calls.running == 1
    connection.writer.transport.abort()
    await until(lambda: calling.events == ["opened", "cancelled", "closed"])
    assert hub.core.calls.running == 0


async def test_other_connections_are_answered_meanwhile(hub: Hub) -> None:
    waiting = await hub.connect()
    waiting.writer.write(call(b"/operations/wait", b'{"seconds": 0.2}'))
    await until(lambda: calling.events == ["opened"])
    assert (await hub.ask(call(ADD, b'{"a": 1, "b": 2}'))).json == 3
    assert calling.events == ["opened"]
    assert (await waiting.answer()).json == "resource"


async def test_a_hub_that_stops_answers_what_runs(hub: Hub) -> None:
    connection = await hub.connect()
    connection.writer.write(call(b"/operations/wait", b'{"seconds": 0.2}'))
    await until(lambda: calling.events == ["opened"])
    stopping = asyncio.ensure_future(hub.served.server.stop())
    assert (await connection.answer()).json == "resource"
    await asyncio.wait_for(stopping, 10)


async def test_an_operation_that_blocks_its_thread_blocks_nobody_else(hub: Hub) -> None:
    answers = [asyncio.ensure_future(hub.ask(call(b"/operations/blocking", b'{"text": "%d"}' % n))) for n in range(20)]
    assert sorted(answer.json for answer in await asyncio.gather(*answers)) == sorted(map(str, range(20)))
