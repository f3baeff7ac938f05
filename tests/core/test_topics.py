from collections.abc import Awaitable, Callable

import pytest

from polywire.core.core import Core
from polywire.core.errors import Conflict, Invalid, LimitExceeded, NotFound, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.position import Cursor
from polywire.core.streams import Earliest, StaleCursor
from polywire.core.topics import TopicSettings
from polywire.engines.sqlite.backup import restore
from tests.core.harness import Reader, Rig

Make = Callable[..., Awaitable[Rig]]


async def test_a_topic_is_made_on_first_publish_and_stays(rig: Rig) -> None:
    await rig.publish("readings", "1")
    await rig.restart()
    info = rig.core.topic_info(rig.system, "readings")
    assert (info.epoch, info.oldest, info.next, info.count, info.size) == (1, 0, 1, 1, 1)
    assert not info.declared


async def test_a_topic_is_made_on_first_subscribe(rig: Rig) -> None:
    await rig.subscribe("s", "later")
    rig.core.follow(rig.system, "chat", Earliest(), Reader(), create=True)
    assert [topic.name for topic in rig.core.topics(rig.system)] == ["chat", "later"]


async def test_reading_makes_no_topic(rig: Rig) -> None:
    with pytest.raises(NotFound, match="no topic 'readings'"):
        await rig.core.read(rig.system, "readings", Earliest())
    with pytest.raises(NotFound):
        rig.core.follow(rig.system, "readings", Earliest(), Reader())
    assert rig.core.topics(rig.system) == []


@pytest.mark.parametrize("name", ["_dead", "_events", "_x", "operations", "amq.topic", "polywire.a", "a/b", "", "ä"])
async def test_reserved_and_illegal_names_are_refused(rig: Rig, name: str) -> None:
    with pytest.raises(Invalid):
        await rig.publish(name, "x")
    with pytest.raises(Invalid):
        await rig.core.create_topic(rig.system, TopicSettings(name))
    with pytest.raises(Invalid):
        Core(rig.engine).declare_topic(TopicSettings(name))


@pytest.mark.parametrize("name", ["default", "_other"])
async def test_these_reserved_names_are_there_for_clients(rig: Rig, name: str) -> None:
    [receipt] = await rig.publish(name, "x", key="a.b")
    assert receipt.position.offset == 0


async def test_nobody_publishes_to_the_hubs_own_topics(rig: Rig) -> None:
    rig.core.event("something")
    await rig.quiet()
    with pytest.raises(Invalid, match="reserved"):
        await rig.publish("_events", "x")


async def test_a_strict_hub_knows_what_was_declared(make: Make) -> None:
    rig = Rig((await make()).folder.parent / "strict", strict=True)
    await rig.start(lambda core: core.declare_topic(TopicSettings("readings")))
    with pytest.raises(NotFound) as caught:
        await rig.publish("reading", "x")
    assert caught.value.hint == "did you mean 'readings'?"
    with pytest.raises(NotFound):
        await rig.subscribe("s", "reading")
    await rig.publish("readings", "x")
    with pytest.raises(Conflict, match="declared by the application"):
        await rig.core.delete_topic(rig.system, "readings")
    await rig.stop()


async def test_topics_on_use_have_a_limit_that_declared_ones_do_not(make: Make) -> None:
    rig = await make(Limits(topics_on_use=3))
    for number in range(3):
        await rig.publish(f"t{number}", "x")
    for number in range(3, 33):
        with pytest.raises(LimitExceeded):
            await rig.publish(f"t{number}", "x")
    await rig.core.create_topic(rig.system, TopicSettings("made"))
    assert rig.core.metrics()["topics_refused_on_use"] == 30
    await rig.restart()
    with pytest.raises(LimitExceeded):
        await rig.publish("t3", "x")
    await rig.core.delete_topic(rig.system, "t0")
    await rig.publish("t3", "x")


async def test_creating_twice_is_joining_or_a_conflict(rig: Rig) -> None:
    first = await rig.core.create_topic(rig.system, TopicSettings("t", retention=5_000))
    assert await rig.core.create_topic(rig.system, TopicSettings("t", retention=5_000)) == first
    with pytest.raises(Conflict):
        await rig.core.create_topic(rig.system, TopicSettings("t"))
    with pytest.raises(Invalid) as caught:
        await rig.core.create_topic(rig.system, TopicSettings("u", retention=0, hard_limit=-1))
    assert [field.path for field in caught.value.fields] == ["$.retention", "$.hard_limit"]
    await rig.crash_and_start()
    assert rig.core.topic_info(rig.system, "t").settings.retention == 5_000


async def test_the_durability_of_a_topic_does_not_change_behind_its_back(make: Make) -> None:
    rig = await make()
    await rig.publish("t", "x")
    await rig.stop()
    with pytest.raises(Conflict, match="is durable in the data folder and declared memory"):
        await rig.start(lambda core: core.declare_topic(TopicSettings("t", durability="memory")))
    assert rig.core.phase == "failed"
    await rig.start(lambda core: core.declare_topic(TopicSettings("t", retention=1_000)))
    assert rig.core.topic_info(rig.system, "t").settings.retention == 1_000
    assert rig.core.topic_info(rig.system, "t").declared


async def test_a_second_hub_on_the_folder_is_refused(rig: Rig) -> None:
    with pytest.raises(Unavailable, match=str(rig.folder)):
        await Rig(rig.folder).start()
    await rig.publish("t", "x")


# Epochs


async def test_epochs_never_go_back(rig: Rig) -> None:
    """Neither across delete and re-create, nor a restart, nor a crash."""
    seen = []
    for again in (rig.restart, rig.crash_and_start, rig.restart):
        [receipt] = await rig.publish("t", "x")
        seen.append(receipt.position.epoch)
        await rig.core.delete_topic(rig.system, "t")
        await rig.round()
        await again()
    [receipt] = await rig.publish("t", "x")
    assert [*seen, receipt.position.epoch] == [1, 2, 3, 4]
    assert receipt.position.offset == 0


async def test_a_memory_topic_has_a_new_epoch_at_each_start(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("m", durability="memory"))
    [first] = await rig.publish("m", "x")
    await rig.restart()
    with pytest.raises(StaleCursor) as caught:
        await rig.core.read(rig.system, "m", Cursor(first.position.epoch, 0))
    assert caught.value.reason == "epoch"
    [second] = await rig.publish("m", "y")
    assert second.position.epoch > first.position.epoch
    assert second.position.offset == 0


async def test_a_restored_hub_raises_every_epoch(make: Make) -> None:
    """What the lost hub did after the backup may have handed out later epochs and offsets."""
    rig = await make()
    await rig.publish("t", "kept")
    await rig.publish("gone", "x")
    await rig.core.delete_topic(rig.system, "gone")
    await rig.subscribe("s", "t")
    await rig.publish("t", "held")
    await rig.core.backup(rig.system, str(rig.folder.parent / "copy"))
    await rig.core.delete_topic(rig.system, "t")
    [lost] = await rig.publish("t", "lost")
    await rig.stop()
    restore(str(rig.folder.parent / "copy"), str(rig.folder.parent / "restored"))
    restored = await make(folder="restored")
    info = restored.core.topic_info(restored.system, "t")
    assert info.epoch > lost.position.epoch
    assert (await restored.core.read(restored.system, "t", Earliest())).messages[0].position.epoch == info.epoch
    assert await restored.waiting() == [b"held"]
    [again] = await restored.publish("gone", "x")
    assert again.position.epoch > 1_000
    await restored.restart()
    assert restored.core.topic_info(restored.system, "t").epoch == info.epoch, "raised once, not at every start"


# Deleting


async def test_deleting_takes_the_name_and_ends_readers(rig: Rig) -> None:
    await rig.publish("t", "x")
    reader = Reader()
    rig.core.follow(rig.system, "t", Earliest(), reader)
    await rig.core.delete_topic(rig.system, "t")
    assert isinstance(reader.why, NotFound)
    for doing in (rig.core.read(rig.system, "t", Earliest()), rig.core.delete_topic(rig.system, "t")):
        with pytest.raises(NotFound):
            await doing
    await rig.round()
    await rig.round()
    assert not rig.core.log.by_id
    await rig.publish("t", "new")
    assert (await rig.core.read(rig.system, "t", Earliest())).messages[0].record.payload == b"new"


async def test_what_a_queue_holds_of_a_deleted_topic_stays(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.publish("t", "1", "2", "3")
    await queue.core.delete_topic(queue.system, "t")
    await queue.round()
    await queue.publish("t", "4")
    await queue.crash_and_start()
    taker = queue.consume(act=lambda delivery: delivery.ack())
    await taker.wait(4)
    assert taker.payloads == [b"1", b"2", b"3", b"4"]
    await queue.quiet()
    await queue.round()
    await queue.round()
    assert [topic.name for topic in queue.core.log.by_id.values()] == ["t"]
    await queue.restart()
    assert len(queue.core.log.by_id) == 1


async def test_a_crash_between_publish_and_delete_loses_nothing_a_queue_holds(rig: Rig) -> None:
    await rig.subscribe("s", "t")
    await rig.checkpoint()
    rig.core._upkeep.stop()  # no checkpoint: routing has to be repeated
    await rig.publish("t", "1", "2")
    await rig.core.delete_topic(rig.system, "t")
    await rig.crash_and_start()
    assert await rig.waiting() == [b"1", b"2"]


async def test_a_deleted_topics_positions_are_stale_in_the_next(rig: Rig) -> None:
    [old] = await rig.publish("t", "x")
    await rig.core.delete_topic(rig.system, "t")
    await rig.publish("t", "y")
    with pytest.raises(NotFound):
        await rig.core.message(rig.system, "t", old.position)
    with pytest.raises(StaleCursor):
        await rig.core.read(rig.system, "t", Cursor(old.position.epoch, old.position.offset))


async def test_size_and_count_are_the_same_after_a_restart(rig: Rig) -> None:
    for number in range(20):
        await rig.publish("t", Record(b"x" * number, key=b"k%d" % number, headers=[("h", "v" * number), ("n", 1)]))
    before = rig.core.topic_info(rig.system, "t")
    await rig.restart()
    assert rig.core.topic_info(rig.system, "t") == before


async def test_so_many_topics_there_are(make: Make) -> None:
    rig = await make(Limits(topics=5))
    for number in range(5):
        await rig.core.create_topic(rig.system, TopicSettings(f"t{number}"))
    for number in range(5, 50):
        with pytest.raises(LimitExceeded):
            await rig.core.create_topic(rig.system, TopicSettings(f"t{number}"))
        with pytest.raises(LimitExceeded):
            await rig.publish(f"t{number}", "x")
    await rig.core.delete_topic(rig.system, "t0")
    await rig.publish("another", "x")
    rig.core.event("the hub's own topics are always made")
    await rig.quiet()
    assert {topic.name for topic in rig.core.topics(rig.system)} >= {"another", "_events"}
