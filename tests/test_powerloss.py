"""The power goes at a random moment of a busy hub: what it had acknowledged or delivered by then must be there.

The disk is that of `tests.powerloss`. At random operations of it an image is taken, together with how much the clients
had been told (`Life.told` only grows). A fresh core opens each image and is asked about all of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from polywire.core.core import Core
from polywire.core.limits import Limits
from polywire.core.log import Log
from polywire.core.message import Batch, Record
from polywire.core.subscription import Delivery
from polywire.core.topics import Topic
from polywire.engines.sqlite import SqliteEngine, SqliteSettings
from tests import powerloss_jobs as jobs
from tests.powerloss import PowerLossVFS
from tests.powerloss_hub import Life, Told, losses

POINTS = 208
ROUNDS = 4
LONG_ROUNDS = int(os.environ.get("POLYWIRE_ROUNDS", "100"))
OPERATIONS = 1_600
"""Of the disk in a round."""
SETTINGS = SqliteSettings(reserve_size=0, checkpoint_interval=0.005, wal_limit=1 << 17)


@pytest.fixture
def vfs() -> Iterator[PowerLossVFS]:
    vfs = PowerLossVFS(f"unplugged-{uuid.uuid4().hex}")
    yield vfs
    vfs.unregister()


@contextlib.asynccontextmanager
async def running(
    folder: Path, vfs: PowerLossVFS, settings: SqliteSettings, chance: random.Random
) -> AsyncIterator[Core]:
    limits = Limits(checkpoint_interval=20, tail_size=chance.choice((1, 20_000, 64 << 20)))
    core = Core(SqliteEngine(str(folder), settings=settings, vfs=vfs.name), limits=limits)
    jobs.declare(core)
    await core.start()
    yield core
    vfs.on_operation = None
    await core.jobs.stop(1)
    await core.calls.drain(1)
    await core.stop()


async def run_until_cut(life: Life, vfs: PowerLossVFS, images: Path, points: int) -> list[tuple[Path, list[Told]]]:
    """Put the core under load; images of its disk at random points, each with what had been told by then."""
    chance = random.Random(life.chance.random())
    due = set(chance.sample(range(vfs.operations + 1, vfs.operations + OPERATIONS), points))
    last = max(due)
    taken: list[tuple[Path, int]] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_operation(kind: str, file: str) -> None:
        if vfs.operations in due:
            # First what was told, then the image: an acknowledgement in between does no harm.
            taken.append((images / str(len(taken)), len(life.told)))
            vfs.image(taken[-1][0], chance)
        if vfs.operations == last:
            loop.call_soon_threadsafe(enough.set)

    vfs.on_operation = on_operation
    await life.begin()
    publishing = asyncio.create_task(life.publish())
    waiting = asyncio.create_task(enough.wait())
    await asyncio.wait([publishing, waiting], return_when=asyncio.FIRST_COMPLETED)
    publishing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    assert len(taken) == points
    return [(image, life.told[:told]) for image, told in taken]


async def cut_at_random(
    folder: Path, vfs: PowerLossVFS, settings: SqliteSettings, seed: int, points: int
) -> dict[int, list[str]]:
    """By point, what was lost."""
    chance = random.Random(seed)
    async with running(folder / "data", vfs, settings, chance) as core:
        life = Life(core, chance)
        taken = await run_until_cut(life, vfs, folder / "images", points)
    _require_all_kinds(life.told)
    return await all_losses(life, taken)


def _require_all_kinds(told: Sequence[Told]) -> None:
    kinds = Counter(one.what for one in told)
    rare = ("settled", "rejected", "returned", "delayed", "cancelled", "submitted", "ended", "replied")
    assert min(kinds[what] for what in rare) > 0, kinds
    assert min(kinds[what] for what in ("acknowledged", "delivered")) > 200, kinds


async def all_losses(life: Life, taken: Sequence[tuple[Path, list[Told]]]) -> dict[int, list[str]]:
    wrong = {point: await losses(image, life, told) for point, (image, told) in enumerate(taken)}
    return {point: errors[:20] for point, errors in wrong.items() if errors}


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_nothing_acknowledged_or_delivered_is_lost(tmp_path: Path, vfs: PowerLossVFS, round_: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    lost = await cut_at_random(tmp_path, vfs, SETTINGS, seed, POINTS // ROUNDS)
    assert not lost, f"seed {seed}: {json.dumps(lost, indent=1)}"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("round_", range(LONG_ROUNDS))
async def test_many_points(tmp_path: Path, vfs: PowerLossVFS, round_: int) -> None:
    await test_nothing_acknowledged_or_delivered_is_lost(tmp_path, vfs, round_)


async def test_the_power_goes_again_after_the_recovery(tmp_path: Path, vfs: PowerLossVFS) -> None:
    """A hub goes on from what the first loss left, and nothing told before or since is missing after the second."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    async with running(tmp_path / "data", vfs, SETTINGS, chance) as core:
        life = Life(core, chance)
        left, told = (await run_until_cut(life, vfs, tmp_path / "first", 3))[-1]
    life.told = told
    async with running(left, vfs, SETTINGS, chance) as life.core:
        taken = await run_until_cut(life, vfs, tmp_path / "second", 20)
    lost = await all_losses(life, taken)
    assert not lost, f"seed {seed}: {json.dumps(lost, indent=1)}"


async def test_the_loss_shows_without_syncs(tmp_path: Path, vfs: PowerLossVFS) -> None:
    careless = msgspec.structs.replace(SETTINGS, synchronous="OFF")
    lost = await cut_at_random(tmp_path, vfs, careless, 1, 20)
    assert len(lost) > 10
    assert any("is missing" in error for errors in lost.values() for error in errors)


def answers_too_early(patch: pytest.MonkeyPatch) -> None:
    """Publishers are answered before the commit."""
    waits = Core.publish

    async def publish(core: Core, who: Any, topic: str, records: list[Record], *, due: int | None = None) -> Any:
        if due is not None:
            return await waits(core, who, topic, records, due=due)
        receipts = core.post(who, topic, records)
        await asyncio.sleep(0.002)
        return receipts

    patch.setattr(Core, "publish", publish)


def settles_too_early(patch: pytest.MonkeyPatch) -> None:
    """Consumers are answered before their acknowledgement is committed."""

    async def committed(log: Log) -> None:
        await asyncio.sleep(0)

    patch.setattr(Log, "committed", committed)


def delivers_too_early(patch: pytest.MonkeyPatch) -> None:
    """Viewers see what is not committed yet."""
    append = Log.append

    def appended(log: Log, topic: Topic, records: Sequence[Record], *rest: Any) -> tuple[int, int]:
        seq, offset = append(log, topic, records, *rest)
        batch = Batch(
            topic=topic.name, topic_id=topic.id, epoch=topic.epoch, seq=seq, offset=offset, appended=0,
            records=list(records),
        )  # fmt: skip
        for follower in topic.followers:
            follower._sink.deliver(batch, None)
        return seq, offset

    patch.setattr(Log, "append", appended)


def settles_apart_from_results(patch: pytest.MonkeyPatch) -> None:
    """A result and its acknowledgement are two commits."""

    def publish_settling(core: Core, who: Any, deliveries: Sequence[Delivery], results: Any) -> None:
        for delivery in deliveries:
            delivery.ack()
        for topic, records in results:
            asyncio.get_running_loop().call_later(0.01, core.post, who, topic, records)

    patch.setattr(Core, "publish_settling", publish_settling)


@pytest.mark.parametrize(
    ("break_it", "seen_as"),
    [
        (answers_too_early, "acknowledged"),
        (settles_too_early, "is pending"),
        (settles_too_early, "is lost"),
        (settles_too_early, "was run again"),
        (delivers_too_early, "delivered"),
        (settles_apart_from_results, "pending: False, results: 0"),
    ],
)
async def test_a_hub_that_breaks_a_promise_is_seen(
    tmp_path: Path,
    vfs: PowerLossVFS,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    seen_as: str,
) -> None:
    # Where the power goes is chance: a broken hub is seen within a few lives, a sound one never.
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        chance = random.Random(attempt)
        with monkeypatch.context() as patch:
            async with running(folder / "data", vfs, SETTINGS, chance) as core:
                break_it(patch)
                life = Life(core, chance)
                taken = await run_until_cut(life, vfs, folder / "images", 20)
                patch.undo()
        lost = await all_losses(life, taken)
        if any(seen_as in error for errors in lost.values() for error in errors):
            return
    pytest.fail("the broken hub was not seen")
