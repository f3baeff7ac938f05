"""Every bound that a peer can reach, exceeded tenfold over real sockets: refused or dropped as documented, the process
does not grow with what was sent, and the hub goes on.

Calls, jobs, formats and JSON-RPC have theirs in test_call_bounds.py; message, body, frame and decompression beside
their wires. Settings are small so that ten times as
much stays quick; each load is so large that keeping it would show in the resident memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest

from polywire import Limits
from polywire.core.errors import PolywireError, Unavailable
from polywire.core.message import Record
from polywire.core.subscription import Delivery
from polywire.server.settings import WebSocketSettings
from polywire.wires.sse import SseSettings
from tests.bounds import BYTES, JSON, KIB, MIB, Served, grows_at_most, serving
from tests.core.harness import FaultyEngine

NDJSON = {"Content-Type": "application/x-ndjson"}

# --- what a request says ---------------------------------------------------------------------------------------------


async def test_keys_and_headers(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(key_size=100, headers_size=KIB)) as hub:
        with grows_at_most(8 * MIB):
            for _ in range(200):
                assert await hub.status("POST", "/topics/t", params={"key": "k" * 1_000}, data=b"1") == 413
                headers = {"Polywire-Header-Long": "v" * 7_000, "Polywire-Header-Other": "v" * 7_000}
                assert await hub.status("POST", "/topics/t", data=b"1", headers=headers) == 413
        assert hub.core.catalog.get("t") is None or hub.core.catalog.existing("t").count == 0
        await hub.assert_alive()


async def test_a_request_head(tmp_path: Path) -> None:
    async def send(hub: Served) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.listener.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 640 * KIB)
        answer = await asyncio.wait_for(reader.readline(), 10)
        writer.transport.abort()
        return int(answer.split()[1])

    async with serving(tmp_path) as hub:
        await send(hub)
        with grows_at_most(8 * MIB):
            assert await hub.statuses([lambda: send(hub)] * 50, at_once=4) == {431: 50}
        await hub.assert_alive()


async def test_a_batch(tmp_path: Path) -> None:
    async def long_body() -> AsyncIterator[bytes]:
        for _ in range(160):
            yield b'"' + b"x" * 63 * KIB + b'"\n'

    async with serving(tmp_path, Limits(batch_messages=1_000, batch_size=MIB, message_size=64 * KIB)) as hub:
        await hub.core.publish(hub.core.access.system, "t", [Record(b"1")])
        with grows_at_most(12 * MIB):
            for _ in range(5):
                assert await hub.status("POST", "/topics/t", data=b"1\n" * 10_000, headers=NDJSON) == 413
                assert await hub.status("POST", "/topics/t", data=long_body(), headers=NDJSON) == 413
        assert hub.core.catalog.existing("t").count == 1
        await hub.assert_alive()


async def test_an_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(tail_size=MIB)) as hub:
        await hub.fill("t", 10 * MIB)
        assert await hub.status("GET", "/topics/t", params={"limit": "10000"}) == 400
        async with hub.client.get(hub.url + "/topics/t", params={"limit": "1000"}) as answer:
            assert len(await answer.read()) < 2 * MIB  # `page_size` is 1 MiB
        await hub.assert_alive()


# --- connections -----------------------------------------------------------------------------------------------------


async def test_connections(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=20) as hub:
        peers: list[asyncio.StreamWriter] = []
        with grows_at_most(8 * MIB):
            for _ in range(200):
                _, writer = await asyncio.open_connection("127.0.0.1", hub.listener.port)
                peers.append(writer)
            # The one on which `assert_alive` asked is kept by the client.
            await hub.until(lambda: hub.listener.state.connections_refused == 181)
            await hub.until(lambda: len(hub.listener.state.connections) == 20)
        for writer in peers:
            writer.transport.abort()
        await hub.until(lambda: len(hub.listener.state.connections) <= 1)
        await hub.assert_alive()


@pytest.mark.parametrize("wire", ["sse", "websocket"])
async def test_connections_of_a_principal(tmp_path: Path, wire: str) -> None:
    async with serving(tmp_path, max_connections_per_principal=10) as hub, AsyncExitStack() as stack:
        _, key = await hub.core.access.create_key(hub.core.access.system, "viewer", ["*:alive.#"])
        allowed = {"Authorization": f"Bearer {key}"}

        async def connect() -> int:
            try:
                if wire == "sse":
                    answer = await hub.client.get(f"{hub.url}/topics/alive/events", headers=allowed)
                    stack.callback(answer.close)
                    return answer.status
                await stack.enter_async_context(hub.client.ws_connect(f"{hub.url}/alive", headers=allowed))
            except aiohttp.WSServerHandshakeError as refused:
                return refused.status
            return 101

        with grows_at_most(8 * MIB):
            opened = 200 if wire == "sse" else 101
            assert await hub.statuses([connect] * 100) == {opened: 10, 429: 90}
        assert await hub.status("POST", "/topics/alive", data=b"1", headers=allowed) == 201


UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


EVENTS = f"{UPGRADE}Sec-WebSocket-Protocol: cloudevents.json\r\n"
READERS = {"sse": ("/topics/t/events", ""), "websocket": ("/t", UPGRADE), "events": ("/t", EVENTS)}


@pytest.mark.parametrize(("path", "upgrade"), READERS.values(), ids=READERS)
async def test_the_out_buffer_of_who_does_not_read(tmp_path: Path, path: str, upgrade: str) -> None:
    sockets = WebSocketSettings(out_buffer=256 * KIB, encoded_size=MIB)
    limits = Limits(tail_size=2 * MIB)
    async with serving(tmp_path, limits, websocket=sockets, sse=SseSettings(out_buffer=256 * KIB)) as hub:
        await hub.fill("t", 4 * MIB)
        peers = [await hub.stalled(path, upgrade) for _ in range(10)]
        await hub.until(lambda: hub.core.metrics()["followers"] == 10)
        with grows_at_most(24 * MIB):  # ten times 256 KiB and a batch each; all of it were 250 MiB
            await hub.fill("t", 25 * MIB)
        await hub.assert_alive()
        for peer in peers:
            peer.close()
        await hub.until(lambda: hub.core.metrics()["followers"] == 0)


# --- what the hub keeps ----------------------------------------------------------------------------------------------


async def test_topics_made_on_use(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(topics_on_use=50)) as hub:

        def publish(name: str) -> Callable[[], Awaitable[int]]:
            return lambda: hub.status("POST", f"/topics/{name}", data=b"1")

        with grows_at_most(8 * MIB):
            made = await hub.statuses([publish(f"t{n}") for n in range(500)])
        assert made == {201: 49, 429: 451}  # `alive` is one
        assert hub.core.metrics()["topics_refused_on_use"] == 451
        with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
            await hub.client.ws_connect(f"{hub.url}/one-more")
        await hub.assert_alive()


async def test_subscriptions(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(subscriptions=20)) as hub:
        body = b'{"sources": [{"topic": "alive"}]}'

        def create(name: str) -> Callable[[], Awaitable[int]]:
            return lambda: hub.status("PUT", f"/subscriptions/{name}", data=body, headers=JSON)

        with grows_at_most(8 * MIB):
            assert await hub.statuses([create(f"s{n}") for n in range(200)], at_once=1) == {201: 20, 429: 180}
        await hub.assert_alive()


@pytest.mark.parametrize("durability", ["durable", "memory"])
async def test_retained_keys(tmp_path: Path, durability: str) -> None:
    async with serving(tmp_path, Limits(retained_keys=50, tail_size=MIB, memory_topic_size=4 * MIB)) as hub:
        await hub.status("PUT", "/topics/t", json={"durability": durability, "latest": True})

        def publish(key: int) -> Callable[[], Awaitable[int]]:
            body = b"x" * 64 * KIB
            return lambda: hub.status("POST", "/topics/t", params={"key": f"k{key}"}, data=body, headers=BYTES)

        with grows_at_most(16 * MIB):
            assert await hub.statuses([publish(n) for n in range(500)]) == {201: 50, 429: 450}
        assert len(hub.core.catalog.existing("t").retained_keys) == 50
        await hub.assert_alive()


async def test_the_tail_of_the_hub(tmp_path: Path) -> None:
    """One budget for all topics, and what has left it is read from the disk."""
    async with serving(tmp_path, Limits(tail_size=4 * MIB)) as hub:
        await hub.fill("t0", 4 * MIB)
        with grows_at_most(12 * MIB):
            for number in range(10):
                await hub.fill(f"t{number}", 4 * MIB)
        assert hub.core.metrics()["tail_bytes"] <= 4 * MIB
        async with hub.client.get(f"{hub.url}/topics/t0", params={"limit": "1"}) as answer:
            assert len((await answer.json())["messages"]) == 1
        await hub.assert_alive()


async def test_a_memory_topic(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(memory_topic_size=4 * MIB)) as hub:
        await hub.status("PUT", "/topics/t", json={"durability": "memory"})
        await hub.fill("t", 4 * MIB)
        with grows_at_most(12 * MIB):
            await hub.fill("t", 40 * MIB)
        async with hub.client.get(f"{hub.url}/topics/t/info") as answer:
            assert (await answer.json())["size"] <= 4 * MIB
        await hub.assert_alive()


async def test_a_memory_topic_of_messages_without_payload(tmp_path: Path) -> None:
    """What a message costs beside its bytes counts too."""
    async with serving(tmp_path, Limits(memory_topic_size=2 * MIB)) as hub:
        await hub.status("PUT", "/topics/t", json={"durability": "memory"})
        with grows_at_most(24 * MIB):
            for _ in range(300):
                await hub.core.publish(hub.core.access.system, "t", [Record() for _ in range(1_000)])
        await hub.assert_alive()


async def test_a_topic_at_its_hard_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(topic_size=2 * MIB, tail_size=MIB)) as hub:
        await hub.status("PUT", "/topics/t")
        await hub.status("PUT", "/subscriptions/held", json={"sources": [{"topic": "t"}]})

        async def publish() -> int:
            return await hub.status("POST", "/topics/t", data=b"x" * 64 * KIB, headers=BYTES)

        with grows_at_most(12 * MIB):
            answered = await hub.statuses([publish] * 320)
        assert set(answered) == {201, 429}
        assert answered[201] <= 32
        await hub.assert_alive()


async def test_the_whole_hub(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(hub_size=2 * MIB, tail_size=MIB, maintenance_interval=20)) as hub:

        async def publish() -> int:
            return await hub.status("POST", "/topics/t", data=b"x" * 64 * KIB, headers=BYTES)

        with grows_at_most(12 * MIB):
            answered = Counter({201: 0})
            while answered[503] < 320:
                answered += await hub.statuses([publish] * 32)
        assert answered[201] * 64 * KIB < 20 * MIB
        assert await hub.status("GET", "/topics/t", params={"limit": "1"}) == 200
        assert await hub.status("DELETE", "/topics/t") == 204
        await hub.until(lambda: hub.core.metrics()["accepting"] == 1)
        await hub.assert_alive()


async def test_delayed_messages(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(delayed=50)) as hub:

        async def publish() -> int:
            later = {**BYTES, "Polywire-Delay": "1h"}
            return await hub.status("POST", "/topics/t", data=b"x" * 64 * KIB, headers=later)

        with grows_at_most(12 * MIB):
            assert await hub.statuses([publish] * 500) == {202: 50, 429: 450}
        assert hub.core.metrics()["delayed_messages"] == 50
        await hub.assert_alive()


async def test_idempotency_keys(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(dedup_ids=1_000, tail_size=MIB)) as hub:

        def publish(number: int) -> Callable[[], Awaitable[int]]:
            headers = {**NDJSON, "Idempotency-Key": f"{number:0200}"}
            return lambda: hub.status("POST", "/topics/t", data=b"1\n" * 500, headers=headers)

        with grows_at_most(12 * MIB):
            assert await hub.statuses([publish(n) for n in range(20)]) == {201: 20}
        window = hub.core.catalog.existing("t").dedup
        assert window is not None
        assert len(window) == 1_000
        await hub.assert_alive()


class Idle:
    """A consumer that settles nothing."""

    def __init__(self) -> None:
        self.got = 0

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.got += len(deliveries)

    def ended(self, error: PolywireError) -> None:
        pass


async def test_the_credit_of_a_consumer(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(credit=64, tail_size=MIB)) as hub:
        await hub.status("PUT", "/subscriptions/work", json={"sources": [{"topic": "t"}]})
        idle = Idle()
        hub.core.subscriptions.consume(hub.core.access.system, "work", idle)
        with grows_at_most(16 * MIB):
            await hub.fill("t", 40 * MIB)
            await hub.until(lambda: idle.got == 64)
        async with hub.client.get(f"{hub.url}/subscriptions/work") as answer:
            shown = await answer.json()
        assert (shown["pending"], shown["unsettled"]) == (640, 64)
        assert idle.got == 64
        await hub.assert_alive()


async def test_a_pull(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(dispatch_batch=20)) as hub:
        await hub.status("PUT", "/subscriptions/work", json={"sources": [{"topic": "alive"}]})
        for _ in range(200):
            await hub.core.publish(hub.core.access.system, "alive", [Record(b"1")])
        async with hub.client.post(f"{hub.url}/subscriptions/work/pull", json={"max": 200}) as answer:
            assert len((await answer.json())["deliveries"]) == 20


async def test_what_waits_for_the_log(tmp_path: Path) -> None:
    """While the disk stands still, the hub stops reading from publishers; then it takes all they have."""
    engine = FaultyEngine(tmp_path)
    async with serving(tmp_path, Limits(uncommitted_size=MIB, tail_size=MIB), engine=engine) as hub:
        await hub.fill("t", MIB)
        payload = b"x" * 64 * KIB

        async def chat() -> None:
            async with hub.client.ws_connect(f"{hub.url}/t?echo=0&from=latest&key=none") as socket:
                for _ in range(64):
                    await socket.send_bytes(payload)

        engine.holding = True
        with grows_at_most(20 * MIB):  # ten connections' share of it, and the client's own buffers; all were 40 MiB
            chats = [asyncio.create_task(chat()) for _ in range(10)]
            await hub.until(lambda: hub.core.congested)
            _, sending = await asyncio.wait(chats, timeout=0.3)
            assert len(sending) == 10
            assert hub.core.metrics()["uncommitted_bytes"] < 4 * MIB
        engine.let_go()
        await asyncio.gather(*chats)
        await hub.until(lambda: hub.core.catalog.existing("t").count == 16 + 640)
        assert hub.core.metrics()["uncommitted_bytes"] == 0
        await hub.assert_alive()


async def test_messages_without_payload_that_wait_for_the_log(tmp_path: Path) -> None:
    engine = FaultyEngine(tmp_path)
    async with serving(tmp_path, Limits(uncommitted_size=MIB), engine=engine) as hub:
        engine.holding = True
        try:
            with grows_at_most(16 * MIB), suppress(Unavailable):
                for _ in range(150):
                    hub.core.post(hub.core.access.system, "alive", [Record() for _ in range(1_000)])
            assert hub.core.congested
        finally:
            engine.let_go()
        await hub.assert_alive()
