"""Publishing without a task says and does what publishing with one does: each request is sent both ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from polywire.contract.contract import Contract
from polywire.core.errors import Invalid
from polywire.core.limits import Limits
from polywire.core.message import Message, Record
from polywire.core.streams import parse_start
from polywire.core.topics import TopicSettings
from polywire.server.direct import Answer, DirectHead
from polywire.server.listener import HttpListener
from polywire.server.settings import HttpSettings
from polywire.wires.rest import RestApp
from polywire.wires.rest.binding import receipt_view
from polywire.wires.rest.direct import DirectPublish
from tests.core.harness import DISK_FULL, Rig, until

JSON = b"Content-Type: application/json\r\n"
TEXT = b"Content-Type: text/plain\r\n"
LIMITS = Limits(message_size=1_000, topics_on_use=20)


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.body)
        return shown


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes) -> Answered:
        self.writer.write(request)
        return await self.answer()

    async def answer(self) -> Answered:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            assert headers.pop("date")
            body = await self.reader.readexactly(int(headers.pop("content-length", 0)))
        return Answered(int(status.split()[1]), headers, body)


class Noted:
    """The direct handler, and what it said to each request: True for those it took."""

    def __init__(self, handler: DirectPublish) -> None:
        self.handler = handler
        self.said: list[bool] = []

    def __call__(self, head: DirectHead, body: bytes, answer: Answer) -> bool:
        self.said.append(self.handler(head, body, answer))
        return self.said[-1]


def odd(record: Record) -> None:
    if record.payload == b'"fault"':
        raise ZeroDivisionError("asked to fail")
    if record.payload == b'"wrong"':
        raise Invalid("not a reading", hint="send a reading")


class Served:
    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, LIMITS)
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> Served:
        await self.rig.start(self._declare)
        self.core, self.engine = self.rig.core, self.rig.engine
        self.listener = HttpListener(HttpSettings(port=0), self.core.access)
        self.app = RestApp(self.core, Contract("", (), ()))
        self.app.mount(self.listener.router)
        self.direct = Noted(DirectPublish(self.app))
        self.listener.router.mount_direct("POST", "/topics", self.direct)
        await self.listener.start()
        return self

    def _declare(self, core: Any) -> None:
        core.declare_topic(TopicSettings("readings"), odd)
        core.declare_topic(TopicSettings("memory", durability="memory"))
        core.declare_topic(TopicSettings("small", hard_limit=10, overflow="refuse"))

    async def connect(self) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port)
        self.writers.append(writer)
        return Connection(reader, writer)

    async def stop(self) -> None:
        self.engine.fault = None
        self.engine.let_go()
        await self.rig.stop()
        await self.listener.close()
        for writer in self.writers:
            writer.transport.abort()

    async def key(self, name: str, *allow: str) -> str:
        access = self.core.access
        return (await access.create_key(access.system, name, allow))[1]

    async def messages(self, topic: str) -> list[Message]:
        return (await self.core.read(self.core.access.system, topic, parse_start("earliest"), limit=1_000)).messages

    async def stored(self, topic: str) -> list[Record]:
        return [message.record for message in await self.messages(topic)]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = await Served(tmp_path / "data").start()
    yield served
    await served.stop()


def publish(body: bytes, lines: bytes = JSON, path: bytes = b"/topics/t") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n%b" % (path, lines, len(body), body)


def ordinary_ways(body: bytes, lines: bytes, path: bytes) -> list[bytes]:
    """The same request, made unusual by something that changes nothing."""
    chunks = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return [
        publish(body, lines, path + b"?"),
        publish(body, lines + b"Content-Encoding: identity\r\n", path),
        b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (path, lines, chunks),
    ]


# --- the same answers ------------------------------------------------------------------------------------------------


async def full(served: Served) -> None:
    served.core.log.full = DISK_FULL


async def refusing(served: Served) -> None:
    served.engine.fault = DISK_FULL


async def draining(served: Served) -> None:
    await served.core.drain()


async def keyed(served: Served) -> None:
    await served.key("alice", "publish:only.this")


TOPIC = b"/topics/t"


class Case(NamedTuple):
    body: bytes
    lines: bytes
    path: bytes
    prepare: Callable[[Served], Awaitable[None]] | None
    status: int
    taken: bool | None
    """By the direct handler; None: it is not even offered."""


@pytest.mark.parametrize(
    "case",
    [
        Case(b'{"a": 1}', JSON, TOPIC, None, 201, True),
        Case(b'"\xc3\xa9"', b"Content-Type: application/vnd.x+json; charset=utf-8\r\n", TOPIC, None, 201, True),
        Case(b"{not json", TEXT, TOPIC, None, 201, True),
        Case(b"\x00\xff", b"", TOPIC, None, 201, True),
        Case(b"", TEXT, TOPIC, None, 201, True),
        Case(b"1", JSON, b"/topics/memory", None, 201, True),
        Case(b"1", JSON, b"/topics/a.b-c_d", None, 201, True),
        Case(b"x" * 1_000, TEXT, TOPIC, None, 201, True),
        # the body is wrong
        Case(b"{", JSON, TOPIC, None, 400, True),
        Case(b"", JSON, TOPIC, None, 400, True),
        Case(b'{"a":1}\n{"a":2}', JSON, TOPIC, None, 400, True),
        Case(b'"wrong"', JSON, b"/topics/readings", None, 400, True),
        Case(b'"fault"', JSON, b"/topics/readings", None, 500, True),
        Case(b"x" * 1_001, TEXT, TOPIC, None, 413, False),
        Case(b"x" * 11, TEXT, b"/topics/small", None, 429, True),
        # the topic is wrong
        Case(b"1", JSON, b"/topics/_system", None, 400, True),
        Case(b"1", JSON, b"/topics/*", None, 400, True),
        Case(b"1", JSON, b"/topics/$hub", None, 400, True),
        Case(b"1", JSON, b"/topics/" + b"x" * 600, None, 400, True),
        Case(b"1", JSON, b"/topics/t/", None, 404, False),
        Case(b"1", JSON, b"/topics/t/info", None, 405, False),
        Case(b"1", JSON, b"/topics/t/nothing/here", None, 404, False),
        # the headers say more, or are wrong
        Case(b"1", JSON + b"Polywire-Key: a.b\r\n", TOPIC, None, 201, True),
        Case(b"1", JSON + b"Polywire-Key: " + b"k" * 2_000 + b"\r\n", TOPIC, None, 413, True),
        Case(b"1", JSON + b"Polywire-Header-A: b\r\nPolywire-Retain: 1\r\n", TOPIC, None, 201, True),
        Case(b"a=1", b"Content-Type: application/x-www-form-urlencoded\r\n", TOPIC, None, 201, False),
        Case(b"1", JSON + b"Polywire-Delay: 1h\r\n", TOPIC, None, 202, False),
        Case(b"1", JSON + b"Polywire-Kee: a\r\n", TOPIC, None, 400, False),
        Case(b"1\n2\n", b"Content-Type: application/x-ndjson\r\n", TOPIC, None, 201, False),
        Case(b"1", b"Content-Type: \xff\r\n", TOPIC, None, 400, False),
        Case(b"1", b"Content-Type: " + b"x" * 300 + b"\r\n", TOPIC, None, 400, False),
        Case(b"1", JSON + JSON, TOPIC, None, 400, None),
        Case(b"1", JSON + b"X-API-Key: pw_x_y\r\n", TOPIC, None, 401, None),
        Case(b"1", JSON + b"Authorization: Nothing\r\n", TOPIC, None, 400, None),
        # the hub cannot, or will not
        Case(b"1", JSON, TOPIC, full, 503, True),
        Case(b"1", JSON, TOPIC, refusing, 503, True),
        Case(b"1", JSON, TOPIC, draining, 503, True),
        Case(b"1", JSON, TOPIC, keyed, 401, True),
    ],
)
async def test_both_ways_answer_the_same(served: Served, case: Case) -> None:
    body, lines, path = case[:3]
    if path == TOPIC:  # so that no way finds a hub that another has changed
        await (await served.connect()).ask(publish(b"1", path=path))
        served.direct.said.clear()
    if case.prepare is not None:
        await case.prepare(served)
    counters, connection = served.app.counters, await served.connect()
    before = counters.received, counters.errors
    first = await connection.ask(publish(body, lines, path))
    counted = counters.received - before[0], counters.errors - before[1]
    assert served.direct.said == ([] if case.taken is None else [case.taken])
    assert first.status == case.status, first
    for request in ordinary_ways(body, lines, path):
        before = counters.received, counters.errors
        other = await connection.ask(request)
        assert (other.status, other.headers) == (first.status, first.headers)
        assert said(other) == said(first)
        assert (counters.received - before[0], counters.errors - before[1]) == counted
    assert len(served.direct.said) == (case.taken is not None), "the others went the ordinary way"


def said(answer: Answered) -> dict[str, Any]:
    """The body, without what is another one's each time."""
    shown = answer.json
    for receipt in shown.get("receipts", [shown]):
        for name in {"id", "position", "time", "due"} & receipt.keys():
            receipt[name] = None if receipt[name] is None else type(receipt[name])
    return shown


async def test_what_is_never_plain_is_offered_once(served: Served) -> None:
    connection = await served.connect()
    for _ in range(3):
        assert (await connection.ask(publish(b"1", JSON + b"Idempotency-Key: a\r\n"))).status == 201
    assert (await connection.ask(publish(b"1"))).status == 201
    assert served.direct.said == [False, True]


async def test_a_key_in_the_query(served: Served) -> None:
    connection = await served.connect()
    for path, body in ((b"?key=a.b", b"1"), (b"?key=%C3%A9+x", b"2"), (b"?key=", b"3")):
        for lines in (JSON, JSON + b"Content-Encoding: identity\r\n"):
            assert (await connection.ask(publish(body, lines, TOPIC + path))).status == 201
    assert [record.key for record in await served.stored("t")] == [b"a.b"] * 2 + ["é x".encode()] * 2 + [b""] * 2
    assert served.direct.said == [True] * 3
    for path, lines in ((b"?kee=a", JSON), (b"?key=a&key=b", JSON), (b"?key=a", JSON + b"Polywire-Key: b\r\n")):
        refused = await connection.ask(publish(b"1", lines, TOPIC + path))
        assert refused.status == 400
        assert await connection.ask(publish(b"1", lines + b"TE: x\r\n", TOPIC + path)) == refused


async def test_both_ways_store_the_same(served: Served) -> None:
    key = await served.key("alice", "publish:t")
    lines = b"X-API-Key: " + key.encode() + b"\r\n"
    connection = await served.connect()
    for request in (publish(b'{"a": 1.0}', JSON + lines), *ordinary_ways(b'{"a": 1.0}', JSON + lines, TOPIC)):
        assert (await connection.ask(request)).status == 201
    assert served.direct.said == [True]
    first, *others = await served.stored("t")
    assert first.payload == b'{"a": 1.0}'
    assert first.origin is not None
    assert (first.origin.principal, first.origin.wire, first.origin.client) == ("alice", "rest", "127.0.0.1")
    for other in others:
        other.id = first.id
        assert other == first


async def test_a_receipt_is_that_of_the_message(served: Served) -> None:
    connection = await served.connect()
    for number in range(3):
        receipt = (await connection.ask(publish(b"%d" % number))).json
        assert receipt.keys() == {"id", "position", "topic", "key", "time"}
        last = (await served.messages("t"))[-1]
        assert (receipt["id"], receipt["position"]) == (last.record.id, str(last.position))
        assert last.record.payload == b"%d" % number


# --- the commit ------------------------------------------------------------------------------------------------------


async def test_the_answer_waits_for_the_commit(served: Served) -> None:
    served.engine.holding = True
    connections = [await served.connect() for _ in range(5)]
    answers = [asyncio.ensure_future(one.ask(publish(b"1"))) for one in connections]
    await until(lambda: len(served.direct.said) == 5)
    await until(lambda: served.engine.held)
    assert not any(answer.done() for answer in answers)
    assert served.app.counters.received == 0
    served.engine.let_go()
    assert [answer.status for answer in await asyncio.gather(*answers)] == [201] * 5
    assert served.app.counters.received == 5


async def test_pipelined_publishes_are_stored_and_answered_in_order(served: Served) -> None:
    connection = await served.connect()
    connection.writer.write(
        b"".join(publish(b"%d" % number, path=b"/topics/t%d" % (number % 3)) for number in range(60))
    )
    receipts = [(await connection.answer()).json for _ in range(60)]
    assert [receipt["topic"] for receipt in receipts] == [f"t{number % 3}" for number in range(60)]
    for topic in range(3):
        assert [int(record.payload) for record in await served.stored(f"t{topic}")] == list(range(topic, 60, 3))


async def test_a_client_that_leaves_has_published_all_the_same(served: Served) -> None:
    await (await served.connect()).ask(publish(b"0"))
    served.engine.holding = True
    connection = await served.connect()
    connection.writer.write(publish(b"1"))
    await until(lambda: len(served.direct.said) == 2)
    connection.writer.transport.abort()
    await until(lambda: len(served.listener.state.connections) == 1)
    served.engine.let_go()
    assert (await (await served.connect()).ask(publish(b"2"))).status == 201
    assert [record.payload for record in await served.stored("t")] == [b"0", b"1", b"2"]


async def test_a_log_that_is_behind_is_waited_for_the_ordinary_way(served: Served, tmp_path: Path) -> None:
    served.core.log.limits = Limits(uncommitted_size=10)
    await (await served.connect()).ask(publish(b"0"))
    served.engine.holding = True
    first, second = await served.connect(), await served.connect()
    answers = [asyncio.ensure_future(first.ask(publish(b'"0123456789"')))]
    await until(lambda: served.core.congested)
    answers.append(asyncio.ensure_future(second.ask(publish(b"2"))))
    await until(lambda: served.direct.said == [True, True, False])
    assert not any(answer.done() for answer in answers)
    served.engine.let_go()
    assert [answer.status for answer in await asyncio.gather(*answers)] == [201, 201]


async def test_stopping_answers_what_is_open(served: Served) -> None:
    await (await served.connect()).ask(publish(b"0"))
    served.engine.holding = True
    connection = await served.connect()
    connection.writer.write(publish(b"1"))
    await until(lambda: len(served.direct.said) == 2)
    stopping = asyncio.gather(served.core.drain(), served.listener.drain(10))
    await until(lambda: served.core.phase == "draining")
    served.engine.let_go()
    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (201, "close")
    assert await connection.reader.read() == b""
    await asyncio.wait_for(stopping, 10)


async def test_a_receipt_that_cannot_be_shown_harms_nobody_else(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells everybody of a commit in one loop: what one of them raises must not reach it."""

    def failing(receipt: Any) -> Any:
        if receipt.topic == "bad":
            raise ZeroDivisionError("asked to fail")
        return receipt_view(receipt)

    monkeypatch.setattr("polywire.wires.rest.direct.receipt_view", failing)
    connections = [await served.connect() for _ in range(4)]
    for topic in (b"/topics/good", b"/topics/bad"):
        await connections[0].ask(publish(b"0", path=topic))
    served.engine.holding = True
    paths = (b"/topics/good", b"/topics/bad", b"/topics/good", b"/topics/good")
    answers = [asyncio.ensure_future(one.ask(publish(b"1", path=p))) for one, p in zip(connections, paths, strict=True)]
    await until(lambda: len(served.direct.said) == 6)
    served.engine.let_go()
    assert [answer.status for answer in await asyncio.gather(*answers)] == [201, 500, 201, 201]
    assert "asked to fail" in caplog.text


async def test_a_commit_told_of_before_there_are_receipts(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await served.connect()).ask(publish(b"0"))
    post = served.core.post

    def at_once(principal: Any, topic: str, records: list[Record], done: Any) -> Any:
        receipts = post(principal, topic, records)
        done(None)
        return receipts

    monkeypatch.setattr(served.core, "post", at_once)
    answer = await (await served.connect()).ask(publish(b"1"))
    assert (answer.status, answer.json["topic"]) == (201, "t")


async def test_a_refused_publish_that_is_told_of_later_is_answered_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def refusing(principal: Any, topic: str, records: list[Record], done: Any) -> Any:
        told.append(done)
        raise Invalid("no")

    with monkeypatch.context() as patched:
        patched.setattr(served.core, "post", refusing)
        connection = await served.connect()
        assert (await connection.ask(publish(b"1"))).status == 400
    told[0](None)
    assert (await connection.ask(publish(b"1"))).status == 201
    assert (served.app.counters.received, served.app.counters.errors) == (1, 1)


# --- the door --------------------------------------------------------------------------------------------------------


async def test_a_key_revoked_between_two_publishes(served: Served) -> None:
    lines = JSON + b"X-API-Key: " + (await served.key("alice", "publish:t")).encode() + b"\r\n"
    connection = await served.connect()
    assert (await connection.ask(publish(b"1", lines))).status == 201
    denied = await connection.ask(publish(b"1", lines, b"/topics/other"))
    assert (denied.status, denied.json["code"]) == (403, "denied")
    for request in ordinary_ways(b"1", lines, b"/topics/other"):
        assert await connection.ask(request) == denied
    assert served.direct.said == [True, True]
    await served.core.access.revoke_key(served.core.access.system, "alice")
    refused = await connection.ask(publish(b"1", lines))
    assert (refused.status, refused.json["code"]) == (401, "unauthenticated")
    assert len(await served.stored("t")) == 1


async def test_the_first_key_made_between_two_publishes(served: Served) -> None:
    connection = await served.connect()
    assert (await connection.ask(publish(b"1"))).status == 201
    await served.key("alice", "publish:t")
    refused = await connection.ask(publish(b"1"))
    assert (refused.status, refused.json["code"]) == (401, "unauthenticated")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert len(await served.stored("t")) == 1


async def test_a_key_revoked_while_its_publish_is_committed(served: Served) -> None:
    """It was allowed when it came: it is stored and told so, as ever."""
    lines = JSON + b"X-API-Key: " + (await served.key("alice", "publish:t")).encode() + b"\r\n"
    connection = await served.connect()
    assert (await connection.ask(publish(b"0", lines))).status == 201
    served.engine.holding = True
    asking = asyncio.ensure_future(connection.ask(publish(b"1", lines)))
    await until(lambda: len(served.direct.said) == 2)
    revoking = asyncio.ensure_future(served.core.access.revoke_key(served.core.access.system, "alice"))
    await until(lambda: served.engine.held)
    served.engine.let_go()
    await revoking
    assert (await asking).status == 201
