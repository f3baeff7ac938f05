"""What peers do wrong or too much of: every bound tenfold, peers that do not read, cut frames, a log that fails."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from polywire import Hub
from polywire.core.limits import Limits
from polywire.core.streams import Earliest
from polywire.server.listener import HttpListener
from polywire.wires.websocket.jsonrpc.binding import CODES
from polywire.wires.websocket.jsonrpc.methods import METHODS
from tests.core.harness import FaultyEngine
from tests.wires.websocket.jsonrpc.conftest import RpcHub, Serve

MIB = 1 << 20
UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def frame(text: bytes, first: int = 0x81) -> bytes:
    """A masked frame, the mask all zeros (RFC 6455 §5.2)."""
    size = len(text)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return head + bytes(4) + text


def request(method: str, params: Any = None, id: Any = None) -> bytes:
    said: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        said["params"] = params
    if id is not None:
        said["id"] = id
    return json.dumps(said).encode()


class Peer:
    """Bytes on a socket, read only when asked to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def connect(cls, hub: RpcHub) -> AsyncIterator[Peer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener(hub).port, limit=4_096)
        try:
            writer.write(UPGRADE.encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.startswith(b"HTTP/1.1 101")
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def answer(self) -> Any:
        head = await asyncio.wait_for(self.reader.readexactly(2), 10)
        size = head[1]
        if size >= 126:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
        body = await asyncio.wait_for(self.reader.readexactly(size), 10)
        return int.from_bytes(body[:2], "big") if head[0] == 0x88 else json.loads(body)

    def cut(self) -> None:
        self.writer.transport.abort()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def listener(hub: RpcHub) -> HttpListener:
    assert hub.served.server.http is not None
    return hub.served.server.http


def waiting_bytes(hub: RpcHub) -> int:
    """What the hub keeps for its peers to read, in the buffers of its sockets."""
    return sum(connection.transport.get_write_buffer_size() for connection in list(listener(hub).state.connections))


def endless(hub: Hub | None = None) -> Hub:
    hub = hub or Hub("endless", strict=False)

    @hub.operation
    async def wait() -> None:
        await asyncio.sleep(3_600)

    @hub.operation
    async def large() -> str:
        return "x" * 100_000

    return hub


# bounds, tenfold ------------------------------------------------------------------------------------------------------


async def test_requests_in_a_batch(serve: Serve) -> None:
    hub = await serve(jsonrpc={"batch": 10})
    async with hub.client() as client:
        await client.socket.send(b"[%b]" % b",".join([request("ping", id=n) for n in range(100)]))
        refused = await asyncio.wait_for(client.stray.get(), 10)
        assert (refused["id"], refused["error"]["code"], refused["error"]["data"]["limit"]) == (None, -32013, 10)
        await client.socket.send(b"[%b]" % b",".join([request("ping", id=n) for n in range(10)]))
        assert {(await client.stray.get())["id"] for _ in range(10)} == set(range(10))


async def test_requests_in_flight(serve: Serve) -> None:
    hub = await serve(endless(), jsonrpc={"in_flight": 10})
    async with hub.client() as client:
        waiting = [await client.start("wait", id=n) for n in range(100)]
        for future in waiting[10:]:
            with pytest.raises(Exception, match="at most 10") as caught:
                await asyncio.wait_for(future, 10)
            assert caught.value.code == -32029  # type: ignore[attr-defined]
        assert sum(future.done() for future in waiting) == 90
        for _ in range(100):  # those without an id have the same bound, and errors that are counted
            await client.notify("wait")
        await hub.until(lambda: hub.core.counters.wire("websocket").errors == 90 + 90)
        assert next(one.counters.running for one in hub.core.calls if one.name == "wait") == 20
    await hub.until(lambda: next(one.counters.running for one in hub.core.calls if one.name == "wait") == 0)


async def test_subscriptions(serve: Serve) -> None:
    hub = await serve(jsonrpc={"subscriptions": 5})
    async with hub.client() as client:
        outcomes = []
        for n in range(50):
            method, params = (
                ("subscribe", {"topic": "t"}) if n % 2 else ("consume", {"queue": "q", "topic": "t", "credit": 1})
            )
            future = await client.start(method, params)
            outcomes.append(await asyncio.wait_for(asyncio.wait([future]), 10) and future.exception())
        assert [error is None for error in outcomes] == [True] * 5 + [False] * 45
        assert {error.code for error in outcomes if error is not None} == {-32029}  # type: ignore[attr-defined]
        await client.call("unsubscribe", subscription=3)
        await client.call("subscribe", topic="t")
    await hub.until(lambda: hub.core.metrics()["followers"] == 0)
    assert hub.core.subscriptions.info(hub.system, "q").consumers == 0


async def test_unsettled_deliveries(serve: Serve) -> None:
    hub = await serve(jsonrpc={"unsettled": 10})
    async with hub.client() as client:
        assert (await client.error("consume", queue="q", topic="t", credit=100)).paths == ["$.credit"]
        assert (await client.call("consume", queue="q"))["credit"] == 10, "what is left, where nothing is said"
        assert (await client.error("consume", queue="q")).code == -32029
        assert (await client.error("credit", subscription=1, credit=1)).code == -32029
        await client.call("unsubscribe", subscription=1)
        await client.call("consume", queue="q", credit=4)
        await client.call("credit", subscription=2, credit=6)
        await hub.publish("t", *range(100))
        assert len(await client.deliveries(10)) == 10
        assert await client.call("ping") == "pong"
        assert client.queue("delivery").empty()


async def test_the_size_of_a_message(serve: Serve) -> None:
    hub = await serve(jsonrpc={"message_size": 200_000})
    async with hub.client() as client:
        assert await client.call("publish", topic="t", data="x" * 190_000)
    for compression in (None, "deflate"):
        async with hub.client(compression=compression) as client:
            with pytest.raises((ConnectionError, ConnectionClosed)):
                await client.call("publish", topic="t", data="x" * 2_000_000)
            await asyncio.wait_for(client.socket.wait_closed(), 10)
            assert client.socket.close_code == 1009


async def test_a_megabyte_fits_in_base64(serve: Serve) -> None:
    import base64

    hub = await serve()
    payload = os.urandom(MIB)
    async with hub.client(max_size=4 * MIB) as client:
        await client.call("subscribe", topic="t")
        await client.call("publish", topic="t", data_base64=base64.b64encode(payload).decode())
        (message,) = (await client.told("message"))["messages"]
        assert base64.b64decode(message["data_base64"]) == payload


# peers that do not read -----------------------------------------------------------------------------------------------


async def test_a_flood_of_requests_whose_answers_nobody_reads(serve: Serve) -> None:
    hub = await serve(websocket={"out_buffer": 64 << 10, "slow_timeout": 500}, jsonrpc={"held_size": 64 << 10})
    async with Peer.connect(hub) as peer:
        flood = b"".join([frame(request("ping", id=n)) for n in range(2_000)])
        sent, most = 0, 0

        async def sending() -> None:
            nonlocal sent
            while True:
                await peer.send(flood)
                sent += len(flood)

        task = asyncio.create_task(sending())
        async with hub.client() as other:
            while listener(hub).state.slow_closed == 0:
                most = max(most, waiting_bytes(hub))
                assert await other.call("ping") == "pong"
            await hub.until(lambda: hub.connections == 1)
        task.cancel()
        assert most < 64 * 1024 + 256 * 1024, "the out-buffer, and what one turn writes"
        assert sent < 64 * MIB, "the peer was held"


async def test_deliveries_nobody_reads_wait_as_what_they_are(serve: Serve) -> None:
    hub = await serve(websocket={"out_buffer": 64 << 10}, jsonrpc={"notification_size": 32 << 10})
    await hub.core.subscriptions.create(hub.system, *made_queue("q"))
    for n in range(200):
        await hub.publish("t", f"{n} " + "x" * 50_000)
    async with Peer.connect(hub) as peer:
        await peer.send(frame(request("consume", {"queue": "q", "credit": 200}, id=1)))
        await hub.until(lambda: hub.core.subscriptions.info(hub.system, "q").unsettled == 200)
        await asyncio.sleep(0.05)
        assert waiting_bytes(hub) < 64 * 1024 + 2 * 51_000
        assert (await peer.answer())["result"]["subscription"] == 1
        seen = []
        while len(seen) < 200:
            deliveries = (await peer.answer())["params"]["deliveries"]
            seen += [one["message"]["data"].split()[0] for one in deliveries]
            await peer.send(*[frame(request("ack", {"delivery": one["delivery"]})) for one in deliveries])
        assert seen == [str(n) for n in range(200)]
        await hub.until(lambda: hub.core.subscriptions.info(hub.system, "q").pending == 0)


def made_queue(name: str) -> tuple[Any, Any]:
    from polywire.core.routing import Source
    from polywire.core.subscription import SubscriptionSettings

    return SubscriptionSettings(name=name, sources=[Source("t")]), Earliest()


async def test_streams_nobody_reads_stay_in_the_log(serve: Serve) -> None:
    hub = await serve(Hub("quiet", strict=False, limits=Limits(tail_size=MIB)), websocket={"out_buffer": 64 << 10})
    async with Peer.connect(hub) as peer:
        for n in range(10):
            await peer.send(frame(request("subscribe", {"topic": "t", "from": "earliest"}, id=n)))
        await hub.until(lambda: hub.core.metrics()["followers"] == 10)
        before = resident()
        for n in range(80):
            await hub.publish("t", f"{n} " + "x" * 100_000)
        assert waiting_bytes(hub) < 64 * 1024 + 2 * 101_000
        assert resident() - before < 24 * MIB, "all of it to all were 80 MiB"
        seen: dict[int, list[int]] = {}
        while sum(len(numbers) for numbers in seen.values()) < 10 * 80:
            said = await peer.answer()
            if said.get("method") == "message":
                numbers = [int(one["data"].split()[0]) for one in said["params"]["messages"]]
                seen.setdefault(said["params"]["subscription"], []).extend(numbers)
        assert set(seen) == set(range(1, 11))
        assert all(numbers == list(range(80)) for numbers in seen.values())
    await hub.until(lambda: hub.core.metrics()["followers"] == 0)


async def test_acknowledgements_go_on_while_the_peer_reads_slowly(serve: Serve) -> None:
    """Its buffer is full of a stream; what it says all the same is done."""
    hub = await serve(websocket={"out_buffer": 32 << 10})
    await hub.core.subscriptions.create(hub.system, *made_queue("q"))
    await hub.publish("t", "first")
    async with Peer.connect(hub) as peer:
        await peer.send(frame(request("consume", {"queue": "q"}, id=1)))
        await peer.answer()
        delivery = (await peer.answer())["params"]["deliveries"][0]["delivery"]
        await peer.send(frame(request("subscribe", {"topic": "noise"}, id=2)))
        await hub.until(lambda: hub.core.metrics()["followers"] == 1)
        await hub.publish("noise", *["x" * 100_000] * 100)
        await peer.send(frame(request("ack", {"delivery": delivery})))
        await hub.until(lambda: hub.core.subscriptions.info(hub.system, "q").pending == 0)


# the log --------------------------------------------------------------------------------------------------------------


async def test_publishes_wait_for_the_log_and_the_rest_goes_on(tmp_path: Path, serve: Serve) -> None:
    engine = FaultyEngine(tmp_path / "held")
    hub = await serve(Hub("held", strict=False, limits=Limits(uncommitted_size=50_000)), engine=engine)
    async with hub.client() as client:
        await client.call("publish", topic="t", data=-1)
        engine.holding = True
        futures = [await client.start("publish", {"topic": "t", "data": f"{n} " + "x" * 5_000}) for n in range(40)]
        assert await client.call("ping") == "pong"
        assert await client.call("subscribe", topic="t")
        assert not any(future.done() for future in futures)
        assert hub.core.congested
        engine.let_go()
        receipts = await asyncio.wait_for(asyncio.gather(*futures), 10)
        assert [one["position"] for one in receipts] == [f"1-0-{n}" for n in range(1, 41)], "in their order"
        assert len(await client.messages(40)) == 40


async def test_what_waits_does_not_keep_the_frames_it_came_in(tmp_path: Path, serve: Serve) -> None:
    """Small publishes in large frames, while the log is behind, and calls that stay open."""
    engine = FaultyEngine(tmp_path / "held")
    limits = Limits(uncommitted_size=10_000)
    hub = await serve(endless(Hub("held", strict=False, limits=limits)), engine=engine)
    async with hub.client() as client:
        await client.call("publish", topic="t", data=0)
        engine.holding = True
        await client.start("publish", {"topic": "t", "data": "x" * 20_000})
        filler = " " * MIB
        before = resident()
        for n in range(100):
            method, params = ("publish", '{"topic":"t","data":1}') if n % 2 else ("wait", "{}")
            said = f'{{"jsonrpc":"2.0","id":"f{n}","method":"{method}","params":{params}{filler}}}'
            await client.socket.send(said)
        assert await client.call("ping") == "pong"
        assert resident() - before < 32 * MIB, "the frames were 100 MiB"
        engine.let_go()


async def test_a_flood_of_publishes_without_ids_is_held_and_loses_nothing(serve: Serve) -> None:
    hub = await serve(Hub("held", strict=False, limits=Limits(uncommitted_size=100_000)), jsonrpc={"held_size": 20_000})
    async with hub.client() as client, hub.client() as reader:
        await reader.call("subscribe", topic="t")
        for n in range(2_000):
            await client.notify("publish", topic="t", data=f"{n} " + "x" * 3_000)
        got = await reader.messages(2_000)
        assert [int(text.split()[0]) for text in got] == list(range(2_000))
    assert hub.core.counters.wire("websocket").errors == 0


async def test_a_commit_that_fails_is_the_publishers_error(tmp_path: Path, serve: Serve) -> None:
    engine = FaultyEngine(tmp_path / "faulty")
    hub = await serve(engine=engine)
    await hub.core.subscriptions.create(hub.system, *made_queue("q"))
    await hub.publish("t", 1)
    async with hub.client() as client:
        await client.call("consume", queue="q")
        (one,) = await client.deliveries(1)
        engine.fault = "the disk is full"
        errors = await asyncio.gather(
            client.error("publish", topic="t", data=1),
            client.error("publish", topic="t", messages=[{"data": 1}, {"data": 2}]),
            client.error("ack", delivery=one["delivery"]),
        )
        assert [(error.code, error.data["code"]) for error in errors] == [(-32053, "unavailable")] * 3
        assert errors[0].data["retryable"] is True
        engine.fault = None
        await client.call("publish", topic="t", data=2)


# bytes ----------------------------------------------------------------------------------------------------------------


async def test_text_and_bytes_that_are_no_requests(serve: Serve) -> None:
    hub = await serve()
    async with Peer.connect(hub) as peer:
        await peer.send(frame(b"\xff", 0x82), frame(b"{"), frame(b"[]"), frame(request("ping", id="ü"), 0x82))
        assert [(await peer.answer())["error"]["code"] for _ in range(3)] == [-32700, -32700, -32600]
        assert await peer.answer() == {"jsonrpc": "2.0", "id": "ü", "result": "pong"}
        await peer.send(frame(b"\xff"))
        assert await peer.answer() == 1007, "text that is not UTF-8 is against RFC 6455 §8.1"


async def test_requests_in_pieces_and_byte_by_byte(serve: Serve) -> None:
    hub = await serve()
    async with Peer.connect(hub) as peer:
        text = request("publish", {"topic": "t", "data": {"a": [1, 2, 3]}}, id=1)
        for byte in frame(text):
            await peer.send(bytes((byte,)))
        assert (await peer.answer())["result"]["topic"] == "t"
        await peer.send(frame(text[:20], 0x01), frame(text[20:40], 0x00), frame(text[40:], 0x80))
        assert (await peer.answer())["result"]["position"] == "1-0-1"


async def test_half_a_request_does_nothing(serve: Serve) -> None:
    hub = await serve()
    whole = frame(request("publish", {"topic": "t", "data": "x" * 1_000}, id=1))
    for cut in (1, 5, 100, len(whole) - 1):
        async with Peer.connect(hub) as peer:
            await peer.send(whole[:cut])
    await hub.until(lambda: hub.connections == 0)
    assert hub.core.catalog.get("t") is None


@pytest.mark.parametrize(
    "texts",
    [
        [b"[" * 50_000, b'{"a":' * 50_000, b"[[[[" * 20_000 + b"]]]]" * 20_000],
        [b"[%b]" % b",".join([b"1"] * 500_000)],
        [request("publish", {str(n): 1 for n in range(100_000)}, id=1)],
        [request("publish", {"topic": "t", "messages": [1] * 500_000}, id=1)],
        [b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % (b"9" * 1_000_000)],
        [request("x" * 1_000_000, id=1)],
        [request("subscribe", {"topic": "t", "key": ".".join(["#"] * 100_000)}, id=1)],
        [request("subscribe", {"topic": "t", "key": "#.a." * 400_000}, id=1)],
        [request("consume", {"queue": "q", "topic": "t", "key": "#.a." * 400_000}, id=1)],
        [request("ack", {"deliveries": ["x"] * 100_000}, id=1)],
        [request("publish", {"topic": "t", "messages": [{}] * 500_000}, id=1)],
        [request("publish", {"topic": "t", "messages": [{"data": 1}] * 100_000}, id=1)],
        [request("publish", {"topic": "t", "data": 1, "headers": {"": [""] * 400_000}}, id=1)],
        [request("publish", {"topic": "t", "data": 1, "headers": {"a": [[]] * 400_000}}, id=1)],
    ],
)  # fmt: skip
async def test_hostile_texts_cost_little(serve: Serve, texts: Sequence[bytes]) -> None:
    hub = await serve()
    async with Peer.connect(hub) as peer:
        loop = asyncio.get_running_loop()
        for text in texts:
            await peer.send(frame(text))
            began = loop.time()
            answer = await peer.answer()
            assert answer["error"]["code"] in (-32700, -32600, -32601, -32602, -32013, -32004)
            assert loop.time() - began < 5  # a busy machine's; what grows with the square takes minutes
            assert len(json.dumps(answer)) < 20_000
        await peer.send(frame(request("ping", id=2)))
        assert (await peer.answer())["result"] == "pong"


NAMES = [
    "topic", "data", "data_base64", "key", "headers", "id", "idempotency_key", "content_type", "delay", "retain",
    "messages", "from", "credit", "queue", "ordered", "attempts", "subscription", "delivery", "deliveries", "after",
    "reason", "operation", "arguments", "timeout", "limit", "job", "wait", "time", "priority", "expires", "durable",
]  # fmt: skip


def anything(dice: random.Random, depth: int = 0) -> Any:
    """Values near those that mean something."""
    match dice.randrange(14 if depth < 3 else 10):
        case 0 | 1:
            return dice.choice(
                ["t", "q", "large", "", "latest", "1-0-0", "*.#", "5s", "1.1-a", "é" * 9, "\x00", "YQ=="]
            )
        case 2:
            return dice.choice([0, 1, -1, 2, 1 << 31, 1 << 63, -(1 << 70), 10**300])
        case 3:
            return dice.choice([0.5, -0.0, 1e308, True, False, None])
        case number if number < 10:
            return dice.choice(["t", "t", "q", 1, 1, "2026-01-01T00:00:00Z", {"a": 1}, ["1.1-a"], [], {}])
        case 10 | 11:
            return [anything(dice, depth + 1) for _ in range(dice.randrange(4))]
        case _:
            return {dice.choice(NAMES): anything(dice, depth + 1) for _ in range(dice.randrange(5))}


@pytest.mark.parametrize("seed", range(4))
async def test_any_parameters_of_any_method(serve: Serve, seed: int) -> None:
    """What comes out is a result or a documented error, never ours; and one answer for each."""
    dice = random.Random(seed)
    hub = await serve(endless())
    async with hub.client() as client:
        futures = []
        for n in range(500):
            method = dice.choice([*METHODS, "large", "nope"])
            params = {dice.choice(NAMES): anything(dice, 1) for _ in range(dice.randrange(6))}
            futures.append(await client.start(method, params if dice.random() < 0.9 else anything(dice), id=f"n{n}"))
            if n % 50 == 49:
                await asyncio.wait_for(asyncio.wait(futures), 20)
        codes = {error.code for future in futures if (error := future.exception()) is not None}  # type: ignore[attr-defined]
        assert codes <= set(CODES.values()) - {CODES["internal"]}
        assert await client.call("ping") == "pong"


# the end --------------------------------------------------------------------------------------------------------------


async def test_a_hub_that_stops_answers_what_runs_and_closes(serve: Serve) -> None:
    hub = Hub("stopping", strict=False)
    go, begun = asyncio.Event(), asyncio.Event()

    @hub.operation
    async def work() -> str:
        begun.set()
        await go.wait()
        return "done"

    running = await serve(hub)
    async with running.client() as client:
        await client.call("subscribe", topic="t")
        working = await client.start("work")
        await asyncio.wait_for(begun.wait(), 10)
        stopping = asyncio.create_task(running.served.server.stop())
        await running.until(lambda: not running.core.ready)
        assert (await client.error("publish", topic="t", data=1)).code == -32053
        with pytest.raises(InvalidStatus, match="503"):
            await connect(running.url).__aenter__()
        go.set()
        assert await asyncio.wait_for(working, 10) == "done"
        await asyncio.wait_for(client.socket.wait_closed(), 10)
        assert client.socket.close_code == 1001
        await stopping
