"""The clients of the crash test: they write down what the hub told them, and go on until it is gone."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import websockets

from tests.crash.record import Name, Told

REST_PUBLISHERS = 16
WEBSOCKET_PUBLISHERS = 8
GONE = (aiohttp.ClientError, websockets.WebSocketException, OSError, EOFError)
"""How a client sees that the process was killed."""


class Load:
    """Publishers and a consumer that outlive the hub: ``run`` once per life of it. Numbers are never used again."""

    def __init__(self, told: Told, chance: random.Random) -> None:
        self._told = told
        self._chance = chance
        self._numbers: dict[str, Iterator[int]] = {}
        self.busy = asyncio.Event()  # something was acknowledged in this life

    async def run(self, url: str) -> None:
        """Until the hub is gone. Raises what no client should see."""
        self.busy.clear()
        async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session:
            clients = [self._publish(session, f"rest{n}") for n in range(REST_PUBLISHERS)]
            clients += [self._chat(url.replace("http", "ws", 1), f"ws{n}") for n in range(WEBSOCKET_PUBLISHERS)]
            clients += [self._consume(session) for _ in range(2)]
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(_until_gone(client))

    def _next(self, publisher: str) -> tuple[Name, str]:
        numbers = self._numbers.setdefault(publisher, itertools.count())
        name = (publisher, next(numbers))
        filler = self._chance.randbytes(self._chance.choice((4, 40, 400))).hex()
        self._told.sent[name] = filler
        return name, json.dumps({"publisher": name[0], "number": name[1], "filler": filler})

    async def _publish(self, session: aiohttp.ClientSession, publisher: str) -> None:
        while True:
            name, body = self._next(publisher)
            headers = {"Content-Type": "application/json"}
            async with session.post("/topics/readings", data=body, headers=headers) as answer:
                receipt = await answer.json()
                assert answer.status == 201, receipt
            self._told.positions[receipt["position"]] = name
            self.busy.set()

    async def _chat(self, url: str, publisher: str) -> None:
        """A raw WebSocket has no acknowledgement; but what comes back over it was delivered."""
        async with websockets.connect(f"{url}/ws/readings/{publisher}", close_timeout=1) as socket:
            while True:
                for _ in range(self._chance.randint(1, 5)):
                    await socket.send(self._next(publisher)[1])
                    echo = json.loads(await socket.recv())
                    self._told.echoed.add((echo["publisher"], echo["number"]))

    async def _consume(self, session: aiohttp.ClientSession) -> None:
        told = self._told
        while True:
            deliveries = (await _ask(session, "pull", {"max": 20, "wait": "200ms", "lease": "10s"}))["deliveries"]
            taken = {d["token"]: d["message"] for d in deliveries}
            for message in taken.values():
                data = message["data"]
                told.pulled[message["position"]] = (data["publisher"], data["number"])
            chosen = [token for token in taken if self._chance.random() < 0.9]
            if not chosen:
                continue
            positions = {taken[token]["position"] for token in chosen}
            again = positions & told.settled
            assert not again, f"settled before, and delivered again: {again}"
            told.settling |= positions
            await _ask(session, "ack", {"tokens": chosen})
            told.settled |= positions


async def _ask(session: aiohttp.ClientSession, what: str, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(f"/subscriptions/pulled/{what}", json=body) as answer:
        said: dict[str, Any] = await answer.json()
        assert answer.status == 200, said
        return said


async def _until_gone(client: Any) -> None:
    try:
        await client
    except GONE:
        return
