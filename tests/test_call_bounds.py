"""The bounds of calls, jobs, formats and JSON-RPC, exceeded tenfold as in test_bounds.py: refused or held as
documented, the process does not grow with what was sent, and the hub goes on."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from polywire import Call, File, Hub, Limits
from polywire.formats.forms import FormLimits
from polywire.formats.multipart import MultipartLimits
from polywire.formats.xml import XmlLimits
from polywire.server.settings import WebSocketSettings
from polywire.wires.rest.settings import RestSettings
from polywire.wires.websocket import JsonRpcSettings
from tests.bounds import JSON, KIB, MIB, Served, grows_at_most, serving
from tests.core.harness import FaultyEngine
from tests.test_bounds import UPGRADE

ASYNC = {"Prefer": "respond-async"}
PIECE = "x" * 32 * KIB


@dataclass
class Order:
    numbers: list[int] = field(default_factory=list)
    note: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def application() -> Hub:
    hub = Hub("bounds", strict=False)
    hub.topic("orders", Order)
    hub.topic("files")

    @hub.operation
    async def echo(text: str) -> str:
        return text

    @hub.operation
    async def gate(text: str = "") -> None:
        await asyncio.Event().wait()

    @hub.operation
    async def large(size: int) -> str:
        return "x" * size

    @hub.operation(safe=True)
    async def take(order: Order) -> int:
        return len(order.numbers)

    @hub.operation
    async def look(file: File, note: str = "") -> int:
        return len(file.content)

    @hub.operation(safe=True)
    async def flow(call: Call) -> AsyncIterator[str]:
        while True:
            hub.core.counters.wire("flow").delivered += 1
            yield PIECE

    @hub.operation
    async def report(size: int, times: int, call: Call) -> None:
        for number in range(times):
            call.progress(f"{number:0{size}}")
            if number % 100 == 0:
                await asyncio.sleep(0)

    return hub


Ask = Callable[[], Awaitable[int]]


def calls(hub: Served, name: str, headers: dict[str, str] | None = None, **arguments: Any) -> Ask:
    said = {**JSON, **(headers or {})}
    return lambda: hub.status("POST", f"/operations/{name}", data=json.dumps(arguments), headers=said)


async def answer(hub: Served, method: str, path: str, **given: Any) -> Any:
    async with hub.client.request(method, hub.url + path, **given) as answered:
        return await answered.json()


# --- calls -----------------------------------------------------------------------------------------------------------


async def test_calls_that_run(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(calls=20), hub=application()) as hub:
        running = [asyncio.ensure_future(calls(hub, "gate")()) for _ in range(20)]
        await hub.until(lambda: hub.core.calls.running == 20)
        with grows_at_most(8 * MIB):
            more = [calls(hub, "gate", text=PIECE), calls(hub, "gate", {"Idempotency-Key": "k"}, text=PIECE)] * 200
            assert await hub.statuses(more) == {429: 400}
        assert await hub.status("GET", "/operations/flow") == 429
        for task in running:
            task.cancel()
        await hub.until(lambda: hub.core.calls.running == 0)
        await hub.assert_alive()


async def test_calls_that_do_not_end(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(call_timeout=100), hub=application()) as hub:
        with grows_at_most(8 * MIB):
            assert await hub.statuses([calls(hub, "gate", text=PIECE)] * 400, at_once=100) == {504: 400}
        assert hub.core.calls.running == 0
        await hub.assert_alive()


async def test_arguments_and_results(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(message_size=64 * KIB), hub=application()) as hub:
        with grows_at_most(12 * MIB):
            for number in range(30):
                key = {"Idempotency-Key": f"{number}"}
                for headers in ({}, key, ASYNC):
                    assert await calls(hub, "echo", headers, text="x" * 640 * KIB)() == 413
                assert await calls(hub, "large", size=640 * KIB)() == 200
                assert await calls(hub, "large", key, size=640 * KIB)() == 413, "it is not kept"
        job = await answer(hub, "POST", "/operations/large", json={"size": 640 * KIB}, headers=ASYNC)
        job = await answer(hub, "GET", f"/jobs/{job['id']}?wait=5s")
        assert (job["status"], job["error"]["code"]) == ("failed", "too_large")
        await hub.assert_alive()


@pytest.mark.parametrize("wire", ["lines", "events", "json-rpc"])
async def test_a_stream_that_nobody_reads(tmp_path: Path, wire: str) -> None:
    """The operation is no faster than its reader."""
    sockets = WebSocketSettings(out_buffer=256 * KIB)
    async with serving(tmp_path, hub=application(), websocket=sockets) as hub:
        counter = hub.core.counters.wire("flow")
        with grows_at_most(20 * MIB):
            if wire == "json-rpc":
                peers = [await hub.stalled("/ws", UPGRADE) for _ in range(10)]
                for peer in peers:
                    peer.send(frame({"jsonrpc": "2.0", "id": 1, "method": "flow"}))
            else:
                accept = "Accept: text/event-stream\r\n" if wire == "events" else ""
                peers = [await hub.stalled("/operations/flow", accept) for _ in range(10)]
            await hub.until(lambda: hub.core.calls.running == 10 and counter.delivered > 20)
            before = -1
            while before != counter.delivered:
                before = counter.delivered
                await asyncio.sleep(0.05)
        assert counter.delivered * len(PIECE) < 40 * MIB, "what the sockets of both sides hold"
        await hub.assert_alive()
        for peer in peers:
            peer.close()
        await hub.until(lambda: hub.core.calls.running == 0)


def frame(said: dict[str, Any]) -> bytes:
    """A masked frame, the mask all zeros (RFC 6455 §5.2)."""
    text = json.dumps(said).encode()
    assert len(text) < 126
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


# --- jobs and replies ------------------------------------------------------------------------------------------------


async def test_jobs_that_wait(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(jobs=50), hub=application()) as hub:
        with grows_at_most(12 * MIB):
            submit = calls(hub, "echo", {**ASYNC, "Polywire-Delay": "1h"}, text=PIECE)
            assert await hub.statuses([submit] * 500, at_once=1) == {202: 50, 429: 450}
            assert set(await hub.statuses([submit] * 500)) == {429}
        assert hub.core.metrics()["jobs"] == 50
        await hub.assert_alive()


async def test_jobs_that_have_ended(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(jobs=50, tail_size=MIB), hub=application()) as hub:
        ids: list[str] = []

        async def run() -> int:
            job = await answer(hub, "POST", "/operations/echo", json={"text": PIECE}, headers=ASYNC)
            ids.append(job["id"])
            return await hub.status("GET", f"/jobs/{job['id']}", params={"wait": "10s"})

        await hub.statuses([run] * 50)
        with grows_at_most(12 * MIB):  # all of it were 32 MiB
            assert await hub.statuses([run] * 500) == {200: 500}
        assert hub.core.metrics()["jobs"] <= 50
        assert await hub.status("GET", f"/jobs/{ids[0]}") == 404
        assert (await answer(hub, "GET", f"/jobs/{ids[-1]}"))["result"] == PIECE
        await hub.assert_alive()


async def test_the_progress_of_a_job(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(progress_size=10 * KIB), hub=application()) as hub:

        async def run(size: int, times: int) -> dict[str, Any]:
            body = {"size": size, "times": times}
            job = f"/jobs/{(await answer(hub, 'POST', '/operations/report', json=body, headers=ASYNC))['id']}"
            async with hub.client.get(f"{hub.url}{job}/events", headers={"Accept": "text/event-stream"}) as events:
                await events.read()
            shown: dict[str, Any] = await answer(hub, "GET", job)
            return shown

        assert (await run(100 * KIB, 1))["error"]["code"] == "too_large"
        with grows_at_most(12 * MIB):
            assert (await run(10 * KIB - 2, 10_000))["status"] == "succeeded"
        await hub.assert_alive()


async def test_replies_that_are_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(replies=50), hub=application()) as hub:

        def call(key: int, text: str = PIECE) -> Ask:
            return calls(hub, "echo", {"Idempotency-Key": f"{key}"}, text=text)

        await hub.statuses([call(number) for number in range(50)])
        with grows_at_most(8 * MIB):  # all of it were 16 MiB
            assert await hub.statuses([call(number) for number in range(50, 550)]) == {200: 500}
        assert hub.core.metrics()["replies"] <= 50
        assert await call(549, "other")() == 409
        assert await call(0, "other")() == 200, "it is forgotten"
        await hub.assert_alive()


# --- formats ---------------------------------------------------------------------------------------------------------

REST = RestSettings(
    upload_size=256 * KIB,
    xml=XmlLimits(size=100 * KIB, depth=20, elements=500, attributes=10),
    form=FormLimits(fields=50, name_size=100, depth=5),
    multipart=MultipartLimits(parts=20, headers=5, header_size=2_000, name_size=100, depth=5),
)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
XML = {"Content-Type": "application/xml"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


def xml(inner: str, attributes: str = "") -> tuple[bytes, dict[str, str]]:
    return f"<order{attributes}>{inner}</order>".encode(), XML


def form(fields: Iterable[tuple[str, str]]) -> tuple[bytes, dict[str, str]]:
    return "&".join(f"{name}={value}" for name, value in fields).encode(), FORM


def parts(heads: Iterable[str], value: str = "1") -> tuple[bytes, dict[str, str]]:
    pieces = [f"--b\r\n{head}\r\n\r\n{value}\r\n" for head in heads]
    return ("".join(pieces) + "--b--\r\n").encode(), MULTIPART


def part(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


def nested(depth: int, opening: str, closing: str) -> str:
    return opening * depth + closing * depth


Body = Callable[[int], tuple[bytes, dict[str, str]]]
BODIES: dict[str, tuple[int, int, Body]] = {
    # what, as much as is taken, the status of ten times as much
    "xml.size": (90 * KIB, 413, lambda n: xml(f"<note>{'x' * n}</note>")),
    "xml.depth": (15, 400, lambda n: xml(f"<more>{nested(n, '<a>', '</a>')}</more>")),
    "xml.elements": (400, 413, lambda n: xml("<numbers>1</numbers>" * n)),
    "xml.attributes": (10, 413, lambda n: xml("", "".join(f' xmlns:a{i}="x"' for i in range(n)))),
    "form.fields": (50, 413, lambda n: form([("numbers", "1")] * n)),
    "form.name_size": (80, 400, lambda n: form([(f"more.{'a' * n}", "1")])),
    "form.depth": (5, 400, lambda n: form([("more" + ".a" * n, "1")])),
    "multipart.parts": (20, 413, lambda n: parts([part("numbers")] * n)),
    "multipart.headers": (4, 413, lambda n: parts(["\r\n".join([part("numbers"), *[f"X-{i}: 1" for i in range(n)]])])),
    "multipart.header_size": (1_900, 413, lambda n: parts([f"{part('numbers')}\r\nX-Long: {'x' * n}"])),
    "multipart.name_size": (80, 400, lambda n: parts([part(f"more.{'a' * n}")])),
    "multipart.depth": (5, 400, lambda n: parts([part("more" + ".a" * n)])),
}


@pytest.mark.parametrize("bound", BODIES)
async def test_bodies(tmp_path: Path, bound: str) -> None:
    most, refused, body = BODIES[bound]
    async with serving(tmp_path, hub=application(), rest=REST) as hub:

        async def send(count: int) -> list[int]:
            data, headers = body(count)
            paths = ("/operations/take", "/topics/orders")
            return [await hub.status("POST", path, data=data, headers=headers) for path in paths]

        assert await send(most) == [200, 201]
        with grows_at_most(8 * MIB):
            for _ in range(20):
                assert await send(10 * most) == [refused, refused]
        await hub.assert_alive()


async def test_the_fields_of_a_query(tmp_path: Path) -> None:
    async with serving(tmp_path, hub=application(), rest=REST) as hub:
        path = "/operations/take?numbers=1"
        assert await hub.status("GET", path + "&numbers=1" * 49) == 200
        assert await hub.status("GET", path + "&numbers=1" * 500) == 400
        assert await hub.status("GET", f"/operations/take?{'a' * 1_000}=1") == 400


async def test_files(tmp_path: Path) -> None:
    limits = Limits(message_size=64 * KIB, batch_size=256 * KIB)
    async with serving(tmp_path, limits, hub=application(), rest=REST) as hub:

        async def send(size: int) -> list[int]:
            data, headers = parts([part("file", '; filename="f"')], "x" * size)
            paths = ("/operations/look", "/topics/files")
            return [await hub.status("POST", path, data=io.BytesIO(data), headers=headers) for path in paths]

        assert await send(60 * KIB) == [200, 201]
        assert await send(250 * KIB) == [200, 413], "as a message it is too large"
        with grows_at_most(12 * MIB):
            for _ in range(20):
                assert await send(2_560 * KIB) == [413, 413]
        await hub.assert_alive()


async def test_what_is_remembered_of_requests(tmp_path: Path) -> None:
    """Names that were asked about, forms that were wanted, hosts that were named: hardly one comes twice."""
    number = itertools.count()

    async with serving(tmp_path, hub=application()) as hub:

        def get(path: str, headers: str = "Host: localhost") -> Ask:
            async def asking() -> int:
                long = f"{next(number)}{'x' * 60 * KIB}"
                head = f"GET {path} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n".replace("LONG", long)
                reader, writer = await asyncio.open_connection("127.0.0.1", hub.listener.port)
                writer.write(head.encode())
                answered = await reader.read()
                writer.close()
                return int(answered.split()[1])

            return asking

        async def ask_often(statuses: set[int], *asked: Ask) -> None:
            for one in asked:
                assert await one() in statuses
                with grows_at_most(4 * MIB):  # all of it were 12 MiB
                    assert set(await hub.statuses([one] * 200, at_once=4)) <= statuses

        wanted = get("/operations/take", "Host: localhost\r\nAccept: application/x-LONG")
        named = get("/health", "Host: x.LONG")
        paths = ("/operations/LONG", "/topics/LONG", "/jobs/LONG", "/topics/alive?limit=1&key=LONG")
        await ask_often({200, 403, 404, 413}, wanted, named, *map(get, paths))
        _, key = await hub.core.access.create_key(hub.core.access.system, "ann", ["call:#", "subscribe:#"])
        await ask_often({401}, *map(get, paths[:2]))
        await ask_often({404, 413}, *(get(path, f"Host: localhost\r\nX-API-Key: {key}") for path in paths))


async def test_batches_of_events(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(batch_messages=100, batch_size=256 * KIB), hub=application()) as hub:

        async def send(count: int, size: int = 1) -> int:
            event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "data": "x" * size}
            headers = {"Content-Type": "application/cloudevents-batch+json"}
            body = io.BytesIO(json.dumps([event] * count).encode())
            return await hub.status("POST", "/topics/files", data=body, headers=headers)

        assert await send(100) == 201
        with grows_at_most(12 * MIB):
            for _ in range(20):
                assert await send(1_000) == 413
                assert await send(50, 50 * KIB) == 413
        assert hub.core.catalog.existing("files").count == 100
        await hub.assert_alive()


async def test_documents_for_many_readers(tmp_path: Path) -> None:
    """One is made for each set of rights, and few of them are kept."""
    application_ = application()
    for number in range(9):
        application_.operation(name=f"take{number}")(take)
    async with serving(tmp_path, hub=application_) as hub:
        access = hub.core.access
        rights = [[f"call:take{number}" for number in range(9) if 1 << number & bits] for bits in range(1, 321)]
        keys = [(await access.create_key(access.system, f"{n}", allow))[1] for n, allow in enumerate(rights)]
        await hub.status("GET", "/openapi.json", headers={"X-API-Key": keys[-1]})
        with grows_at_most(8 * MIB):
            sizes = set()
            for key in keys:
                async with hub.client.get(f"{hub.url}/openapi.json", headers={"X-API-Key": key}) as told:
                    sizes.add(len(await told.read()))
        assert max(sizes) > 30 * KIB


async def take(order: Order) -> int:
    return len(order.numbers)


# --- JSON-RPC --------------------------------------------------------------------------------------------------------

RPC = JsonRpcSettings(
    message_size=64 * KIB, batch=10, in_flight=10, subscriptions=5, unsettled=10, notification_size=32 * KIB,
    held_size=64 * KIB,
)  # fmt: skip


def request(number: int | None, method: str, **params: Any) -> dict[str, Any]:
    named = {} if number is None else {"id": number}
    return {"jsonrpc": "2.0", **named, "method": method, "params": params}


async def told(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[int]:
    """The codes of so many answers; 0 for a result."""
    return [(await socket.receive_json(timeout=5)).get("error", {"code": 0})["code"] for _ in range(count)]


async def test_a_frame_of_json_rpc(tmp_path: Path) -> None:
    async with serving(tmp_path, hub=application(), jsonrpc=RPC) as hub:
        with grows_at_most(12 * MIB):
            for compress in (0, 15) * 20:
                async with hub.client.ws_connect(f"{hub.url}/ws", compress=compress) as socket:
                    await socket.send_json(request(1, "publish", topic="files", data="x" * 640 * KIB))
                    assert (await socket.receive(timeout=5)).data == 1009
        assert hub.core.catalog.existing("files").count == 0
        await hub.assert_alive()


async def test_requests_of_json_rpc(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, hub=application(), jsonrpc=RPC) as hub,
        hub.client.ws_connect(f"{hub.url}/ws") as socket,
    ):
        with grows_at_most(12 * MIB):
            for _ in range(100):
                await socket.send_json([request(number, "echo", text="x" * 500) for number in range(50)])
                assert await told(socket, 1) == [-32013]
            for number in range(10):
                await socket.send_json(request(number, "gate", text=PIECE))
            for number in range(10, 1_000):
                await socket.send_json(request(number, "gate", text=PIECE))
                assert await told(socket, 1) == [-32029]
        assert hub.core.calls.running == 10
        await hub.assert_alive()


async def test_readers_of_json_rpc(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, Limits(tail_size=MIB), hub=application(), jsonrpc=RPC) as hub,
        hub.client.ws_connect(f"{hub.url}/ws") as socket,
    ):
        with grows_at_most(12 * MIB):
            for credit, code in ((100, -32029), (2, 0)):
                await socket.send_json(request(0, "consume", queue="q", topic="files", credit=credit))
                assert await told(socket, 1) == [code]
            await socket.send_json(request(0, "credit", subscription=1, credit=100))
            for number in range(1, 50):
                await socket.send_json(request(number, "subscribe", topic="files", credit=1))
            assert await told(socket, 50) == [-32029] + [0] * 4 + [-32029] * 45
            await hub.fill("files", 16 * MIB)
            sizes = [len(json.dumps(await socket.receive_json(timeout=5))) for _ in range(6)]
            assert max(sizes) < 100 * KIB, "a message is 64 KiB"
        await hub.assert_alive()


async def test_notifications_of_json_rpc(tmp_path: Path) -> None:
    async with serving(tmp_path, hub=application(), jsonrpc=RPC) as hub:
        await hub.fill("files", 320 * KIB, piece=4 * KIB)
        async with hub.client.ws_connect(f"{hub.url}/ws") as socket:
            await socket.send_json(request(1, "subscribe", topic="files", **{"from": "earliest"}))
            assert await told(socket, 1) == [0]
            seen = 0
            while seen < 80:
                text = (await socket.receive(timeout=5)).data
                assert len(text) < 48 * KIB
                seen += len(json.loads(text)["params"]["messages"])


async def test_publishes_of_json_rpc_that_wait_for_the_log(tmp_path: Path) -> None:
    engine = FaultyEngine(tmp_path)
    limits = Limits(uncommitted_size=MIB, tail_size=MIB)
    async with serving(tmp_path, limits, hub=application(), engine=engine, jsonrpc=RPC) as hub:
        await hub.fill("files", MIB)

        async def chat() -> None:
            async with hub.client.ws_connect(f"{hub.url}/ws") as socket:
                for number in range(127):
                    await socket.send_json(request(None, "publish", topic="files", data=f"{number} {PIECE}"))
                await socket.send_json(request(1, "publish", topic="files", data="the last"))
                assert await told(socket, 1) == [0]

        engine.holding = True
        with grows_at_most(20 * MIB):  # ten connections' share of it, and the client's own buffers; all were 40 MiB
            chats = [asyncio.create_task(chat()) for _ in range(10)]
            await hub.until(lambda: hub.core.congested)
            _, sending = await asyncio.wait(chats, timeout=0.3)
            assert len(sending) == 10
            assert hub.core.metrics()["uncommitted_bytes"] < 4 * MIB
        engine.let_go()
        await asyncio.gather(*chats)
        assert hub.core.catalog.existing("files").count == 16 + 10 * 128
        await hub.assert_alive()
