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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from polywire.core.core import Core
from polywire.engines.sqlite import SqliteSettings
from polywire.wires.mqtt.queue_feed import QueueFeed
from polywire.wires.mqtt.sessions import Sessions
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


KINDS = {
    "publishing", "puback", "pubrec", "pubcomp", "came", "taking", "pubrel", "subscribed", "unsubscribed", "alive", "bye",
}  # fmt: skip
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


async def test_the_loss_shows_without_syncs(tmp_path: Path, vfs: PowerLossVFS) -> None:
    careless = msgspec.structs.replace(SETTINGS, synchronous="OFF", checkpoint_interval=60)
    chance = random.Random(1)
    wrong = await all_losses(await life(tmp_path, vfs, careless, chance), chance, HASTY)
    assert len(wrong) > POINTS // 2
    assert any("is not in the log" in error for errors in wrong.values() for error in errors)


LATER = 0.004
"""Seconds, after which a broken wire does what it should have done at once."""


def later(work: Callable[..., object], *arguments: Any) -> None:
    asyncio.get_running_loop().call_later(LATER, work, *arguments)


def acknowledges_too_early(patch: pytest.MonkeyPatch) -> None:
    """PUBACK and PUBREC before the commit."""
    send = Core.send

    def sent(core: Core, who: Any, topic: str, records: Any, told: Any = None) -> None:
        send(core, who, topic, records)
        if told is not None:
            asyncio.get_running_loop().call_soon(told, None)

    patch.setattr(Core, "send", sent)


def stores_ids_after_their_messages(patch: pytest.MonkeyPatch) -> None:
    """What came at QoS 2 is not in the transaction of the message."""
    store = Sessions.store_received

    def stored(sessions: Sessions, session: Any, told: Any = None, *, tied: bool = False) -> None:
        later(store, sessions, session) if tied else store(sessions, session, told)

    patch.setattr(Sessions, "store_received", stored)


def stores_ids_before_their_messages(patch: pytest.MonkeyPatch) -> None:
    send = Core.send

    def sent(core: Core, *arguments: Any) -> None:
        later(send, core, *arguments)

    patch.setattr(Core, "send", sent)


def completes_too_early(patch: pytest.MonkeyPatch) -> None:
    """PUBCOMP before it is stored that the id may mean another message."""
    store = Sessions.store_received

    def stored(sessions: Sessions, session: Any, told: Any = None, *, tied: bool = False) -> None:
        if told is None:
            store(sessions, session, tied=tied)
        else:
            told(None)
            later(store, sessions, session)

    patch.setattr(Sessions, "store_received", stored)


def publishes_too_early(patch: pytest.MonkeyPatch) -> None:
    """PUBLISH before its id is stored."""
    send = QueueFeed._send

    class AtOnce(list[bytes]):
        def __init__(self, feed: QueueFeed) -> None:
            self._feed = feed

        def append(self, packet: bytes) -> None:
            self._feed._connection.write(packet)
            later(self._feed._wire.sessions.store_sent, self._feed._session)

    def sent(feed: QueueFeed, delivery: Any, granted: Any, exactly_once: list[bytes]) -> None:
        send(feed, delivery, granted, AtOnce(feed))

    patch.setattr(QueueFeed, "_send", sent)


def releases_too_early(patch: pytest.MonkeyPatch) -> None:
    """PUBREL before its PUBREC is stored."""
    settled = QueueFeed.settled

    def released(feed: QueueFeed, entries: Any) -> None:
        feed._protocol.release([entry.id for entry in entries if entry.released])
        later(settled, feed, entries)

    patch.setattr(QueueFeed, "settled", released)


def settles_apart(patch: pytest.MonkeyPatch) -> None:
    """An acknowledgement and what becomes of its id are two commits."""
    settle = QueueFeed._settle

    def settled(feed: QueueFeed, token: int) -> None:
        later(settle, feed, token)

    patch.setattr(QueueFeed, "_settle", settled)


def opens_too_early(patch: pytest.MonkeyPatch) -> None:
    """CONNACK before its session is stored."""
    opened = Sessions.opened

    def answered(sessions: Sessions, session: Any, told: Any) -> None:
        told(None)
        later(opened, sessions, session, lambda _error: None)

    patch.setattr(Sessions, "opened", answered)


def subscribes_too_early(patch: pytest.MonkeyPatch) -> None:
    """SUBACK before the subscription is stored."""
    changed = Sessions.changed

    def answered(sessions: Sessions, session: Any, told: Any = None) -> None:
        if told is not None:
            asyncio.get_running_loop().call_soon(told, None)
        later(changed, sessions, session)

    patch.setattr(Sessions, "changed", answered)


def publishes_wills_apart(patch: pytest.MonkeyPatch) -> None:
    """A will goes in one commit, and that it went in another."""
    publish = Sessions._publish_will

    def published(sessions: Sessions, session: Any) -> None:
        will = session.will
        publish(sessions, session)
        if will is not None:
            later(forgets, sessions, session)
            session.will = will

    def forgets(sessions: Sessions, session: Any) -> None:
        session.will = None

    patch.setattr(Sessions, "_publish_will", published)


@pytest.mark.parametrize(
    ("break_it", "seen_as"),
    [
        (acknowledges_too_early, "is not in the log"),
        (stores_ids_after_their_messages, "is in the log 2 times"),
        (stores_ids_before_their_messages, "is not in the log"),
        (completes_too_early, "is not in the log"),
        (publishes_too_early, "both have packet id"),
        (publishes_too_early, "2 times"),
        (releases_too_early, "2 times"),
        (settles_apart, "again after it was settled"),
        (settles_apart, "2 times"),
        (opens_too_early, "Session Present 0"),
        (subscribes_too_early, "did not get"),
        (publishes_wills_apart, "Life("),
    ],
)
async def test_a_wire_that_breaks_a_promise_is_seen(
    tmp_path: Path,
    vfs: PowerLossVFS,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    seen_as: str,
) -> None:
    # Where the power goes is chance: a broken wire is seen within a few lives, a sound one never.
    for attempt in range(20):
        chance = random.Random(attempt)
        with monkeypatch.context() as patch:
            break_it(patch)
            taken = await life(tmp_path / str(attempt), vfs, SETTINGS, chance, within=400)
        for image, told in taken:
            if any(seen_as in error for error in await losses(image, told, chance, HASTY)):
                return
    pytest.fail("the broken wire was not seen")
