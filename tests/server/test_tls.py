"""TLS: what is wrong with files is said, and handshakes end, whatever the peer does."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trustme

from polywire.core.errors import Invalid
from polywire.server.settings import TlsSettings
from polywire.server.stream_listener import Endpoint, StreamListener
from polywire.server.tls import server_context
from tests.certificates import Certificates, make_certificates
from tests.server.conftest import Dial, Serve
from tests.server.echo import Echoes, until


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def listen() -> AsyncIterator[Callable[..., object]]:
    started: list[tuple[StreamListener, Echoes]] = []

    async def start(tls: TlsSettings, *, room: int = 100, seconds: float = 5.0) -> tuple[StreamListener, Echoes]:
        echoes = Echoes()
        endpoint = Endpoint("echos", "127.0.0.1", 0, 100, tls, seconds)
        listener = StreamListener(endpoint, echoes.protocol, lambda: room - len(echoes.open))
        await listener.start()
        started.append((listener, echoes))
        return listener, echoes

    yield start
    for listener, echoes in started:
        await listener.close()
        await echoes.close()


@pytest.fixture
def said(dial: Dial) -> Callable[..., Awaitable[bytes]]:
    """What comes back over a connection of its own."""

    async def exchange(port: int, context: ssl.SSLContext, data: bytes = b"hello") -> bytes:
        async with asyncio.timeout(5):
            reader, writer = await dial(port, ssl=context)
            writer.write(data)
            answer = await reader.readexactly(len(data))
            writer.close()
            return bytes(answer)

    return exchange


# --- files -----------------------------------------------------------------------------------------------------------


def refused(settings: TlsSettings) -> str:
    with pytest.raises(Invalid) as caught:
        server_context(settings)
    assert "--tls-cert" in str(caught.value.hint)
    return caught.value.detail


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca"])
def test_a_file_that_is_not_there_or_no_pem(certificates: Certificates, tmp_path: Path, name: str) -> None:
    missing, wrong = str(tmp_path / "missing.pem"), str(tmp_path / "wrong.pem")
    Path(wrong).write_text("nothing of the kind")

    def of(path: str) -> TlsSettings:
        return msgspec.structs.replace(certificates.settings, **{name: path})

    assert refused(of(missing)) == f"tls.{name}: {missing}: No such file or directory"
    assert refused(of(str(tmp_path))) == f"tls.{name}: {tmp_path}: Is a directory"
    kind = "private key" if name == "key" else "certificate"
    assert refused(of(wrong)) == f"tls.{name}: {wrong}: not a {kind} in PEM"


def test_a_key_of_another_certificate(certificates: Certificates, tmp_path: Path) -> None:
    other = str(tmp_path / "other.pem")
    certificates.authority.issue_cert("localhost").private_key_pem.write_to_path(other)
    detail = refused(TlsSettings(certificates.certificate, other))
    assert detail == f"tls.key: {other}: not the key of {certificates.certificate}"


def test_an_encrypted_key(certificates: Certificates, tmp_path: Path, require: Callable[[str], str]) -> None:
    """Nobody is asked for its password on a terminal."""
    encrypted = str(tmp_path / "encrypted.pem")
    command = [
        require("openssl"),
        "pkcs8",
        "-topk8",
        "-in",
        certificates.key,
        "-out",
        encrypted,
        "-passout",
        "pass:abc",
    ]
    subprocess.run(command, check=True)
    settings = TlsSettings(certificates.certificate, encrypted)
    reason = f"tls.key: {encrypted}: it is encrypted, and tls.password does not open it"
    assert refused(settings) == reason
    assert refused(msgspec.structs.replace(settings, password="abd")) == reason
    server_context(msgspec.structs.replace(settings, password="abc"))


# --- what peers do ---------------------------------------------------------------------------------------------------


async def test_bytes_go_both_ways(certificates: Certificates, listen, said) -> None:
    listener, echoes = await listen(certificates.settings)
    assert listener.url == f"echos://127.0.0.1:{listener.port}"
    large = b"x" * (3 << 20)
    assert await said(listener.port, certificates.trusting(), large) == large
    await until(lambda: not echoes.open)
    assert listener.handshakes == 0


def test_nothing_older_than_tls_1_2(certificates: Certificates) -> None:
    client = certificates.trusting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is why they are refused
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    server = server_context(certificates.settings).wrap_bio(hello, ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        server.do_handshake()


async def test_clients_with_certificates(certificates: Certificates, listen, said) -> None:
    settings = msgspec.structs.replace(certificates.settings, client_ca=certificates.ca)
    listener, echoes = await listen(settings)
    assert await said(listener.port, certificates.with_certificate("device")) == b"hello"
    stranger = certificates.trusting()
    trustme.CA().issue_cert("device").configure_cert(stranger)
    for context in (certificates.trusting(), stranger):
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await said(listener.port, context)
    assert echoes.made == 1


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x10\x0c\x00\x04MQTT"])
async def test_a_handshake_that_does_not_come_to_an_end(
    certificates: Certificates, listen, sent: bytes, dial: Dial, said
) -> None:
    """Neither silence nor another protocol keeps a connection open."""
    listener, echoes = await listen(certificates.settings, seconds=0.2)
    async with asyncio.timeout(5):
        reader, writer = await dial(listener.port)
        writer.write(sent)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()  # perhaps an alert
        await until(lambda: listener.handshakes == 0)
        writer.close()
    assert echoes.made == 0
    assert await said(listener.port, certificates.trusting()) == b"hello"


async def test_half_open_connections_are_bounded(certificates: Certificates, listen, dial: Dial, said) -> None:
    listener, _ = await listen(certificates.settings, room=3, seconds=60)
    peers = [await dial(listener.port) for _ in range(30)]
    await until(lambda: listener.refused == 27)
    assert listener.handshakes == 3
    with pytest.raises(OSError):  # noqa: PT011 - reset, or an end in the middle of the handshake
        await said(listener.port, certificates.trusting())
    for _, writer in peers:
        writer.close()
    await until(lambda: listener.handshakes == 0)
    assert await said(listener.port, certificates.trusting()) == b"hello"


async def test_there_is_room_for_so_many_and_no_more(certificates: Certificates, listen, dial: Dial, said) -> None:
    listener, echoes = await listen(certificates.settings, room=2)
    context = certificates.trusting()
    peers = [await dial(listener.port, ssl=context) for _ in range(2)]
    await until(lambda: len(echoes.open) == 2)
    with pytest.raises(OSError):  # noqa: PT011 - as above
        await said(listener.port, context)
    assert listener.refused == 1
    peers[0][1].close()
    await until(lambda: len(echoes.open) == 1)
    assert await said(listener.port, context) == b"hello"
    for _, writer in peers:
        writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_everything_in_one_go(certificates: Certificates, listen, version: ssl.TLSVersion, dial: Dial) -> None:
    """The handshake's last bytes, data, the end of TLS and that of the connection, in one segment."""
    listener, echoes = await listen(certificates.settings)
    context = certificates.trusting()
    context.minimum_version = context.maximum_version = version
    for number in range(1, 21):
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = context.wrap_bio(coming, going, server_hostname="localhost")
        async with asyncio.timeout(5):
            reader, writer = await dial(listener.port)
            while True:
                try:
                    peer.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(going.read())
                    coming.write(await reader.read(65_536))
            peer.write(b"all I have to say")
            with pytest.raises(ssl.SSLWantReadError):
                peer.unwrap()
            writer.write(going.read())
            writer.write_eof()
            await until(lambda number=number: len(echoes.said) == number)
            writer.close()
        assert echoes.said[-1] == b"all I have to say"


async def test_closing_ends_handshakes_and_leaves_connections(
    certificates: Certificates, listen, dial: Dial, said
) -> None:
    listener, echoes = await listen(certificates.settings)
    reader, writer = await dial(listener.port, ssl=certificates.trusting())
    half, half_writer = await dial(listener.port)
    await until(lambda: listener.handshakes == 1 and len(echoes.open) == 1)
    await listener.close()
    async with asyncio.timeout(5):
        assert await half.read() == b""
        with pytest.raises(OSError):  # noqa: PT011 - refused
            await said(listener.port, certificates.trusting())
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()
        half_writer.close()


async def test_half_open_connections_of_http(certificates: Certificates, serve: Serve, dial: Dial) -> None:
    served = await serve(tls=certificates.settings, head_timeout=300, max_connections=1)
    async with asyncio.timeout(10):
        reader, writer = await dial(served.port)
        assert await reader.read() == b"", "it waited for a handshake no longer than for a head"
        writer.close()
        reader, writer = await dial(served.port, ssl=certificates.trusting())
        writer.write(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
