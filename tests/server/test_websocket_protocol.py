"""The WebSocket protocol with clients that other people wrote, and with peers that misbehave."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import websocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.frames import Frame, Opcode

from polywire.server.settings import WebSocketSettings
from tests.server.conftest import Serve, Served

MIB = 1 << 20
HANDSHAKE = (
    b"GET /room HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


async def raw_socket(served: Served, extra: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await served.raw(HANDSHAKE + extra + b"\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return reader, writer


def masked(first: int, payload: bytes, size: int | None = None) -> bytes:
    """A client's frame; ``size`` announces another size than the payload has."""
    size = len(payload) if size is None else size
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0xFE)) + struct.pack(">H", size)
    else:
        head = bytes((first, 0xFF)) + struct.pack(">Q", size)
    return head + b"\0\0\0\0" + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    if size == 126:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", await reader.readexactly(8))
    return first, await reader.readexactly(size)


async def close_of(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Code and reason of the close frame that ends the stream."""
    async with asyncio.timeout(10):
        while True:
            first, payload = await read_frame(reader)
            if first == 0x88:
                return struct.unpack(">H", payload[:2])[0], payload[2:].decode()


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# clients --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 5_000, 65_535, 65_536, MIB])
async def test_text_stays_text_and_binary_binary(serve: Serve, compression: Any, size: int) -> None:
    served = await serve()
    async with connect(f"{served.ws}/room", compression=compression, max_size=2 * MIB) as client:
        await client.send("é" * (size // 2))
        assert await client.recv() == "é" * (size // 2)
        data = os.urandom(size)
        await client.send(data)
        assert await client.recv() == data


async def test_fragments_are_one_message_and_pings_go_between_them(serve: Serve) -> None:
    served = await serve()
    reader, writer = await raw_socket(served)
    for byte in (
        masked(0x01, "grün"[:3].encode()[:3])
        + masked(0x89, b"between")
        + masked(0x00, b"")
        + masked(0x80, "grün".encode()[3:])
    ):
        writer.write(bytes([byte]))
        await writer.drain()
    assert await read_frame(reader) == (0x8A, b"between")
    assert await read_frame(reader) == (0x81, "grün".encode())


async def test_websocket_client_of_another_thread(serve: Serve) -> None:
    served = await serve()

    def chat() -> Any:
        client = websocket.create_connection(f"{served.ws}/room", timeout=10)
        client.send("hello")
        client.send_binary(b"\x00\xff")
        client.ping("now")
        answers = [client.recv_data_frame(control_frame=True)[1] for _ in range(3)]
        client.close()
        return sorted((answer.opcode, answer.data) for answer in answers)

    assert await asyncio.to_thread(chat) == [(1, b"hello"), (2, b"\x00\xff"), (10, b"now")]
    await served.until(lambda: served.room.log == ["opened", "closed"])


async def test_frames_of_one_read_are_handed_over_together_and_early_ones_too(serve: Serve) -> None:
    served = await serve()
    frames = b"".join(masked(0x82, b"%d" % n) for n in range(1_000))
    reader, _writer = await served.raw(HANDSHAKE + b"\r\n" + frames)
    await reader.readuntil(b"\r\n\r\n")
    for n in range(1_000):
        assert await read_frame(reader) == (0x82, b"%d" % n)
    assert max(served.room.members[0].reads) == 256, "a turn of the loop reads at most 256 frames"


async def test_every_cut_of_a_recording_gives_the_same_messages(serve: Serve) -> None:
    served = await serve()
    parts = [masked(0x81, b"a"), masked(0x82, b"b" * 300), masked(0x01, b"c"), masked(0x80, b"d"), masked(0x89, b"p")]
    recording = b"".join(parts)
    for cut in range(1, 40):
        reader, writer = await raw_socket(served)
        writer.write(recording[:cut])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(recording[cut:])
        got = [await read_frame(reader) for _ in range(4)]
        assert sorted(got) == sorted([(0x81, b"a"), (0x82, b"b" * 300), (0x81, b"cd"), (0x8A, b"p")]), cut


async def test_one_compressed_encoding_serves_every_peer(serve: Serve) -> None:
    served = await serve()
    text = "deflate " * 1_000
    async with connect(f"{served.ws}/room") as one, connect(f"{served.ws}/room") as two:
        await served.until(lambda: len(served.room.members) == 2)
        assert all(member.socket.deflates for member in served.room.members)
        await one.send(text)
        assert await one.recv() == await two.recv() == text


async def test_peers_that_cannot_inflate_our_frames_are_known(serve: Serve) -> None:
    served = await serve()
    _, _plain = await raw_socket(served)
    _, _small = await raw_socket(served, b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n")
    await served.until(lambda: len(served.room.members) == 2)
    assert [member.socket.deflates for member in served.room.members] == [False, False]


# the closing handshake ------------------------------------------------------------------------------------------------


async def test_a_close_is_answered(serve: Serve) -> None:
    served = await serve()
    async with connect(f"{served.ws}/room") as client:
        await client.close(4000, "bye")
        assert (client.close_code, client.close_reason) == (4000, "bye")
    await served.until(lambda: not served.listener.state.connections)


async def test_the_hub_closes_with_a_reason_of_at_most_123_bytes(serve: Serve) -> None:
    served = await serve()
    async with connect(f"{served.ws}/room") as client:
        await served.until(lambda: bool(served.room.members))
        served.room.members[0].socket.close(1008, "ü" * 100)
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert (client.close_code, client.close_reason) == (1008, "ü" * 61)
    assert served.room.log == ["opened", "closed"]


async def test_a_peer_that_does_not_answer_a_close_is_cut(serve: Serve) -> None:
    served = await serve(websocket=WebSocketSettings(close_timeout=100))
    reader, _writer = await raw_socket(served)
    await served.until(lambda: bool(served.room.members))
    served.room.members[0].socket.close(1000)
    assert (await read_frame(reader))[0] == 0x88
    assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_drain_tells_everybody_to_go(serve: Serve) -> None:
    served = await serve()
    async with connect(f"{served.ws}/room") as client:
        await served.listener.drain(5)
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert (client.close_code, client.close_reason) == (1001, "the hub is shutting down")
    assert not served.listener.state.connections


async def test_a_handler_that_fails_closes_its_own_connection_only(serve: Serve) -> None:
    served = await serve()
    async with connect(f"{served.ws}/room") as one, connect(f"{served.ws}/room") as two:
        await one.send("fail")
        with pytest.raises(ConnectionClosed):
            await one.recv()
        assert one.close_code == 1011
        await two.send("still here")
        assert await two.recv() == "still here"


# peers that do wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(0x81, b"\xff\xfe"), 1007),
        (masked(0x01, b"\xc3") + masked(0x80, b"("), 1007),
        (masked(0x82, b"", 10 * MIB), 1009),
        (masked(0x82, b"", 2**63), 1009),
        (masked(0x02, b"x" * 700_000) + masked(0x80, b"x" * 700_000), 1009),
        (bytes((0x81, 0x01)) + b"x", 1002),  # not masked
        (masked(0x83, b"x"), 1002),  # unknown opcode
        (masked(0xC1, b"x"), 1002),  # compressed, and nobody negotiated that
        (masked(0x80, b"x"), 1002),  # continues nothing
        (masked(0x01, b"x") + masked(0x81, b"x"), 1002),  # a message within a message
        (masked(0x09, b"x"), 1002),  # a fragmented ping
        (masked(0x89, b"x" * 126), 1002),  # a long ping
        (masked(0x88, b"\x03"), 1002),  # half a close code
        (masked(0x88, struct.pack(">H", 1005)), 1002),
        (masked(0x88, struct.pack(">H", 1000) + b"\xff"), 1007),
    ],
)
async def test_what_the_rfc_forbids_closes_with_its_code(serve: Serve, data: bytes, code: int) -> None:
    served = await serve()
    reader, writer = await raw_socket(served)
    async with connect(f"{served.ws}/room") as bystander:
        writer.write(masked(0x82, b"before") + data + masked(0x82, b"after"))
        assert await read_frame(reader) == (0x82, b"before")
        assert (await close_of(reader))[0] == code
        assert await asyncio.wait_for(reader.read(), 5) == b"", "the hub ends the connection"
        assert await bystander.recv() == b"before"
        await bystander.send("fine")
        assert await bystander.recv() == "fine"


async def test_ten_times_the_limit_is_never_kept(serve: Serve) -> None:
    served = await serve()
    before = rss()
    writers = []
    for _ in range(20):
        reader, writer = await raw_socket(served)
        writer.write(masked(0x82, b"x" * (10 * MIB)))
        assert (await close_of(reader))[0] == 1009
        writers.append(writer)
        writer.transport.abort()
    await served.until(lambda: not served.listener.state.connections)
    assert rss() - before < 40 * MIB  # this process is also the client: one frame of 10 MiB and its copy


async def test_a_compression_bomb_is_not_inflated(serve: Serve) -> None:
    served = await serve()
    deflater = zlib.compressobj(wbits=-15)
    bomb = deflater.compress(bytes(500 * MIB // 10)) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4]
    assert len(bomb) < MIB
    before = rss()
    reader, writer = await raw_socket(served, b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
    writer.write(masked(0xC2, bomb))
    assert (await close_of(reader))[0] == 1009
    assert rss() - before < 20 * MIB


async def test_empty_fragments_without_end_cost_nothing(serve: Serve) -> None:
    served = await serve()
    reader, writer = await raw_socket(served)
    before = rss()
    writer.write(masked(0x02, b""))
    for _ in range(50):
        writer.write(masked(0x00, b"") * 1_000)
        await writer.drain()
    writer.write(masked(0x80, b"end"))
    assert await asyncio.wait_for(read_frame(reader), 30) == (0x82, b"end")
    assert rss() - before < 10 * MIB


@pytest.mark.parametrize(
    "head",
    [
        b"GET /room HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        HANDSHAKE.replace(b"13", b"12") + b"\r\n",
        HANDSHAKE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short") + b"\r\n",
        HANDSHAKE.replace(b"GET", b"POST") + b"\r\n",
        HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n",
        HANDSHAKE + b"X: " + b"x" * 10_000 + b"\r\n\r\n",
    ],
)
async def test_a_wrong_handshake_is_refused(serve: Serve, head: bytes) -> None:
    served = await serve()
    reader, _writer = await served.raw(head)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert int(answer.split()[1]) in range(400, 506), answer
    await served.until(lambda: not served.listener.state.connections)


async def test_no_websocket_where_http_is(serve: Serve) -> None:
    served = await serve()
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{served.ws}/echo").__aenter__()
    assert refused.value.response.status_code == 404
    assert refused.value.response.headers["content-type"] == "application/problem+json"


# peers that are slow, or gone -----------------------------------------------------------------------------------------


async def test_a_peer_that_answers_no_ping_is_gone(serve: Serve) -> None:
    served = await serve(websocket=WebSocketSettings(ping_interval=50, ping_timeout=50, close_timeout=50))
    reader, _writer = await raw_socket(served)
    assert (await read_frame(reader))[0] == 0x89
    assert await close_of(reader) == (1011, "keepalive ping timeout")
    await served.until(lambda: not served.listener.state.connections)


async def test_a_peer_that_answers_pings_stays(serve: Serve) -> None:
    served = await serve(websocket=WebSocketSettings(ping_interval=30, ping_timeout=30))
    reader, writer = await raw_socket(served)
    for _ in range(5):
        assert (await asyncio.wait_for(read_frame(reader), 5))[0] == 0x89
        writer.write(masked(0x8A, b""))
    assert served.room.log == ["opened"]


async def unread_client(served: Served) -> socket.socket:
    """A client that has shaken hands and never reads again."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", served.port))
    await loop.sock_sendall(client, HANDSHAKE + b"\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await loop.sock_recv(client, 1)
    return client


async def fill(member: Any) -> None:
    """Send until the peer's buffers and ours are full; a turn of the loop for each, so that it is written."""
    frame = b"\x82\x7e\x10\x00" + bytes(4_096)
    while member.socket.send(frame):  # noqa: ASYNC110  no event tells that a transport has tried
        await asyncio.sleep(0)


async def test_who_never_reads_is_told_and_cut_and_nobody_else_waits(serve: Serve) -> None:
    settings = WebSocketSettings(out_buffer=64 << 10, slow_timeout=300, close_timeout=100)
    served = await serve(websocket=settings)
    client = await unread_client(served)
    await served.until(lambda: bool(served.room.members))
    member = served.room.members[0]
    sent = 0
    while member.socket.send(b"\x82\x7e\x10\x00" + bytes(4_096)):
        sent += 4_100
        assert sent < 50 * MIB, "send never said that the buffer is full"
        await asyncio.sleep(0)
    async with connect(f"{served.ws}/room") as other:
        served.room.members.remove(member)  # the test wrote for it; a follower would stop
        await other.send("quick")
        assert await asyncio.wait_for(other.recv(), 5) == "quick"
        served.room.members.append(member)
    await served.until(lambda: member not in served.room.members)
    assert served.listener.state.slow_closed == 1
    await served.until(lambda: len(served.listener.state.connections) == 0)
    client.close()


async def test_who_reads_again_hears_that_there_is_room(serve: Serve) -> None:
    served = await serve(websocket=WebSocketSettings(out_buffer=64 << 10))
    client = await unread_client(served)
    await served.until(lambda: bool(served.room.members))
    member = served.room.members[0]
    await fill(member)
    assert member.writable_calls == 0
    loop = asyncio.get_running_loop()
    while not member.writable_calls:
        await asyncio.wait_for(loop.sock_recv(client, 65_536), 5)
    client.close()


async def test_pongs_do_not_pile_up_for_who_never_reads(serve: Serve) -> None:
    served = await serve(websocket=WebSocketSettings(out_buffer=64 << 10))
    client = await unread_client(served)
    await served.until(lambda: bool(served.room.members))
    member: Any = served.room.members[0]
    await fill(member)
    waiting = member.socket.transport.get_write_buffer_size()
    loop = asyncio.get_running_loop()
    for n in range(200):
        await loop.sock_sendall(client, masked(0x89, b"%100d" % n) * 20)
    await loop.sock_sendall(client, masked(0x8A, b""))
    await served.until(lambda: member.socket._late_pong.endswith(b"199"))
    assert member.socket.transport.get_write_buffer_size() <= waiting
    client.close()


async def test_held_messages_wait_and_pings_are_answered(serve: Serve) -> None:
    served = await serve(websocket=WebSocketSettings(held_size=64 << 10))
    reader, writer = await raw_socket(served)
    writer.write(masked(0x82, b"hold"))
    assert await read_frame(reader) == (0x82, b"hold")
    writer.write(masked(0x82, b"first") + masked(0x89, b"there?") + masked(0x82, b"second"))
    assert await read_frame(reader) == (0x8A, b"there?")
    (member,) = served.room.members
    assert member.reads == [1]
    member.socket.release()
    assert await read_frame(reader) == (0x82, b"first")
    assert await read_frame(reader) == (0x82, b"second")


async def test_what_is_held_is_bounded(serve: Serve) -> None:
    served = await serve(websocket=WebSocketSettings(held_size=64 << 10))
    reader, writer = await raw_socket(served)
    writer.write(masked(0x82, b"hold"))
    await read_frame(reader)
    (member,) = served.room.members
    protocol: Any = member.socket
    frame = masked(0x82, b"x" * 1_000)
    total = 8 * MIB // len(frame)
    writer.write(frame * total)
    await served.until(lambda: not protocol._reading)
    assert len(protocol._unread) < 64 * 1_024 + 512 * 1_024
    member.socket.release()
    for _ in range(total):
        assert await asyncio.wait_for(read_frame(reader), 10) == (0x82, b"x" * 1_000)


async def test_hundreds_of_connections_come_and_go(serve: Serve) -> None:
    served = await serve()
    clients: list[ClientConnection] = []
    for _ in range(10):
        clients += await asyncio.gather(*(connect(f"{served.ws}/room", ping_interval=None) for _ in range(30)))
    await clients[0].send("to all")
    assert {await client.recv() for client in clients} == {"to all"}
    await asyncio.gather(*(client.close() for client in clients))
    await served.until(lambda: not served.listener.state.connections)
    assert not served.room.members


async def test_a_frame_of_websockets_itself_is_read(serve: Serve) -> None:
    served = await serve()
    reader, writer = await raw_socket(served)
    writer.write(Frame(Opcode.TEXT, b"masked for real").serialize(mask=True))
    assert await read_frame(reader) == (0x81, b"masked for real")


async def test_a_cut_connection_is_forgotten(serve: Serve) -> None:
    served = await serve()
    _, writer = await raw_socket(served)
    await served.until(lambda: bool(served.room.members))
    writer.transport.abort()
    await served.until(lambda: served.room.log == ["opened", "closed"])
    assert not served.listener.state.connections


async def test_close_of_a_client_in_the_middle_of_a_message(serve: Serve) -> None:
    served = await serve()
    reader, writer = await raw_socket(served)
    writer.write(masked(0x01, b"never ends") + masked(0x88, struct.pack(">H", 1000)))
    assert (await close_of(reader))[0] in (1000, 1002)
    with pytest.raises((ConnectionClosedError, AssertionError, asyncio.IncompleteReadError)):
        await read_frame(reader)


@pytest.mark.parametrize("first", [b"", b"hold"])
async def test_what_was_sent_before_the_connection_ended_is_read(serve: Serve, first: bytes) -> None:
    """Thousands of frames and the end of the connection in one go, with no closing handshake; also to who holds."""
    served = await serve()
    frames = masked(0x82, first) + b"".join(masked(0x82, b"%d" % number) for number in range(5_000))
    reader, writer = await raw_socket(served)
    (member,) = served.room.members
    writer.write(frames + masked(0x82, b"a frame without its end")[:-5])
    writer.write_eof()
    await served.until(lambda: served.room.log == ["opened", "closed"])
    assert sum(member.reads) == 5_001
    del reader
