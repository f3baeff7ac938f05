"""``kill -9`` while jobs wait, run, are tried again, end, are cancelled: none is lost, none runs again after its end,
and what a client was told stays true."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.crash.process import HubProcess

APP = Path(__file__).with_name("jobs_app.py")
SHORT_ROUNDS = 3
LONG_ROUNDS = int(os.environ.get("POLYWIRE_ROUNDS", "100"))
LONGEST = 0.6  # seconds under load before the kill
ASYNC = {"prefer": "respond-async"}
GONE = (aiohttp.ClientError, OSError)


async def test_kill_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await kill_rounds(tmp_path, SHORT_ROUNDS, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_kill_jobs_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await kill_rounds(tmp_path, LONG_ROUNDS, monkeypatch)


class Clients:
    """What they were told, of all lives of the hub. Numbers are never used again."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._numbers: Iterator[int] = itertools.count(1)
        self.submitted: dict[str, int] = {}
        self.keyed: dict[str, tuple[int, str]] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.cancelled: set[str] = set()
        self.charged: dict[int, str] = {}
        self.busy = asyncio.Event()

    async def run(self, url: str) -> None:
        """Until the hub is gone."""
        self.busy.clear()
        async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session:
            some = [self._submit(session) for _ in range(6)]
            others = [self._look(session), self._cancel(session), self._charge(session)]
            results = await asyncio.gather(*map(self._until_gone, [*some, *others]), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _until_gone(self, client: Any) -> None:
        try:
            await client
        except GONE:
            return

    async def _submit(self, session: aiohttp.ClientSession) -> None:
        while True:
            number = next(self._numbers)
            headers = dict(ASYNC)
            if number % 3 == 0:
                headers["polywire-delay"] = f"{50 + number % 4 * 100}ms"
            if number % 4 == 0:
                headers["idempotency-key"] = f"key {number}"
            job = await asked(session, "double", {"number": number}, headers, 202)
            self.submitted[job["id"]] = number
            if number % 4 == 0:
                self.keyed[f"key {number}"] = (number, job["id"])
            self.busy.set()

    async def _look(self, session: aiohttp.ClientSession) -> None:
        while True:
            await self.busy.wait()
            job = self._chance.choice(list(self.submitted))
            async with session.get(f"/jobs/{job}", params={"wait": "50ms"}) as answer:
                shown = await answer.json()
                assert answer.status == 200, shown
            self._seen(shown)

    def _seen(self, shown: dict[str, Any]) -> None:
        before = self.ended.get(shown["id"])
        assert before is None or before == shown, (before, shown)
        if "ended" in shown:
            self.ended[shown["id"]] = shown

    async def _cancel(self, session: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(0.02)
            if not self.submitted:
                continue
            job = self._chance.choice(list(self.submitted)[-20:])
            async with session.delete(f"/jobs/{job}") as answer:
                shown = await answer.json()
                assert answer.status in (200, 409), shown
            # The answer waits for the end of what runs, but not for ever.
            if answer.status == 200 and shown["status"] == "cancelled":
                self._seen(shown)
                self.cancelled.add(job)

    async def _charge(self, session: aiohttp.ClientSession) -> None:
        while True:
            cents = next(self._numbers)
            for _ in range(2):
                told = await asked(session, "charge", {"cents": cents}, {"idempotency-key": f"charge {cents}"}, 200)
                assert self.charged.setdefault(cents, told) == told

    # After a life

    async def check(self, url: str) -> None:
        """Everything that was told is still true."""
        async with aiohttp.ClientSession(url) as session:
            for job in self.submitted:
                async with session.get(f"/jobs/{job}") as answer:
                    shown = await answer.json()
                    assert answer.status == 200, f"lost: {shown}"
                self._seen(shown)
            for cents, told in list(self.charged.items())[-5:]:
                assert (
                    await asked(session, "charge", {"cents": cents}, {"idempotency-key": f"charge {cents}"}, 200)
                    == told
                )
            for key, (number, job) in list(self.keyed.items())[-5:]:
                headers = {**ASYNC, "idempotency-key": key}
                assert (await asked(session, "double", {"number": number}, headers, 202))["id"] == job

    async def check_all_end(self, url: str) -> None:
        async with aiohttp.ClientSession(url) as session:
            for job, number in self.submitted.items():
                async with session.get(f"/jobs/{job}", params={"wait": "20s"}) as answer:
                    shown = await answer.json()
                if job in self.cancelled:
                    assert shown["status"] == "cancelled"
                elif shown["status"] != "cancelled":  # the answer to who cancelled it may have been lost
                    assert (shown["status"], shown["result"]) == ("succeeded", 2 * number), shown


async def asked(
    session: aiohttp.ClientSession, operation: str, arguments: dict[str, Any], headers: dict[str, str], status: int
) -> Any:
    async with session.post(f"/operations/{operation}", json=arguments, headers=headers) as answer:
        told = await answer.json()
        assert answer.status == status, told
    return told


async def kill_rounds(folder: Path, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = folder / "ran"
    monkeypatch.setenv("POLYWIRE_TEST_RAN", str(ran))
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    clients = Clients(chance)
    data = folder / "data"
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    for _ in range(rounds):
        hub = await HubProcess.spawn(data, APP)
        await hub.wait_ready()
        await clients.check(hub.url)
        over = ended_lines(clients)
        attempts = Counter(ran.read_text().split("\n")) if ran.exists() else Counter[str]()
        await kill_under_load(hub, clients, chance)
        again = [line for line in Counter(ran.read_text().split("\n")) - attempts if line.split(" ")[0] in over]
        assert not again, f"ran again after their end: {again[:5]}"
    hub = await HubProcess.spawn(data, APP)
    await hub.wait_ready()
    await clients.check(hub.url)
    await clients.check_all_end(hub.url)
    await hub.terminate()
    assert len(clients.submitted) > 10 * rounds
    assert clients.cancelled
    lines = ran.read_text().split("\n")
    for cents in clients.charged:
        assert any(line.startswith(f"charge-{cents} ") for line in lines)
    ran_jobs = {line.split(" ")[0] for line in lines}
    assert {job for job, shown in clients.ended.items() if shown["status"] == "succeeded"} <= ran_jobs


def ended_lines(clients: Clients) -> set[str]:
    """What may leave no line any more: jobs that have ended, and calls that were answered."""
    return {*clients.ended, *(f"charge-{cents}" for cents in clients.charged)}


async def kill_under_load(hub: HubProcess, clients: Clients, chance: random.Random) -> None:
    running = asyncio.create_task(clients.run(hub.url))
    busy = asyncio.create_task(clients.busy.wait())
    await asyncio.wait([running, busy], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([running], timeout=chance.uniform(0.05, LONGEST))
    await hub.kill()
    busy.cancel()
    await asyncio.wait_for(running, 30)
