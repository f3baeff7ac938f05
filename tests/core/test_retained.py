import pytest

from polywire.core.errors import LimitExceeded, NotFound, TooLarge, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Flag, Record
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig
from tests.core.test_topics import Make


def kept(payload: bytes, key: bytes | None = None, **more: object) -> Record:
    return Record(payload, key=key, flags=Flag.RETAINED, **more)


async def latest(rig: Rig, key: bytes | None = None, topic: str = "t") -> bytes:
    return (await rig.core.latest(rig.system, topic, key)).record.payload


async def everything(rig: Rig, topic: str = "t", **more: object) -> list[tuple[bytes | None, bytes]]:
    messages = await rig.core.latest_all(rig.system, topic, **more)
    return [(message.record.key, message.record.payload) for message in messages]


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
    assert await everything(either, after=None, limit=1) == [(None, b"none")]
    assert await everything(either, after=b"") == []


async def test_a_page_of_keys_follows_the_other(either: Rig) -> None:
    for key in (b"c", b"a", b"\xff", b"b"):
        await either.publish("t", kept(key, key))
    assert await everything(either, limit=2) == [(b"a", b"a"), (b"b", b"b")]
    assert await everything(either, after=b"b") == [(b"c", b"c"), (b"\xff", b"\xff")]


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
