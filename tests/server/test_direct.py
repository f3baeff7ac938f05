"""Requests answered without a task keep every promise of the others: order, bounds, the door, drain, the peer's end."""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from polywire.core.access import Access
from polywire.core.clock import SystemClock
from polywire.core.errors import Invalid
from polywire.server.direct import LONGEST_BODY, Answer, DirectHead, is_plain, is_short, length_at
from polywire.server.router import Router
from tests.server.conftest import Serve, Served, echo_app
from tests.server.desk import HEAD, TEXT, Desk, answer_of, body_of, connections, desk_of, post

# --- what is offered -------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_in_full(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw()
    for number in range(3):
        writer.write(post(b"%d" % number, b"Content-Type: text/plain"))
        status, headers, body = await answer_of(reader)
        assert (status, body) == (200, b"desk anonymous %d" % number)
        assert set(headers) == {"content-type", "content-length", "date"}
        assert headers["content-type"] == "text/plain"
        assert email.utils.parsedate_to_datetime(headers["date"]).tzinfo is not None
    assert served.listener.state.total_requests == 3
    assert not served.listener.state.tasks
    head = desk.offered[0][0]
    assert (head.method, head.path, head.client) == (b"POST", b"/echo/x", "127.0.0.1")
    assert head.headers == [(b"host", b"localhost"), (b"content-type", b"text/plain")]


async def test_a_head_that_repeats_is_the_same_object_with_its_note(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw()
    for request in (post(b"a"), post(b"b"), post(b"cc"), post(b"d").replace(b"/x ", b"/y "), post(b"e", b"X: y")):
        writer.write(request)
        await body_of(reader)
        desk.offered[-1][0].note = len(desk.offered)
    assert [head.note for head, _ in desk.offered] == [3, 3, 3, 4, 5]


async def test_a_declined_request_goes_the_ordinary_way(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw()
    for body in (b"no", b"yes", b"no, and again", b"yes"):
        writer.write(post(body))
        said = await body_of(reader)
        assert said == (b"desk anonymous yes" if body == b"yes" else b"POST /echo/x anonymous %d" % len(body))
    assert [body for _, body in desk.offered] == [b"no", b"yes", b"no, and again", b"yes"]


async def test_a_head_that_is_not_wanted_is_not_offered_again(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw(post(b"no"))
    assert await body_of(reader) == b"POST /echo/x anonymous 2"
    desk.offered[0][0].wanted = False
    writer.write(post(b"x") + post(b"yy") + post(b"z", b"X: another"))
    for expected in (b"POST /echo/x anonymous 1", b"POST /echo/x anonymous 2", b"POST /echo/x anonymous 1"):
        assert await body_of(reader) == expected
    writer.write(post(b"z", b"X: another"))
    assert await body_of(reader) == b"desk anonymous z"
    assert len(desk.offered) == 2


ONE = b"Content-Length: 1\r\n\r\nx"


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD.replace(b"POST", b"PUT") + ONE,
        HEAD.replace(b"/x", b"/x?api_key=a") + ONE,
        HEAD.replace(b"/x", b"/x?") + ONE,
        HEAD.replace(b"/x", b"/x#a") + ONE,
        HEAD.replace(b"/x", b"/%78") + ONE,
        HEAD.replace(b"/x", b"/x|y") + ONE,
        HEAD.replace(b"/echo/x", b"/echo") + ONE,
        HEAD.replace(b"/x", b"/" + b"x" * 2_000) + ONE,
        HEAD.replace(b"/echo", b"http://localhost/echo") + ONE,
        HEAD.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n" + ONE,
        HEAD + b"Connection: close\r\n" + ONE,
        HEAD + b"Origin: http://localhost\r\n" + ONE,
        HEAD + b"Expect: 200-ok\r\n" + ONE,
        HEAD + b"Content-Encoding: identity\r\n" + ONE,
        HEAD + b"X: y\r\nX: z\r\n" + ONE,
        HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(100)) + ONE,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        HEAD + b"\r\n",
        post(b"x" * (LONGEST_BODY + 1)),
    ],
)
async def test_anything_unusual_is_not_offered(serve: Serve, request_bytes: bytes) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw(request_bytes)
    status, _, body = await answer_of(reader)
    assert status == 200
    assert re.fullmatch(rb"(POST|PUT) /echo\S* anonymous \d+", body)
    assert not desk.offered
    if b"1.0" not in request_bytes and b"close" not in request_bytes:
        writer.write(post(b"then"))
        assert await body_of(reader) == b"desk anonymous then"


async def test_a_long_body_behind_a_short_one_is_not_offered(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, _ = await served.raw()
    (connection,) = await connections(served, 1)
    for size in (1, LONGEST_BODY, LONGEST_BODY + 1, 1):
        connection.data_received(post(b"x" * size))  # whole, however the system would cut it
        by = b"desk anonymous " if size <= LONGEST_BODY else b"POST /echo/x "
        assert (await body_of(reader)).startswith(by)
    assert [len(body) for _, body in desk.offered] == [1, LONGEST_BODY, 1]


async def test_what_the_listener_bounds_stays_bounded(serve: Serve) -> None:
    served, desk = await desk_of(serve, max_body_size=10, max_head_size=1_000)
    for sent, status in ((post(b"x" * 11), 413), (post(b"x", b"X: " + b"x" * 1_000), 431)):
        reader, _ = await served.raw(sent)
        assert (await answer_of(reader))[0] == status
    assert not desk.offered


def test_what_is_short() -> None:
    assert is_short(b"0", 10)
    assert is_short(b"10", 10)
    for value in (b"11", b"", b"+1", b"1_0", b"0x1", b"-1", b" 1", b"9" * 5_000):
        assert not is_short(value, 10)


def test_what_is_plain() -> None:
    length, host = (b"content-length", b"1"), (b"host", b"x")
    assert [length_at(headers) for headers in ([length], [host, length], [host], [])] == [0, 1, None, None]
    for headers in ([], [host], [length], [host, length]):
        assert is_plain(headers)
    for headers in (
        [length, length],
        [host, host, length],
        [length, (b"expect", b"x")],
        [(b"%d" % n, b"") for n in range(65)],
    ):
        assert not is_plain(headers)


def test_a_head_is_another_ones_but_for_the_length() -> None:
    length, host, kind = (b"content-length", b"1"), (b"host", b"x"), (b"content-type", b"text/plain")
    principal = Access(SystemClock()).anonymous
    head = DirectHead(Desk(), b"POST", b"/a", [host, length, kind], principal, "", length_at=1, opened=True)
    assert head.is_of(b"POST", b"/a", [host, length, kind])
    assert head.is_of(b"POST", b"/a", [host, (b"content-length", b"200"), kind])
    others: list[list[tuple[bytes, bytes]]] = [
        [], [host], [host, length], [length, host, kind], [host, kind, length], [host, host, kind],
        [host, length, kind, kind], [host, length, length],
    ]  # fmt: skip
    for headers in others:
        assert not head.is_of(b"POST", b"/a", headers)
    assert not head.is_of(b"PUT", b"/a", [host, length, kind])
    assert not head.is_of(b"POST", b"/b", [host, length, kind])
    assert not head.is_of(b"POST", b"/a?b", [host, length, kind])


def test_a_head_of_a_request_without_a_body() -> None:
    principal = Access(SystemClock()).anonymous
    head = DirectHead(Desk(), b"GET", b"/a?b=1", [(b"host", b"x")], principal, "", length_at=None, opened=True)
    assert (head.path, head.query) == (b"/a", b"b=1")
    assert head.is_of(b"GET", b"/a?b=1", [(b"host", b"x")])
    assert head.is_short([(b"host", b"x")], 0)
    assert not head.is_of(b"GET", b"/a?b=2", [(b"host", b"x")])
    assert not head.is_of(b"GET", b"/a?b=1", [(b"host", b"x"), (b"content-length", b"1")])


async def test_a_get_with_a_query_is_offered(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    served.listener.router.mount_direct("GET", "/echo", desk)
    reader, writer = await served.raw()
    for lines, body in ((b"", b""), (b"Content-Length: 2\r\n", b"xy")):
        writer.write(b"GET /echo/x?a=%20b HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n" + body)
        assert await body_of(reader) == b"desk anonymous " + body
    assert desk.offered[0][0].query == b"a=%20b"


def test_a_direct_handler_stands_beside_the_app_it_speaks_for() -> None:
    router, desk, other = Router(), Desk(), Desk()
    with pytest.raises(ValueError, match="nothing is mounted"):
        router.mount_direct("POST", "/a", desk)

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    async def within(scope: Any, receive: Any, send: Any) -> None: ...

    router.mount("/a", app)
    router.mount("/a/b", within)
    router.mount_exact("/a/c", within)
    router.mount_direct("POST", "/a", desk)
    with pytest.raises(ValueError, match="taken"):
        router.mount_direct("POST", "/a", other)
    assert router.has_direct(b"POST")
    assert not router.has_direct(b"PUT")
    for path, found in {
        b"/a/x": desk, b"/a/x/y": desk, b"/a/": desk, b"/a": None, b"/ab/x": None, b"/a/b": None, b"/a/b/x": None,
        b"/a/c": None, b"/a/c/d": desk, b"": None, b"*": None, b"/a/\xff": None, b"/a/x y": None, b"/a/x\n": None,
        b"/a/x?y=z": desk, b"/a/x?": None, b"/a/x?y#z": None, b"/a/x?api_key=z": None, b"/a/b?/x": None, b"/a?/x": None,
    }.items():  # fmt: skip
        assert router.direct(b"POST", path) is found, path
    assert router.direct(b"PUT", b"/a/x") is None


# --- how it comes ----------------------------------------------------------------------------------------------------


async def test_split_anywhere_the_answer_is_right(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw()
    request = post(b"no body")
    (connection,) = await connections(served, 1)
    for at in range(1, len(request)):
        connection.data_received(request[:at])
        connection.data_received(request[at:])
        assert await body_of(reader) == b"POST /echo/x anonymous 7"
    for byte in request:
        connection.data_received(bytes([byte]))
    assert await body_of(reader) == b"POST /echo/x anonymous 7"
    writer.write(post(b"whole"))
    assert await body_of(reader) == b"desk anonymous whole"
    head_length = len(request) - 7
    assert len(desk.offered) == head_length, "those whose body came whole, in the read that ended the head"


async def test_a_body_that_does_not_come_is_timed(serve: Serve) -> None:
    served, desk = await desk_of(serve, body_timeout=100)
    reader, _ = await served.raw(post(b"one") + HEAD + b"Content-Length: 10\r\n\r\nabc")
    assert await body_of(reader) == b"desk anonymous one"
    assert (await answer_of(reader))[0] == 408
    assert len(desk.offered) == 1


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, _ = await served.raw(b"".join(post(b"%d" % number) for number in range(20)))
    for number in range(20):
        assert await body_of(reader) == b"desk anonymous %d" % number
    assert len(desk.offered) == 20

    get = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reader, writer = await served.raw(post(b"later") + get + post(b"b") + post(b"no") + post(b"c"))
    await served.until(lambda: len(desk.kept) == 1)
    writer.write(post(b"d") + get)
    waiting = asyncio.ensure_future(body_of(reader))
    found: list[Any] = list(served.listener.state.connections)
    (connection,) = [one for one in found if one.pipeline]
    await served.until(lambda: connection.flow.read_paused)
    assert not waiting.done()
    desk.answer()
    assert await waiting == b"desk later"
    for expected in (b"GET /echo", b"POST /echo/x", b"POST /echo/x", b"POST /echo/x"):
        assert (await body_of(reader)).startswith(expected + b" anonymous ")
    assert await body_of(reader) in (b"desk anonymous d", b"POST /echo/x anonymous 1")
    assert (await body_of(reader)).startswith(b"GET /echo")


async def test_too_many_requests_behind_an_open_one(serve: Serve) -> None:
    served, desk = await desk_of(serve, max_pipelined=10)
    reader, _ = await served.raw(post(b"later") + post(b"x") * 5_000)
    await served.until(lambda: not served.listener.state.connections)
    desk.answer()
    with pytest.raises((ConnectionError, EOFError)):
        await reader.readexactly(1)


async def test_an_answer_at_once_does_not_make_the_next_request_idle(serve: Serve) -> None:
    release = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await echo_app(scope, receive, send)

    served, _ = await desk_of(serve, slow, idle_timeout=50)
    reader, _ = await served.raw(post(b"x") + post(b"no"))
    assert await body_of(reader) == b"desk anonymous x"
    ended = asyncio.ensure_future(reader.read(1))
    assert await asyncio.wait([ended], timeout=0.3) == (set(), {ended})
    release.set()
    assert await ended == b"H"


async def test_an_open_request_is_not_idle_and_an_answered_one_is(serve: Serve) -> None:
    served, desk = await desk_of(serve, idle_timeout=50)
    reader, _ = await served.raw(post(b"later"))
    first = asyncio.ensure_future(body_of(reader))
    assert await asyncio.wait([first], timeout=0.3) == (set(), {first})
    desk.answer()
    assert await first == b"desk later"
    assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_rubbish_behind_an_open_request(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, _ = await served.raw(post(b"later") + b"\x00\x01\x02\r\n\r\n")
    assert await asyncio.wait_for(reader.read(), 10) == b"", "a refusal would pass for the answer to the open one"
    desk.answer()
    assert served.listener.state.total_requests == 0


async def test_a_peer_that_does_not_read_is_asked_the_ordinary_way(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw()
    (connection,) = await connections(served, 1)
    connection.pause_writing()
    writer.write(post(b"x"))
    await served.until(lambda: len(served.listener.state.tasks) == 1)
    connection.resume_writing()
    assert await body_of(reader) == b"POST /echo/x anonymous 1"
    assert not desk.offered


async def test_a_connection_may_become_a_websocket_afterwards(serve: Serve) -> None:
    served, _ = await desk_of(serve)
    upgrade = (
        b"GET /room HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reader, writer = await served.raw(post(b"x"))
    assert await body_of(reader) == b"desk anonymous x"
    writer.write(upgrade)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    await served.until(lambda: served.room.log == ["opened"])


# --- the door --------------------------------------------------------------------------------------------------------


async def key_for(served: Served, name: str) -> str:
    async def keep(_changes: object) -> None: ...

    served.access.load([], keep)
    return (await served.access.create_key(served.access.system, name, ["publish:#"]))[1]


async def test_a_revoked_key_opens_nothing_more(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    key = (await key_for(served, "alice")).encode()
    reader, writer = await served.raw()
    for _ in range(2):
        writer.write(post(b"x", b"X-API-Key: " + key))
        assert await body_of(reader) == b"desk alice x"
    await served.access.revoke_key(served.access.system, "alice")
    writer.write(post(b"x", b"X-API-Key: " + key))
    status, _, body = await answer_of(reader)
    assert (status, json.loads(body)["code"]) == (401, "unauthenticated")
    assert len(desk.offered) == 2


async def test_the_first_key_is_in_force_at_once(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw(post(b"x"))
    assert await body_of(reader) == b"desk anonymous x"
    assert desk.offered[0][0].opened
    await key_for(served, "alice")
    writer.write(post(b"x"))
    assert await body_of(reader) == b"desk anonymous x"
    assert desk.offered[1][0] is not desk.offered[0][0], "the guard was asked again"
    assert not desk.offered[1][0].opened
    assert not desk.offered[1][0].principal.everything


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"Host: localhost", 400),  # a second one
        (b"Authorization: Digest x", 400),
        (b"Authorization: Bearer pw_no_such", 401),
        (b"X-API-Key: x", 401),
        (b"Origin: https://evil.example", 403),
    ],
)
async def test_who_is_not_let_in_is_told_as_ever(serve: Serve, line: bytes, status: int) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw(post(b"x", line))
    assert (await answer_of(reader))[0] == status
    writer.write(post(b"x"))
    assert await body_of(reader) == b"desk anonymous x"
    assert len(desk.offered) == 1


async def test_a_foreign_host_is_refused_while_the_hub_is_open(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    foreign = post(b"x").replace(b"localhost", b"evil.example")
    reader, writer = await served.raw(post(b"x"))
    assert await body_of(reader) == b"desk anonymous x"
    writer.write(foreign)
    assert (await answer_of(reader))[0] == 403
    assert len(desk.offered) == 1
    reader, _ = await served.raw(foreign.replace(b"Host: evil.example\r\n", b""))
    assert (await answer_of(reader))[0] == 400


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [lambda writer: writer.close(), lambda writer: writer.transport.abort()])
async def test_a_client_that_left_is_not_answered(serve: Serve, leave: Callable[[asyncio.StreamWriter], None]) -> None:
    served, desk = await desk_of(serve)
    _, writer = await served.raw(post(b"later"))
    await served.until(lambda: len(desk.kept) == 1)
    leave(writer)
    await served.until(lambda: not served.listener.state.connections)
    desk.answer()
    assert served.listener.state.total_requests == 0
    await served.until(lambda: not served.listener.state.tasks)
    reader, _ = await served.raw(post(b"x"))
    assert await body_of(reader) == b"desk anonymous x"


async def test_drain_waits_for_the_answer_and_closes_behind_it(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, _ = await served.raw(post(b"later"))
    idle, _ = await served.raw(post(b"x"))
    assert await body_of(idle) == b"desk anonymous x"
    await served.until(lambda: len(desk.kept) == 1)
    draining = asyncio.create_task(served.listener.drain(10))
    assert await asyncio.wait_for(idle.read(), 10) == b""
    assert not draining.done()
    desk.answer()
    status, headers, body = await answer_of(reader)
    assert (status, headers["connection"], body) == (200, "close", b"desk later")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    await asyncio.wait_for(draining, 10)


async def test_close_cuts_what_is_open(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, _ = await served.raw(post(b"later"))
    await served.until(lambda: len(desk.kept) == 1)
    await served.listener.drain(0.05)
    await served.listener.close()
    desk.answer()
    with pytest.raises((ConnectionError, EOFError)):
        await reader.readexactly(1)


async def test_a_handler_that_fails_is_told_of_in_the_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    served, _ = await desk_of(serve)
    reader, writer = await served.raw(post(b"fail"))
    status, headers, body = await answer_of(reader)
    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert json.loads(body)["code"] == "internal"
    assert "asked to fail" in caplog.text
    writer.write(post(b"x"))
    assert await body_of(reader) == b"desk anonymous x"


async def test_a_request_has_one_answer(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    reader, writer = await served.raw(post(b"later"))
    await served.until(lambda: len(desk.kept) == 1)
    desk.answer()
    assert await body_of(reader) == b"desk later"
    with pytest.raises(RuntimeError, match="one answer"):
        desk.answer()
    writer.write(post(b"x"))
    assert await body_of(reader) == b"desk anonymous x"


async def test_who_declines_is_not_heard(serve: Serve) -> None:
    served, desk = await desk_of(serve)
    kept: list[Answer] = []

    def confused(head: DirectHead, body: bytes, answer: Answer) -> bool:
        kept.append(answer)
        return False

    served.listener.router.mount("/two", echo_app)
    served.listener.router.mount_direct("POST", "/two", confused)
    reader, writer = await served.raw(post(b"x").replace(b"/echo", b"/two"))
    assert await body_of(reader) == b"POST /two/x anonymous 1"
    kept[0](200, TEXT, b"all the same")
    writer.write(post(b"y"))
    assert await body_of(reader) == b"desk anonymous y"
    assert len(desk.offered) == 1


async def test_an_application_error_is_the_handlers_to_tell(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A `PolywireError` that a handler lets out is a fault like any other."""
    served, _ = await desk_of(serve)

    def raising(head: DirectHead, body: bytes, answer: Answer) -> bool:
        answer(201, TEXT, b"first")
        raise Invalid("too late")

    served.listener.router.mount("/two", echo_app)
    served.listener.router.mount_direct("POST", "/two", raising)
    reader, writer = await served.raw(post(b"x").replace(b"/echo", b"/two"))
    assert (await answer_of(reader))[::2] == (201, b"first")
    assert "too late" in caplog.text
    writer.write(post(b"y"))
    assert await body_of(reader) == b"desk anonymous y"
