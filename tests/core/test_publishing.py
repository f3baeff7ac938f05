import asyncio

import pytest

from polywire.core.errors import Invalid, NotFound, TooLarge, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.streams import Earliest
from polywire.core.topics import TopicSettings
from tests.core.harness import Rig, numbered
from tests.core.test_topics import Make


async def test_a_receipt_says_where_the_message_stands(rig: Rig) -> None:
    receipts = await rig.core.publish(rig.system, "t", [Record(b"a", key=b"k"), Record(b"b", id="mine")])
    assert [str(receipt.position) for receipt in receipts] == ["1-0-0", "1-0-1"]
    assert receipts[0].id
    assert receipts[1].id == "mine"
    message = await rig.core.message(rig.system, "t", receipts[0].position)
    assert (message.record.payload, message.record.key, message.record.id) == (b"a", b"k", receipts[0].id)
    assert message.record.origin is not None
    assert message.record.origin.principal == "hub"


async def test_everything_of_a_message_survives_a_restart(rig: Rig) -> None:
    record = Record(
        b"\x00\xff", key=b"\xff.", id="i", content_type="a/b",
        headers=[("h", "1"), ("h", b"2"), ("n", 3), ("f", 1.5), ("z", None)],
        time=5, expires=1 << 60, priority=3, reply_to="r", correlation_id=b"c", native=b"n",
    )  # fmt: skip
    await rig.core.publish(rig.system, "t", [record])
    await rig.restart()
    [message] = (await rig.core.read(rig.system, "t", Earliest())).messages
    found = message.record
    assert [tuple(header) for header in found.headers] == record.headers
    assert found.key == b"\xff."
    assert (found.payload, found.id, found.content_type, found.time) == (b"\x00\xff", "i", "a/b", 5)
    assert (found.expires, found.priority, found.reply_to) == (1 << 60, 3, "r")
    assert (found.correlation_id, found.native) == (b"c", b"n")


async def test_no_key_and_the_empty_key_differ(rig: Rig) -> None:
    await rig.publish("t", Record(b"none"), Record(b"empty", key=b""))
    await rig.restart()
    page = await rig.core.read(rig.system, "t", Earliest())
    assert [message.record.key for message in page.messages] == [None, b""]
    page = await rig.core.read(rig.system, "t", Earliest(), key="")
    assert [message.record.payload for message in page.messages] == [b"empty"]


async def test_a_publish_returns_after_the_commit_and_not_before(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t"))
    rig.engine.holding = True
    publishing = asyncio.ensure_future(rig.publish("t", "x"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not publishing.done()
    assert rig.core.topic_info(rig.system, "t").count == 0
    rig.engine.let_go()
    await publishing
    assert rig.core.topic_info(rig.system, "t").count == 1


async def test_publishes_that_come_together_share_a_commit(rig: Rig) -> None:
    await rig.publish("t", "x")
    before = rig.core.log.commits
    await asyncio.gather(*(rig.publish("t", payload) for payload in numbered(500)))
    assert rig.core.log.commits - before <= 3
    page = await rig.core.read(rig.system, "t", Earliest(), limit=1_000)
    assert [message.record.payload for message in page.messages] == [b"x", *numbered(500)]


async def test_a_posted_publish_is_told_of_its_commit(rig: Rig) -> None:
    told: list[object] = []
    [receipt] = rig.core.post(rig.system, "t", [Record(b"x")], told.append)
    assert told == []
    await rig.quiet()
    assert told == [None]
    assert (await rig.core.message(rig.system, "t", receipt.position)).record.payload == b"x"


async def test_a_memory_topic_does_not_wait_for_the_disk(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("m", durability="memory"))
    rig.engine.holding = True
    await rig.publish("m", "x")
    page = await rig.core.read(rig.system, "m", Earliest())
    assert [message.record.payload for message in page.messages] == [b"x"]


async def test_a_batch_is_stored_whole_or_not_at_all_and_every_bad_record_is_named(make: Make) -> None:
    rig = await make(Limits(message_size=10))
    records = [Record(b"x" * size) for size in (1, 11, 1, 12, 1)]
    with pytest.raises(TooLarge) as caught:
        await rig.core.publish(rig.system, "t", records)
    assert [field.path for field in caught.value.fields] == ["$[1]", "$[3]"]
    assert "message 1 of the batch" in caught.value.detail
    assert rig.core.topic_info(rig.system, "t").count == 0


async def test_a_topic_refuses_what_it_was_not_declared_to_hold(make: Make) -> None:
    rig = Rig((await make()).folder.parent / "typed")

    def admit(record: Record) -> Record:
        if not record.payload.isdigit():
            raise Invalid("not a number")
        return record

    await rig.start(lambda core: core.declare_topic(TopicSettings("t"), admit))
    with pytest.raises(Invalid, match="not a number"):
        await rig.publish("t", "x")
    rig.batch = 10
    with pytest.raises(Invalid) as caught:
        await rig.publish("t", "1", "x", "2", "y")
    assert [field.path for field in caught.value.fields] == ["$[1]", "$[3]"]
    assert rig.core.topic_info(rig.system, "t").count == 0
    await rig.stop()


@pytest.mark.parametrize(
    ("record", "limits"),
    [
        (Record(b"x" * 100), Limits(message_size=10)),
        (Record(key=b"x" * 100), Limits(key_size=10)),
        (Record(headers=[("n", "v" * 100)]), Limits(headers_size=10)),
        (Record(headers=[("", "")] * 11), Limits(headers_size=10)),
        (Record(id="x" * 10_240), Limits()),
    ],
)
async def test_tenfold_over_a_limit_is_too_large(make: Make, record: Record, limits: Limits) -> None:
    rig = await make(limits)
    with pytest.raises(TooLarge):
        await rig.core.publish(rig.system, "t", [record])
    await rig.publish("t", "x")


async def test_a_batch_has_a_limit_of_messages_and_bytes(make: Make) -> None:
    rig = await make(Limits(batch_messages=10, batch_size=100))
    with pytest.raises(TooLarge, match="at most 10 messages"):
        await rig.core.publish(rig.system, "t", [Record(b"") for _ in range(100)])
    with pytest.raises(TooLarge, match="at most 100 bytes"):
        await rig.core.publish(rig.system, "t", [Record(b"x" * 101) for _ in range(10)])
    with pytest.raises(Invalid):
        await rig.core.publish(rig.system, "t", [])


async def test_a_large_batch_is_one_batch(make: Make) -> None:
    rig = await make()
    receipts = await rig.core.publish(rig.system, "t", [Record(payload) for payload in numbered(10_000)])
    assert [receipt.position.offset for receipt in receipts] == list(range(10_000))
    await rig.crash_and_start()
    assert rig.core.topic_info(rig.system, "t").count == 10_000


async def test_a_hub_that_has_not_started_or_is_stopping_refuses(rig: Rig) -> None:
    await rig.core.drain()
    with pytest.raises(Unavailable, match="draining"):
        await rig.publish("t", "x")
    await rig.stop()
    await rig.stop()
    with pytest.raises(Unavailable, match="stopped"):
        await rig.publish("t", "x")


async def test_what_was_acknowledged_is_there_after_a_crash(rig: Rig) -> None:
    acknowledged = []
    for _ in range(5):
        receipts = await asyncio.gather(*(rig.publish("t", payload) for payload in numbered(20)))
        acknowledged += [receipt for [receipt] in receipts]
        await rig.crash_and_start()
    for receipt in acknowledged:
        assert (await rig.core.message(rig.system, "t", receipt.position)).record.id == receipt.id
    assert len({receipt.position for receipt in acknowledged}) == 100


async def test_unknown_positions_are_not_found(rig: Rig) -> None:
    [receipt] = await rig.publish("t", "x")
    for position in (
        receipt.position._replace(offset=1),
        receipt.position._replace(epoch=9),
        receipt.position._replace(partition=1),
    ):
        with pytest.raises(NotFound):
            await rig.core.message(rig.system, "t", position)
