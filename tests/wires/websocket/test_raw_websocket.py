"""Raw WebSockets on topics, with clients that other people wrote."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import websocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from polywire.core.errors import Invalid
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.topics import TopicSettings
from polywire.server.settings import WebSocketSettings
from polywire.wires.websocket.binding import BINARY_TYPE, TEXT_TYPE
from tests.wires.websocket.conftest import Hub, Serve


async def receive(client: ClientConnection, count: int = 1) -> list[str | bytes]:
    async with asyncio.timeout(10):
        return [await client.recv() for _ in range(count)]


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason, once the hub has closed."""
    async with asyncio.timeout(10):
        await client.wait_closed()
    return client.close_code, client.close_reason


async def refused(url: str, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url, **options).__aenter__()
    assert refusal.value.response.headers["content-type"] == "application/problem+json"
    return refusal.value.response.status_code


# what people do -------------------------------------------------------------------------------------------------------


async def test_a_chat(serve: Serve) -> None:
    hub = await serve()
    async with (
        connect(f"{hub.ws}/chat") as one,
        connect(f"{hub.ws}/ws/chat") as two,
        connect(f"{hub.ws}/other") as other,
    ):
        await one.send("hello")
        await two.send(b"\x00\xff")
        assert (
            sorted(map(str, await receive(one, 2)))
            == sorted(map(str, await receive(two, 2)))
            == ["b'\\x00\\xff'", "hello"]
        )
        await other.send("alone")
        assert await receive(other) == ["alone"]
    stored = await hub.messages("chat", 2)
    assert {(m.record.payload, m.record.content_type) for m in stored} == {
        (b"hello", TEXT_TYPE),
        (b"\x00\xff", BINARY_TYPE),
    }
    assert stored[0].record.origin is not None
    assert stored[0].record.origin.wire == "websocket"


async def test_websocket_client_in_threads(serve: Serve) -> None:
    """`create_connection` of websocket-client, as in its README."""
    hub = await serve()
    connected = threading.Barrier(2)

    def chat(name: str) -> set[str]:
        ws = websocket.create_connection(f"{hub.ws}/chat", timeout=10)
        connected.wait(10)
        ws.send(f"I am {name}")
        heard = {str(ws.recv()), str(ws.recv())}
        ws.close()
        return heard

    heard = await asyncio.gather(asyncio.to_thread(chat, "Ada"), asyncio.to_thread(chat, "Bo"))
    assert heard == [{"I am Ada", "I am Bo"}] * 2


@pytest.mark.needs_node
async def test_node_ws(serve: Serve, node_clients: Any) -> None:
    hub = await serve()
    script = """
        const WebSocket = require('ws');
        const ws = new WebSocket(process.argv[1] + '/chat');
        ws.on('open', () => { ws.send('from node'); ws.send(Buffer.from([0, 255])); ws.send('y'.repeat(5000)); });
        let n = 0;
        ws.on('message', (data, isBinary) => {
            const text = data.toString().slice(0, 20) + ' ' + data.length;
            console.log(isBinary ? 'binary ' + data.toString('hex') : 'text ' + text);
            if (++n === 4) ws.close(1000, 'done');
        });
        ws.on('close', (code, reason) => console.log('closed', code));
    """
    async with connect(f"{hub.ws}/chat") as python:
        node = await asyncio.create_subprocess_exec(
            "node", "-e", script, hub.ws, cwd=node_clients, stdout=asyncio.subprocess.PIPE
        )
        assert await receive(python, 3) == ["from node", b"\x00\xff", "y" * 5_000]
        await python.send("to node")
        out, _ = await asyncio.wait_for(node.communicate(), 20)
    assert out.decode().splitlines() == [
        "text from node 9",
        "binary 00ff",
        "text " + "y" * 20 + " 5000",
        "text to node 7",
        "closed 1000",
    ]


async def test_the_root_is_topic_default(serve: Serve) -> None:
    hub = await serve()
    async with connect(hub.ws) as client:
        await client.send("hi")
        assert await receive(client) == ["hi"]
    (message,) = await hub.messages("default", 1)
    assert message.record.key is None


async def test_a_path_below_the_topic_is_the_key(serve: Serve) -> None:
    hub = await serve()
    async with (
        connect(f"{hub.ws}/chat/room1/left") as room,
        connect(f"{hub.ws}/chat?key=room1.left") as same,
        connect(f"{hub.ws}/chat?key=room1.%23") as any_of_room1,
        connect(f"{hub.ws}/chat") as everything,
        connect(f"{hub.ws}/chat/room2") as other,
    ):
        await room.send("left")
        await other.send("two")
        assert await receive(other) == ["two"]
        assert set(await receive(everything, 2)) == {"left", "two"}
        for client in (room, same, any_of_room1):
            assert await receive(client) == ["left"]
        await any_of_room1.send("nowhere")
        assert await receive(everything) == ["nowhere"]
    keys = {m.record.payload: m.record.key for m in await hub.messages("chat", 3)}
    assert keys == {b"left": b"room1.left", b"two": b"room2", b"nowhere": None}


async def test_echo_can_be_switched_off(serve: Serve) -> None:
    hub = await serve()
    async with connect(f"{hub.ws}/chat?echo=0") as quiet, connect(f"{hub.ws}/chat") as loud:
        await quiet.send("mine")
        await loud.send("yours")
        assert await receive(quiet) == ["yours"]
        assert await receive(loud, 2) == ["mine", "yours"]


@pytest.mark.parametrize(("start", "expected"), [("earliest", ["1", "2", "3", "4"]), ("latest", ["4"]), ("", ["4"])])
async def test_from(serve: Serve, start: str, expected: list[str]) -> None:
    hub = await serve()
    for n in "123":
        await hub.publish("chat", n.encode(), "text/plain")
    async with connect(f"{hub.ws}/chat" + (f"?from={start}" if start else "")) as client:
        await hub.publish("chat", b"4", "text/plain")
        assert await receive(client, len(expected)) == expected


async def test_from_a_cursor(serve: Serve) -> None:
    hub = await serve()
    cursor, _, _ = [await hub.publish("chat", n.encode(), "text/plain") for n in "123"]
    async with connect(f"{hub.ws}/chat?from={cursor}") as client:
        assert await receive(client, 2) == ["2", "3"]


@pytest.mark.parametrize("cursor", ["9-0-0", "1-0-500"])
async def test_a_cursor_of_no_use_is_told_by_the_close(serve: Serve, cursor: str) -> None:
    hub = await serve()
    here = await hub.publish("chat", b"x", "text/plain")
    async with connect(f"{hub.ws}/chat?from={cursor}") as client:
        code, reason = await closed(client)
    assert code == 1013
    assert reason is not None
    assert reason.startswith("reset (")
    assert reason.endswith(f"?from={here}")
    async with connect(f"{hub.ws}/chat{reason[reason.index('?') :]}") as client:
        await client.send("on we go")
        assert await receive(client) == ["on we go"]


@pytest.mark.parametrize(
    ("payload", "content_type", "received"),
    [
        (b'{"a":1}', "application/json", '{"a":1}'),
        (b"<a/>", "application/xml", "<a/>"),
        (b"{}", "application/cloudevents+json; charset=utf-8", "{}"),
        ("grün".encode(), "text/html", "grün"),
        ("grün".encode("latin-1"), "text/html", "grün".encode("latin-1")),
        (b"abc", "text/plain; charset=utf-16", b"abc"),
        (b"abc", "application/octet-stream", b"abc"),
        (b"abc", None, "abc"),
        (b"\0abc", None, b"\0abc"),
        (b"", "text/plain", ""),
    ],
)
async def test_what_others_publish(
    serve: Serve, payload: bytes, content_type: str | None, received: str | bytes
) -> None:
    hub = await serve()
    async with connect(f"{hub.ws}/chat") as client:
        await hub.publish("chat", payload, content_type)
        assert await receive(client) == [received]


async def test_many_messages_in_order(serve: Serve) -> None:
    hub = await serve()
    async with connect(f"{hub.ws}/chat") as one, connect(f"{hub.ws}/chat") as two:
        sent = [f"{n} " + "x" * (n % 300) for n in range(5_000)]
        writing = asyncio.create_task(send_all(one, sent))
        assert await receive(two, len(sent)) == sent
        assert await receive(one, len(sent)) == sent
        await writing


async def send_all(client: ClientConnection, messages: list[str]) -> None:
    for message in messages:
        await client.send(message)


async def test_who_sends_much_and_reads_later_loses_nothing(serve: Serve) -> None:
    hub = await serve(websocket=WebSocketSettings(out_buffer=64 << 10))
    async with connect(f"{hub.ws}/chat", max_queue=1) as client:
        sent = [f"{n} " + "x" * 2_000 for n in range(5_000)]
        await asyncio.wait_for(send_all(client, sent), 20)
        assert await receive(client, len(sent)) == sent


# what goes wrong ------------------------------------------------------------------------------------------------------


async def test_handshakes_that_are_refused(serve: Serve) -> None:
    hub = await serve(strict=True, topics=[(TopicSettings("chat"), None)])
    assert await refused(f"{hub.ws}/chatt") == 404
    assert await refused(f"{hub.ws}/ws") == 404
    assert await refused(f"{hub.ws}/ws/") == 404
    assert await refused(f"{hub.ws}/chat?from=yesterday") == 400
    assert await refused(f"{hub.ws}/chat?form=latest") == 400
    assert await refused(f"{hub.ws}/chat?echo=maybe") == 400
    assert await refused(f"{hub.ws}/chat", origin="https://evil.example") == 403
    async with connect(f"{hub.ws}/chat"):
        pass


async def test_names_no_topic_can_have(serve: Serve) -> None:
    hub = await serve()
    for path in ("_dead", "operations", "amq.x"):
        assert await refused(f"{hub.ws}/{path}") == 400, path
    for path in ("not%20a%20name", "my:chat/room", "x" * 250):
        async with connect(f"{hub.ws}/{path}") as client:
            await client.send("in a topic of their own")
            assert await client.recv() == "in a topic of their own"


def only_digits(record: Record) -> Record:
    if not record.payload.isdigit():
        raise Invalid("not a number", hint="send digits")
    return record


async def test_an_invalid_message_closes_and_those_before_it_count(serve: Serve) -> None:
    hub = await serve(topics=[(TopicSettings("numbers"), only_digits)])
    async with connect(f"{hub.ws}/numbers") as client:
        client.transport.pause_reading()
        for text in ("1", "2", "three", "4"):
            await client.send(text)
        client.transport.resume_reading()
        assert await closed(client) == (1007, "not a number")
    stored = [m.record.payload for m in await hub.messages("numbers", 2)]
    assert stored == [b"1", b"2"]


async def test_too_large(serve: Serve) -> None:
    hub = await serve(limits=Limits(message_size=1_000))
    async with connect(f"{hub.ws}/chat") as client:
        await client.send("x" * 1_001)
        assert (await closed(client))[0] == 1009


async def key_for(hub: Hub, *allow: str) -> dict[str, str]:
    _, secret = await hub.core.access.create_key(hub.system, f"key{len(hub.core.access.keys(hub.system))}", list(allow))
    return {"Authorization": f"Bearer {secret}"}


async def test_rights(serve: Serve) -> None:
    hub = await serve()
    reader = await key_for(hub, "subscribe:chat.#")
    writer = await key_for(hub, "publish:chat.#")
    nobody = await key_for(hub, "publish:other.#")
    assert await refused(f"{hub.ws}/chat") == 401
    assert await refused(f"{hub.ws}/chat", additional_headers=nobody) == 403
    assert await refused(f"{hub.ws}/chat", additional_headers={"X-API-Key": "wrong"}) == 401
    async with (
        connect(f"{hub.ws}/chat", additional_headers=reader) as reads,
        connect(f"{hub.ws}/chat", additional_headers=writer) as writes,
    ):
        await writes.send("hello")
        assert await receive(reads) == ["hello"]
        await reads.send("let me")
        assert (await closed(reads))[0] == 1008
        assert [m.record.payload for m in await hub.messages("chat", 1)] == [b"hello"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writes.recv(), 0.05)


async def test_rights_on_keys(serve: Serve) -> None:
    hub = await serve()
    room1 = await key_for(hub, "publish:chat.room1", "subscribe:chat.room1")
    async with connect(f"{hub.ws}/chat/room1", additional_headers=room1) as client:
        await client.send("mine")
        assert await receive(client) == ["mine"]
    assert await refused(f"{hub.ws}/chat/room2", additional_headers=room1) == 403
    assert await refused(f"{hub.ws}/chat", additional_headers=room1) == 403


@pytest.mark.parametrize("allow", [["subscribe:chat.#"], ["publish:chat.#"], ["*:chat.#"]])
async def test_revocation_reaches_open_connections(serve: Serve, allow: list[str]) -> None:
    hub = await serve()
    key = await key_for(hub, *allow)
    async with connect(f"{hub.ws}/chat", additional_headers=key) as client:
        await hub.until(lambda: hub.core.counters.wire("websocket").connections == 1)
        await hub.core.access.revoke_key(hub.system, "key0")
        assert (await closed(client))[0] == 1008
    await hub.until(lambda: hub.core.counters.wire("websocket").connections == 0)


async def test_the_first_key_closes_who_came_without(serve: Serve) -> None:
    hub = await serve()
    async with connect(f"{hub.ws}/chat") as client:
        await hub.until(lambda: hub.core.counters.wire("websocket").connections == 1)
        await key_for(hub, "admin:#")
        assert (await closed(client))[0] == 1008


async def test_connections_of_a_key_are_bounded(serve: Serve) -> None:
    hub = await serve(max_connections_per_principal=2)
    key = await key_for(hub, "*:chat.#")
    async with (
        connect(f"{hub.ws}/chat", additional_headers=key),
        connect(f"{hub.ws}/chat", additional_headers=key) as two,
    ):
        assert await refused(f"{hub.ws}/chat", additional_headers=key) == 429
        assert await refused(f"{hub.ws}/other", additional_headers=key) == 429
        await two.close()
        await hub.until(lambda: hub.core.counters.wire("websocket").connections == 1)
        async with connect(f"{hub.ws}/chat", additional_headers=key):
            pass


async def test_a_deleted_topic_and_a_stopping_hub_end_connections(serve: Serve) -> None:
    hub = await serve()
    async with connect(f"{hub.ws}/chat") as client, connect(f"{hub.ws}/other") as other:
        await client.send("x")
        assert await receive(client) == ["x"]
        await hub.core.delete_topic(hub.system, "chat")
        assert (await closed(client))[0] == 1008
        await hub.core.stop()
        assert (await closed(other))[0] == 1001


async def test_a_congested_log_holds_the_publisher_and_loses_nothing(serve: Serve) -> None:
    hub = await serve(limits=Limits(uncommitted_size=100_000))
    async with connect(f"{hub.ws}/chat") as client, connect(f"{hub.ws}/chat?echo=0") as reader:
        sent = [f"{n} " + "x" * 5_000 for n in range(2_000)]
        writing = asyncio.create_task(send_all(client, sent))
        assert await receive(reader, len(sent)) == sent
        assert await receive(client, len(sent)) == sent
        await writing


async def test_a_reader_that_stands_still_is_closed_and_others_go_on(serve: Serve) -> None:
    hub = await serve(websocket=WebSocketSettings(out_buffer=64 << 10, slow_timeout=300))
    async with connect(f"{hub.ws}/chat", compression=None) as slow, connect(f"{hub.ws}/chat") as quick:
        slow.transport.pause_reading()
        for _ in range(200):
            await hub.publish("chat", b"x" * 100_000, "text/plain")
            assert len((await receive(quick))[0]) == 100_000
        await hub.until(lambda: hub.listener.state.slow_closed == 1)
        slow.transport.resume_reading()
        with pytest.raises(ConnectionClosed):
            await receive(slow, 200)
        assert (slow.close_code, slow.close_reason) == (1013, "too slow: nothing was read for 0.3 s")
