import asyncio

import pytest

from polywire.core.errors import Conflict, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Flag, Receipt, Record
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig
from tests.core.test_topics import Make


def once(payload: bytes, id: str = "k", **more: object) -> Record:
    return Record(payload, id=id, flags=Flag.DEDUP, **more)


async def publish(rig: Rig, *records: Record, topic: str = "t") -> list[Receipt]:
    return await rig.core.publish(rig.system, topic, list(records))


def count(rig: Rig) -> int:
    return rig.core.topic_info(rig.system, "t").count


async def test_a_duplicate_gets_the_originals_position(rig: Rig) -> None:
    [first] = await publish(rig, once(b"x"))
    [again] = await publish(rig, once(b"x"))
    assert (again.position, again.time, again.duplicate) == (first.position, first.time, True)
    assert count(rig) == 1


async def test_a_duplicate_in_flight_is_acknowledged_with_its_original(rig: Rig) -> None:
    await rig.publish("t", "x")
    rig.engine.holding = True
    first, again = (asyncio.ensure_future(publish(rig, once(b"x"))) for _ in range(2))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not first.done()
    assert not again.done()
    rig.engine.let_go()
    [[one], [other]] = await asyncio.gather(first, again)
    assert one.position == other.position
    assert other.duplicate
    assert count(rig) == 2


async def test_if_the_original_fails_so_does_the_duplicate_and_a_third_is_fresh(rig: Rig) -> None:
    await rig.publish("t", "x")
    rig.engine.fault = DISK_FULL
    results = await asyncio.gather(publish(rig, once(b"x")), publish(rig, once(b"x")), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    rig.engine.fault = None
    [receipt] = await publish(rig, once(b"x"))
    assert not receipt.duplicate
    assert count(rig) == 2


async def test_another_body_is_a_conflict(rig: Rig) -> None:
    await publish(rig, once(b"x"))
    for other in (once(b"y"), once(b"x", key=b"k"), once(b"")):
        with pytest.raises(Conflict, match="used with other content"):
            await publish(rig, other)
    assert count(rig) == 1


async def test_the_scope_is_topic_principal_and_id(rig: Rig) -> None:
    _, secret = await rig.core.access.create_key(rig.system, "other", ["publish:#"])
    other = rig.core.access.authenticate(secret)
    await publish(rig, once(b"x"))
    [receipt] = await rig.core.publish(other, "t", [once(b"y")])
    assert not receipt.duplicate
    [receipt] = await publish(rig, once(b"z"), topic="u")
    assert not receipt.duplicate
    [receipt] = await publish(rig, Record(b"no flag", id="k"))
    assert not receipt.duplicate


async def test_after_a_restart_the_window_is_rebuilt_from_the_log(rig: Rig) -> None:
    [first] = await publish(rig, once(b"x"))
    await publish(rig, *[once(b"%d" % number, f"id{number}") for number in range(100)])
    for again in (rig.restart, rig.crash_and_start):
        await again()
        [receipt] = await publish(rig, once(b"x"))
        assert (receipt.position, receipt.duplicate) == (first.position, True)
        with pytest.raises(Conflict):
            await publish(rig, once(b"y", "id7"))
    assert count(rig) == 101


@pytest.mark.parametrize("restart", [False, True])
async def test_the_window_ends_by_time(rig: Rig, restart: bool) -> None:
    await publish(rig, once(b"x"))
    rig.clock.advance(60_000)
    if restart:
        await rig.restart()
    assert (await publish(rig, once(b"x")))[0].duplicate
    rig.clock.advance(61_000)
    if restart:
        await rig.restart()
    assert not (await publish(rig, once(b"x")))[0].duplicate
    assert (await publish(rig, once(b"x")))[0].duplicate


async def test_the_window_ends_by_count(make: Make) -> None:
    rig = await make(Limits(dedup_ids=10))
    for number in range(100):
        await publish(rig, once(b"x", str(number)))
    [topic] = rig.core.log.by_id.values()
    assert topic.dedup is not None
    assert len(topic.dedup) == 10
    assert (await publish(rig, once(b"x", "90")))[0].duplicate
    assert not (await publish(rig, once(b"x", "89")))[0].duplicate


async def test_duplicates_within_a_batch(rig: Rig) -> None:
    receipts = await publish(rig, once(b"x"), Record(b"plain"), once(b"x"), once(b"y", "k2"), once(b"x"))
    assert [receipt.duplicate for receipt in receipts] == [False, False, True, False, True]
    assert receipts[0].position == receipts[2].position == receipts[4].position
    assert count(rig) == 3
    receipts = await publish(rig, once(b"x"), once(b"x"), once(b"z", "k3"))
    assert [receipt.duplicate for receipt in receipts] == [True, True, False]
    assert count(rig) == 4


async def test_a_batch_with_a_conflict_is_refused_whole_and_says_where(rig: Rig) -> None:
    await publish(rig, once(b"x"))
    with pytest.raises(Conflict) as caught:
        await publish(rig, once(b"new", "k2"), once(b"other"))
    assert [field.path for field in caught.value.fields] == ["$[1]"]
    with pytest.raises(Conflict):
        await publish(rig, once(b"new", "k2"), once(b"newer", "k2"))
    assert count(rig) == 1
    assert not (await publish(rig, once(b"new", "k2")))[0].duplicate


async def test_memory_topics(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory"))
    [first] = await publish(rig, once(b"x"))
    [again] = await publish(rig, once(b"x"))
    assert again.duplicate
    assert again.position == first.position
    await rig.restart()
    assert not (await publish(rig, once(b"x")))[0].duplicate
