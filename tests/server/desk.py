"""A direct handler that does as it is told by what it is sent, and how a test talks to it."""

from __future__ import annotations

import asyncio
from typing import Any

from polywire.server.direct import Answer, DirectHead
from tests.server.conftest import Serve, Served, echo_app

HEAD = b"POST /echo/x HTTP/1.1\r\nHost: localhost\r\n"
TEXT = [(b"content-type", b"text/plain")]


def post(body: bytes, *lines: bytes) -> bytes:
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Desk:
    """A direct handler: declines ``no…``, keeps ``later…`` for the test to answer, fails at ``fail``, answers the rest
    at once."""

    def __init__(self) -> None:
        self.offered: list[tuple[DirectHead, bytes]] = []
        self.kept: list[tuple[bytes, Answer]] = []

    def __call__(self, head: DirectHead, body: bytes, answer: Answer) -> bool:
        self.offered.append((head, body))
        if body.startswith(b"no"):
            return False
        if body == b"fail":
            raise ValueError("asked to fail")
        if body.startswith(b"later"):
            self.kept.append((body, answer))
        else:
            answer(200, TEXT, b"desk " + head.principal.name.encode() + b" " + body)
        return True

    def answer(self, index: int = 0) -> None:
        body, answer = self.kept[index]
        answer(200, TEXT, b"desk " + body)


async def desk_of(serve: Serve, app: Any = echo_app, **settings: Any) -> tuple[Served, Desk]:
    served, desk = await serve(app, **settings), Desk()
    served.listener.router.mount_direct("POST", "/echo", desk)
    return served, desk


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return int(status.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def body_of(reader: asyncio.StreamReader) -> bytes:
    return (await answer_of(reader))[2]


async def connections(served: Served, count: int) -> list[Any]:
    await served.until(lambda: len(served.listener.state.connections) == count)
    return list(served.listener.state.connections)
