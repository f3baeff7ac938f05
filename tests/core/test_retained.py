import pytest

from polywire.core.errors import LimitExceeded, NotFound, TooLarge, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Flag, Record
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, until
from tests.core.test_topics import Make


def kept(payload: bytes, key: bytes | None = None, **more: object) -> Record:
    return Record(payload, key=key, flags=Flag.RETAINED, **more)


async def latest(rig: Rig, key: bytes | None = None, topic: str = "t") -> bytes:
    return (await rig.core.latest(rig.system, topic, key)).record.payload


async def everything(rig: Rig, topic: str = "t", **more: object) -> list[tuple[bytes | None, bytes]]:
    """Page by page to the end."""
    found: list[tuple[bytes | None, bytes]] = []
    after: bytes | None = None
    while True:
        messages, after = await rig.core.latest_all(rig.system, topic, after=after, **more)
        found += [(message.record.key, message.record.payload) for message in messages]
        if after is None:
            return found


@pytest.fixture(params=["durable", "memory"])
async def either(rig: Rig, request: pytest.FixtureRequest) -> Rig:
    await rig.core.create_topic(rig.system, TopicSettings("t", durability=request.param))
    return rig


async def test_the_latest_flagged_message_of_each_key_is_kept(either: Rig) -> None:
    await either.publish("t", kept(b"1", b"a"), kept(b"2", b"b"), kept(b"3", b"a"))
    assert await latest(either, b"a") == b"3"
    assert await everything(either) == [(b"a", b"3"), (b"b", b"2")]


async def test_messages_without_the_flag_do_not_touch_it(either: Rig) -> None:
    await either.publish("t", kept(b"1", b"a"), Record(b"2", key=b"a"), Record(b"", key=b"a"))
    assert await latest(either, b"a") == b"1"


async def test_an_empty_one_deletes(either: Rig) -> None:
    await either.publish("t", kept(b"1", b"a"), kept(b"", b"a"))
    with pytest.raises(NotFound):
        await latest(either, b"a")
    assert await everything(either) == []


async def test_no_key_and_the_empty_key_differ(either: Rig) -> None:
    await either.publish("t", kept(b"none"), kept(b"empty", b""))
    assert await latest(either, None) == b"none"
    assert await latest(either, b"") == b"empty"
    first, after = await either.core.latest_all(either.system, "t", limit=1)
    assert [message.record.key for message in first] == [None]
    second, end = await either.core.latest_all(either.system, "t", limit=1, after=after)
    assert [message.record.key for message in second] == [b""]
    assert end is None


async def test_a_page_of_keys_follows_the_other(either: Rig) -> None:
    for key in (b"c", b"a", b"\xff", b"b"):
        await either.publish("t", kept(key, key))
    keys = [b"a", b"b", b"c", b"\xff"]
    for limit in range(1, 6):
        assert await everything(either, limit=limit) == [(key, key) for key in keys]
    messages, after = await either.core.latest_all(either.system, "t", limit=2)
    assert [message.record.key for message in messages] == keys[:2]
    messages, after = await either.core.latest_all(either.system, "t", limit=2, after=after)
    assert [message.record.key for message in messages] == keys[2:]
    assert after is None


async def test_a_page_that_ends_by_its_size_goes_on(either: Rig) -> None:
    for number in range(12):
        await either.publish("t", kept(b"x" * 300_000, b"%02d" % number))
    messages, after = await either.core.latest_all(either.system, "t", limit=100)
    assert len(messages) == 4  # about 1 MiB
    assert after is not None
    assert [key for key, _ in await everything(either)] == [b"%02d" % number for number in range(12)]
    messages, after = await either.core.latest_all(either.system, "t", limit=100, size=100 << 20)
    assert (len(messages), after) == (12, None)


async def test_expired_ones_hide_none_of_the_others(either: Rig) -> None:
    soon = either.clock.now() + 1_000
    for number in range(30):
        await either.publish("t", kept(b"x", b"%02d" % number, expires=None if number % 10 == 9 else soon))
    either.clock.advance(2_000)
    messages, after = await either.core.latest_all(either.system, "t", limit=3)
    assert [message.record.key for message in messages] == [b"09", b"19", b"29"]
    assert after is None
    assert [key for key, _ in await everything(either, limit=1)] == [b"09", b"19", b"29"]


async def test_what_a_memory_topic_retains_has_a_limit_in_bytes(make: Make) -> None:
    rig = await make(Limits(memory_topic_size=100_000))
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory"))
    topic = rig.core.catalog.existing("t")

    async def refused(*records: Record) -> bool:
        rig.batch = len(records)
        try:
            await rig.publish("t", *records)
        except LimitExceeded:
            return True
        return False

    outcomes = [await refused(kept(b"x" * 9_000, b"%02d" % number)) for number in range(50)]
    assert outcomes == [False] * 10 + [True] * 40
    assert topic.kept.size <= 100_000
    small = [await refused(kept(b"", b"%d" % number, headers=[("h", "v")])) for number in range(3)]
    assert small == [False] * 3  # they forget, and take no room
    assert not await refused(Record(b"x" * 9_000, key=b"other"))  # not retained
    # What is replaced frees its own bytes first, also within a batch.
    assert not await refused(kept(b"y" * 9_000, b"03"))
    assert await latest(rig, b"03") == b"y" * 9_000
    assert await refused(kept(b"z" * 20_000, b"03"))
    assert not await refused(kept(b"", b"04"), kept(b"z" * 16_000, b"03"))
    assert not await refused(*[kept(b"%d" % number * 5_000, b"05") for number in range(9)])
    assert topic.kept.size == sum(
        len(m.record.payload) + 2 + 400 + len(m.record.id)
        for m in topic.kept.page(None, 100, 1 << 20, rig.clock.now())[0]
    )
    for number in range(50):
        await refused(kept(b"", b"%02d" % number))
    assert (topic.kept.size, len(topic.kept)) == (0, 0)


async def test_many_small_ones_count_with_what_they_cost(make: Make) -> None:
    rig = await make(Limits(memory_topic_size=100_000))
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory", latest=True))
    taken = 0
    for number in range(1_000):
        try:
            await rig.publish("t", "x", key=b"%d" % number)
            taken += 1
        except LimitExceeded:
            pass
    assert 200 <= taken <= 250


async def test_expired_ones_make_room_in_a_memory_topic(make: Make) -> None:
    rig = await make(Limits(memory_topic_size=20_000, retained_keys=10))
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory"))
    for size in (9_000, 1):  # full by size, full by count
        for number in range(2 if size > 1 else 10):
            await rig.publish("t", kept(b"x" * size, b"%d" % number, expires=rig.clock.now() + 5_000))
        with pytest.raises(LimitExceeded):
            await rig.publish("t", kept(b"x" * 9_000, b"new"))
        rig.clock.advance(6_000)
        await rig.publish("t", kept(b"x" * 9_000, b"new"))
        await rig.publish("t", kept(b"", b"new"))


async def test_a_delayed_one_that_finds_no_room_is_published_and_not_retained(make: Make) -> None:
    rig = await make(Limits(memory_topic_size=20_000))
    await rig.core.create_topic(rig.system, TopicSettings("t", durability="memory"))
    for number in range(4):
        record = kept(b"x" * 9_000, b"%d" % number)
        await rig.core.publish(rig.system, "t", [record], due=rig.clock.now() + 1_000)
    rig.clock.advance(2_000)
    topic = rig.core.catalog.existing("t")
    await until(lambda: topic.appended == 4)
    assert sorted(topic.retained_keys) == [b".0", b".1"]
    assert topic.kept.size <= 20_000


async def test_a_latest_topic_keeps_every_publish(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", latest=True))
    await rig.publish("t", "1", "2", key="a")
    assert await latest(rig, b"a") == b"2"


async def test_it_survives_restart_crash_and_retention(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", retention=1_000))
    await rig.publish("t", kept(b"1", b"a"))
    rig.clock.advance(60_000)
    await rig.round()
    assert rig.core.topic_info(rig.system, "t").count == 0
    await rig.crash_and_start()
    assert await latest(rig, b"a") == b"1"
    await rig.restart()
    assert await latest(rig, b"a") == b"1"


async def test_it_goes_with_its_topic(rig: Rig) -> None:
    await rig.publish("t", kept(b"1", b"a"))
    await rig.core.delete_topic(rig.system, "t")
    await rig.publish("t", "x")
    with pytest.raises(NotFound):
        await latest(rig, b"a")


async def test_an_expired_one_is_not_shown(either: Rig) -> None:
    await either.publish("t", kept(b"1", b"a", expires=either.clock.now() + 1_000))
    assert await latest(either, b"a") == b"1"
    either.clock.advance(2_000)
    with pytest.raises(NotFound):
        await latest(either, b"a")
    assert await everything(either) == []


async def test_keys_have_a_limit(make: Make) -> None:
    rig = await make(Limits(retained_keys=10))
    rig.batch = 4
    for number in range(10):
        await rig.publish("t", kept(b"x", b"%d" % number))
    for number in range(10, 110):
        with pytest.raises(LimitExceeded):
            await rig.publish("t", kept(b"x", b"%d" % number), Record(b"y"))
    assert rig.core.topic_info(rig.system, "t").count == 10
    await rig.publish("t", kept(b"again", b"3"))
    await rig.restart()
    with pytest.raises(LimitExceeded):
        await rig.publish("t", kept(b"x", b"new"))
    await rig.publish("t", kept(b"", b"3"))
    await rig.publish("t", kept(b"x", b"new"))


async def test_what_was_refused_or_failed_does_not_count(make: Make) -> None:
    rig = await make(Limits(retained_keys=10, message_size=10))
    await rig.publish("t", "x")
    rig.batch = 2
    for number in range(20):
        with pytest.raises(TooLarge):
            await rig.publish("t", kept(b"x", b"%d" % number), Record(b"x" * 11))
    rig.engine.fault = DISK_FULL
    for number in range(20):
        with pytest.raises(Unavailable):
            await rig.publish("t", kept(b"x", b"%d" % number))
    rig.engine.fault = None
    for number in range(10):
        await rig.publish("t", kept(b"x", b"%d" % number))
    with pytest.raises(LimitExceeded):
        await rig.publish("t", kept(b"x", b"one more"))
