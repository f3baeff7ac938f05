"""Listeners of stream wires without TLS: addresses, ports that are taken, and how many may come in."""

from __future__ import annotations

import asyncio
import socket

import pytest

from polywire.server.sockets import PortTaken
from polywire.server.stream_listener import Endpoint, StreamListener
from tests.server.conftest import Dial
from tests.server.echo import Echoes, until


def listening(echoes: Echoes, host: str = "127.0.0.1", port: int = 0, room: int = 1_000) -> StreamListener:
    return StreamListener(Endpoint("echo", host, port, 100), echoes.protocol, lambda: room - len(echoes.open))


async def test_bytes_go_both_ways_until_the_wire_ends_it(dial: Dial) -> None:
    echoes = Echoes()
    listener = listening(echoes)
    await listener.start()
    assert listener.url == f"echo://127.0.0.1:{listener.port}"
    async with asyncio.timeout(5):
        reader, writer = await dial(listener.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await listener.close()
        with pytest.raises(ConnectionRefusedError):
            await dial(listener.port)
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        await echoes.close()
        assert await reader.read() == b""
    assert echoes.said == [b"hellostill here"]


async def test_every_address_of_a_name(dial: Dial) -> None:
    """`localhost` is two addresses on most machines; both have the same port."""
    echoes = Echoes()
    listener = listening(echoes, "localhost")
    await listener.start()
    found = {address[0] for *_, address in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    for number, address in enumerate(sorted(found), 1):
        _, writer = await dial(listener.port, address)
        await until(lambda number=number: echoes.made == number)
        writer.close()
    await listener.close()
    await until(lambda: not echoes.open)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]"), ("127.0.0.1", "127.0.0.1")],  # noqa: S104
)
async def test_urls_can_be_dialled(host: str, shown: str) -> None:
    listener = listening(Echoes(), host)
    await listener.start()
    assert listener.url == f"echo://{shown}:{listener.port}"
    await listener.close()


async def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"echo cannot listen on 127\.0\.0\.1:{port}: the port is taken") as caught:
            listening(Echoes(), port=port).bind()
    assert (caught.value.wire, caught.value.host, caught.value.port) == ("echo", "127.0.0.1", port)
    for flag in ("--echo PORT", "--free-ports", "--no-echo", "--only"):
        assert flag in str(caught.value.hint)


async def test_what_is_only_bound_is_given_back() -> None:
    listener = listening(Echoes())
    listener.bind()
    await listener.close()
    with socket.create_server(("127.0.0.1", listener.port)):
        pass


async def test_more_than_there_is_room_for_are_closed_at_once(dial: Dial) -> None:
    """In a flood, too: asyncio accepts many before the first is heard of."""
    echoes = Echoes()
    listener = listening(echoes, room=10)
    await listener.start()
    peers = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(80)]
    await until(lambda: listener.refused == 70)
    assert (echoes.made, len(echoes.open)) == (10, 10)
    for peer in peers:
        peer.close()
    await until(lambda: not echoes.open)
    _, writer = await dial(listener.port)
    await until(lambda: len(echoes.open) == 1)
    writer.close()
    await listener.close()
    await until(lambda: not echoes.open)
