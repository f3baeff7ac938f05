"""The power goes at a random moment while MQTT clients are busy: what they were told by then must be true for them.

The disk is that of `tests.powerloss`. At random operations of it an image is taken, together with the journal of all
clients so far. A hub comes up on each image, the same clients come back to it, as they were then, and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from polywire.engines.sqlite import SqliteSettings
from tests.crash import mqtt_breaks as breaks
from tests.crash.mqtt_journal import Entry
from tests.crash.mqtt_world import World
from tests.powerloss import PowerLossVFS
from tests.powerloss_mqtt import SETTINGS, losses, serving

LONG_ROUNDS = int(os.environ.get("POLYWIRE_ROUNDS", "100"))
OPERATIONS = 4_000
"""Of the disk in a life."""
POINTS = 8
HASTY = 1
"""Seconds after which a hub that is known to be wrong is not waited for."""


@pytest.fixture
def vfs() -> Iterator[PowerLossVFS]:
    vfs = PowerLossVFS(f"unplugged-{uuid.uuid4().hex}")
    yield vfs
    vfs.unregister()


class Cuts:
    """Images of the disk at random points from now on, each with what was in the journal by then."""

    def __init__(
        self, vfs: PowerLossVFS, world: World, images: Path, chance: random.Random, within: int = OPERATIONS
    ) -> None:
        self.enough = asyncio.Event()
        self._vfs = vfs
        self._world = world
        self._images = images
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._due = {vfs.operations + operation for operation in chance.sample(range(1, within), POINTS)}
        self._taken: list[tuple[Path, int]] = []
        vfs.on_operation = self._on_operation

    def _on_operation(self, kind: str, file: str) -> None:
        if self._vfs.operations not in self._due:
            return
        # First what was told, then the image: an acknowledgement in between does no harm.
        self._taken.append((self._images / str(len(self._taken)), len(self._world.journal)))
        self._vfs.image(self._taken[-1][0], self._chance)
        if len(self._taken) == POINTS:
            self._loop.call_soon_threadsafe(self.enough.set)

    async def under_load(self, port: int) -> list[tuple[Path, list[Entry]]]:
        """Let the world run until there are enough."""
        running = asyncio.create_task(self._world.run(port))
        waiting = asyncio.create_task(self.enough.wait())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        self._vfs.on_operation = None
        running.cancel()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return [(image, self._world.journal.entries[:told]) for image, told in self._taken]


async def life(
    folder: Path, vfs: PowerLossVFS, settings: SqliteSettings, chance: random.Random, within: int = OPERATIONS
) -> list[tuple[Path, list[Entry]]]:
    async with serving(folder / "data", chance, settings, vfs.name) as served:
        cuts = Cuts(vfs, World(chance, strict=True), folder / "images", chance, within)
        return await cuts.under_load(served.mqtt_port)


async def all_losses(
    taken: Sequence[tuple[Path, list[Entry]]], chance: random.Random, patience: float = 20
) -> dict[int, list[str]]:
    found = {point: await losses(image, told, chance, patience) for point, (image, told) in enumerate(taken)}
    return {point: wrong for point, wrong in found.items() if wrong}


def shown(seed: int, wrong: dict[int, list[str]]) -> str:
    return f"seed {seed}: {json.dumps({point: errors[:20] for point, errors in wrong.items()}, indent=1)}"


def new_seed() -> int:
    return random.SystemRandom().randrange(1 << 32)


@pytest.mark.parametrize("round_", range(2))
async def test_what_clients_were_told_stays_true(tmp_path: Path, vfs: PowerLossVFS, round_: int) -> None:
    seed = new_seed()
    chance = random.Random(seed)
    taken = await life(tmp_path, vfs, SETTINGS, chance)
    kinds = Counter(entry.what for entry in taken[-1][1])
    assert not KINDS - kinds.keys(), kinds
    wrong = await all_losses(taken, chance)
    assert not wrong, shown(seed, wrong)


KINDS = {"publishing", "puback", "pubrec", "pubcomp", "came", "taking", "pubrel", "subscribed", "alive"}
"""What must have happened before anything is proved."""


async def test_the_power_goes_again_during_and_after_the_recovery(tmp_path: Path, vfs: PowerLossVFS) -> None:
    """A hub goes on from what the first loss left; nothing told before or since is wrong after the second."""
    seed = new_seed()
    chance = random.Random(seed)
    left, told = (await life(tmp_path / "first", vfs, SETTINGS, chance))[-1]
    world = World(chance, told, strict=True)
    cuts = Cuts(vfs, world, tmp_path / "second", chance, within=chance.choice((100, OPERATIONS)))
    async with serving(left, chance, SETTINGS, vfs.name) as served:
        taken = await cuts.under_load(served.mqtt_port)
    wrong = await all_losses(taken, chance)
    assert not wrong, shown(seed, wrong)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("round_", range(LONG_ROUNDS))
async def test_many_points(tmp_path: Path, vfs: PowerLossVFS, round_: int) -> None:
    await test_what_clients_were_told_stays_true(tmp_path / "once", vfs, round_)
    await test_the_power_goes_again_during_and_after_the_recovery(tmp_path / "twice", vfs)


CARELESS = msgspec.structs.replace(SETTINGS, synchronous="OFF", checkpoint_interval=60)


async def test_the_loss_shows_without_syncs(tmp_path: Path, vfs: PowerLossVFS) -> None:
    assert await is_seen("is not in the log", tmp_path, vfs, CARELESS)


@pytest.mark.parametrize(("break_it", "seen_as"), breaks.SEEN_AS)
async def test_a_wire_that_breaks_a_promise_is_seen(
    tmp_path: Path, vfs: PowerLossVFS, break_it: breaks.Break, seen_as: str
) -> None:
    assert await is_seen(seen_as, tmp_path, vfs, SETTINGS, break_it)


async def is_seen(
    error: str, folder: Path, vfs: PowerLossVFS, settings: SqliteSettings, break_it: breaks.Break | None = None
) -> bool:
    """Where the power goes is chance: a broken wire is seen within a few lives, a sound one never."""
    for attempt in range(20):
        chance = random.Random(attempt)
        with pytest.MonkeyPatch.context() as patch:
            if break_it is not None:
                break_it(patch)
            taken = await life(folder / str(attempt), vfs, settings, chance, within=400)
        for image, told in taken:
            if any(error in found for found in await losses(image, told, chance, HASTY)):
                return True
    return False
