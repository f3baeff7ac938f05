"""Whatever a peer sends, in whatever pieces: it cannot tell whether a direct handler is there."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

import pytest

from polywire.server.direct import Answer, DirectHead
from tests.server.conftest import Serve, Served
from tests.server.desk import HEAD, answer_of, post


class Echo:
    """Says what `echo_app` says: at once, soon, or by declining."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.taken = 0

    def __call__(self, head: DirectHead, body: bytes, answer: Answer) -> bool:
        text = b"POST %b %b %d" % (head.path, head.principal.name.encode(), len(body))
        way = self.chance.randrange(4)
        if way == 0:
            return False
        self.taken += 1
        if way == 1:
            answer(200, [], text)
        else:
            asyncio.get_running_loop().call_later(self.chance.random() / 500, answer, 200, [], text)
        return True


def some_requests(chance: random.Random) -> list[bytes]:
    kinds: list[Callable[[], bytes]] = [
        lambda: post(b"x" * chance.randrange(200)),
        lambda: post(b"x" * chance.randrange(200), b"X-Number: %d" % chance.randrange(3)),
        lambda: post(b"x", b"X-API-Key: pw_not_known"),
        lambda: post(b"x" * 70_000),
        lambda: HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        lambda: b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    return [kind() for kind in chance.choices(kinds, (8, 4, 1, 0.3, 1, 1), k=100)]


async def conversation(served: Served, requests: list[bytes], chance: random.Random) -> list[tuple[int, bytes]]:
    """A few requests at a time, in pieces; the answers to these; the next few."""
    reader, writer = await served.raw()
    said: list[tuple[int, bytes]] = []
    while len(said) < len(requests):
        together = requests[len(said) : len(said) + chance.choice((1, 1, 1, 1, 2, 5))]
        sent = b"".join(together)
        cuts = sorted(chance.choices(range(len(sent)), k=chance.choice((0, 0, 1, 1, 10))))
        for start, stop in itertools.pairwise([0, *cuts, len(sent)]):
            writer.write(sent[start:stop])
            await asyncio.sleep(0)
        said += [(await answer_of(reader))[::2] for _ in together]
    return said


@pytest.mark.parametrize("seed", range(10))
async def test_with_and_without_a_direct_handler_a_peer_reads_the_same(serve: Serve, seed: int) -> None:
    chance = random.Random(seed)
    plain, direct = await serve(), await serve()
    echo = Echo(chance)
    direct.listener.router.mount_direct("POST", "/echo", echo)
    requests = some_requests(chance)
    expected = await conversation(plain, requests, chance)
    for _ in range(3):
        assert await conversation(direct, requests, chance) == expected
    assert echo.taken > 50
    assert direct.listener.state.total_requests == 3 * plain.listener.state.total_requests == 300
