"""A subscription beside a model of it, over random publishes, settlements, restarts, crashes and failing commits."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from polywire.core.errors import Unavailable
from polywire.core.limits import Limits
from polywire.core.streams import Earliest
from polywire.core.subscription import Delivery
from tests.core.conftest import VARIANTS
from tests.core.harness import DISK_FULL, Rig, Taker
from tests.core.test_topics import Make

ATTEMPTS = 3
STEPS = 120


class Model:
    """``pending``: payload to attempts so far; ``doubtful``: settled, but perhaps not stored yet: what they were."""

    def __init__(self) -> None:
        self.pending: dict[bytes, int] = {}
        self.dead: set[bytes] = set()
        self.doubtful: dict[bytes, int] = {}

    def settle(self, payload: bytes, outcome: str) -> None:
        self.doubtful.setdefault(payload, self.pending[payload])
        attempts = self.pending.pop(payload)
        if outcome == "nack" and attempts + 1 < ATTEMPTS:
            self.pending[payload] = attempts + 1
        elif outcome != "ack":
            self.dead.add(payload)

    def crashed(self, pending: set[bytes]) -> None:
        """What was not stored is as it was before."""
        for payload, attempts in self.doubtful.items():
            if payload in pending and payload not in self.pending:
                self.pending[payload] = attempts
                self.dead.discard(payload)
        self.doubtful.clear()


class Run:
    def __init__(self, rig: Rig, seed: int, *, ordered: bool) -> None:
        self.rig = rig
        self.chance = random.Random(seed)
        self.ordered = ordered
        self.model = Model()
        self.published = 0
        self.takers: list[Taker] = []
        self.lenient: set[bytes] = set()  # attempts that a crash may have taken back

    async def step(self) -> None:
        names = [
            "publish",
            "settle",
            "settle",
            "settle",
            "join",
            "leave",
            "time",
            "restart",
            "crash",
            "fault",
            "redrive",
        ]
        weights = [6, 8, 8, 8, 3, 2, 3, 1, 1.5, 1, 1]
        [name] = self.chance.choices(names, weights)
        await getattr(self, name)()

    async def publish(self) -> None:
        count = self.chance.choice([1, 1, 3, 40])
        payloads = [b"%d" % number for number in range(self.published, self.published + count)]
        self.published += count
        await self.rig.publish("t", *payloads, key=self.chance.choice("abc"))
        self.model.pending.update(dict.fromkeys(payloads, 0))
        self.model.doubtful.clear()

    async def settle(self) -> None:
        held = [d for taker in self.takers for d in taker.got if d.subscription.find(d.token) is d]
        for delivery in self.chance.sample(held, min(len(held), self.chance.randrange(6))):
            self._settle(delivery)
        if self.chance.random() < 0.5:
            await self.rig.core.log.committed()
            self.model.doubtful.clear()

    def _settle(self, delivery: Delivery) -> None:
        payload = delivery.message.record.payload
        if payload not in self.lenient:
            assert delivery.attempt == self.model.pending[payload] + 1
        self.model.pending[payload] = delivery.attempt - 1
        self.lenient.discard(payload)
        outcome = self.chance.choice(["ack", "ack", "ack", "nack", "later", "reject", "release"])
        if outcome == "release":
            assert delivery.release()
            return
        if outcome == "ack":
            assert delivery.ack()
        elif outcome == "reject":
            assert delivery.reject("no")
        else:
            assert delivery.nack(self.chance.choice([500, 5_000]) if outcome == "later" else 0)
            outcome = "nack"
        self.model.settle(payload, outcome)

    async def join(self) -> None:
        if len(self.takers) < 3:
            self.takers.append(self.rig.consume(credit=self.chance.choice([1, 4, 50])))

    async def leave(self) -> None:
        if self.takers:
            self.takers.pop(self.chance.randrange(len(self.takers))).close()

    async def time(self) -> None:
        self.rig.clock.advance(self.chance.choice([300, 2_000, 10_000]))

    async def restart(self) -> None:
        self.takers.clear()
        await self.rig.restart()
        self.model.doubtful.clear()

    async def crash(self) -> None:
        self.takers.clear()
        await self.rig.crash_and_start()
        await self.rig.quiet()
        self.lenient |= set(self.model.doubtful)
        self.model.crashed(set(await self.rig.waiting()))

    async def fault(self) -> None:
        await self.rig.core.log.committed()
        self.model.doubtful.clear()
        await self.rig.quiet()
        self.rig.engine.fault = DISK_FULL
        with pytest.raises(Unavailable):
            await self.rig.publish("t", "lost")
        self.rig.engine.fault = None

    async def redrive(self) -> None:
        dead = await self.rig.waiting("s", "dead")
        chosen = self.chance.randrange(4)
        assert await self.rig.core.subscriptions.redrive(self.rig.system, "s", limit=chosen) == min(chosen, len(dead))
        self.model.doubtful.clear()
        for payload in dead[:chosen]:
            self.model.dead.discard(payload)
            self.model.pending[payload] = 0

    async def check(self) -> None:
        await self.rig.quiet()
        waiting, dead = await self.rig.waiting(), await self.rig.waiting("s", "dead")
        assert Counter(waiting) == Counter(self.model.pending.keys())
        assert Counter(dead) == Counter(self.model.dead)
        info = self.rig.info()
        assert (info.pending, info.dead) == (len(waiting), len(dead))
        held = [d for taker in self.takers for d in taker.got if d.subscription.find(d.token) is d]
        assert info.unsettled == len(held)
        if self.ordered:
            assert all(count == 1 for count in Counter(d.message.record.key for d in held).values())

    async def finish(self) -> None:
        """Nobody is forgotten: everything that is pending can be had and acknowledged."""
        for taker in self.takers:
            taker.close()
        self.rig.clock.advance(60_000)
        await self.rig.quiet()
        last = self.rig.consume(credit=7, act=lambda delivery: delivery.ack())
        await last.wait(len(self.model.pending))
        await self.rig.quiet()
        assert Counter(last.payloads) == Counter(self.model.pending.keys())
        await self.rig.crash_and_start()
        assert self.rig.pending() == 0
        page = await self.rig.core.read(self.rig.system, "t", Earliest(), limit=100_000)
        assert len(page.messages) == self.published


@pytest.mark.parametrize("ordered", [False, True], ids=["competing", "ordered"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
async def test_a_subscription_agrees_with_its_model(make: Make, seed: int, variant: str, ordered: bool) -> None:
    limits, batch = VARIANTS[variant]
    rig = await make(Limits(tail_size=limits.tail_size, dispatch_batch=16), batch=batch)
    await rig.subscribe("s", "t", attempts=ATTEMPTS, ordered=ordered)
    run = Run(rig, seed, ordered=ordered)
    for number in range(STEPS):
        await run.step()
        if number % 5 == 0:
            await run.check()
    await run.finish()
