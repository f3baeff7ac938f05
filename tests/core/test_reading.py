import asyncio

import pytest

from polywire.core.errors import Invalid, NotFound, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.position import Cursor
from polywire.core.streams import Earliest, Latest, Since, StaleCursor, parse_start
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, numbered, until
from tests.core.test_topics import Make


async def _all(rig: Rig, topic: str = "t", start: object = Earliest(), **more: object) -> list[bytes]:
    """Page by page to the end."""
    payloads: list[bytes] = []
    while True:
        page = await rig.core.read(rig.system, topic, start, **more)
        if not page.messages and page.next == start:
            return payloads
        payloads += [message.record.payload for message in page.messages]
        start = page.next


async def test_pages_follow_each_other_without_loss_or_repeat(queue: Rig) -> None:
    await queue.publish("t", *numbered(1_000))
    for limit in (1, 7, 5_000) if queue.batch > 1 else (100,):
        assert await _all(queue, limit=limit) == numbered(1_000)
    assert await _all(queue, size=20, limit=50) == numbered(1_000)
    await queue.restart()
    assert await _all(queue) == numbered(1_000)


async def test_a_key_pattern_filters(queue: Rig) -> None:
    for number in range(30):
        await queue.publish("t", str(number), key=f"room.{number % 3}.temp")
    await queue.publish("t", "keyless")
    wanted = [b"%d" % number for number in range(30) if number % 3 == 1]
    assert await _all(queue, key="room.1.*") == wanted
    assert await _all(queue, key="room.1.#", limit=2) == wanted
    assert await _all(queue, key="room.1.temp") == wanted
    assert len(await _all(queue, key="#")) == 31
    assert len(await _all(queue, key="*.*.*")) == 30


async def test_a_cursor_is_the_position_last_read(rig: Rig) -> None:
    receipts = await rig.publish("t", *numbered(5))
    page = await rig.core.read(rig.system, "t", Earliest(), limit=3)
    assert str(page.next) == str(receipts[2].position)
    page = await rig.core.read(rig.system, "t", Cursor.parse(str(receipts[2].position)))
    assert [message.record.payload for message in page.messages] == [b"3", b"4"]
    assert (await rig.core.read(rig.system, "t", Latest())).next == page.next


async def test_reading_from_a_time(queue: Rig) -> None:
    await queue.publish("t", "old")
    queue.clock.advance(60_000)
    moment = queue.clock.now()
    await queue.publish("t", "new")
    assert await _all(queue, start=Since(moment)) == [b"new"]
    assert await _all(queue, start=Since(moment - 120_000)) == [b"old", b"new"]
    assert await _all(queue, start=Since(moment + 120_000)) == []
    await queue.restart()
    assert await _all(queue, start=Since(moment)) == [b"new"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", Earliest()),
        ("latest", Latest()),
        ("now", Latest()),
        ("1970-01-01T00:00:01Z", Since(1_000)),
        ("1970-01-01T01:00:01+01:00", Since(1_000)),
        ("1970-01-01T00:00:01", Since(1_000)),
        ("3-0-7", Cursor(3, 7)),
        ("3-0--1", Cursor(3, -1)),
    ],
)
def test_starts_in_text(text: str, start: object) -> None:
    assert parse_start(text) == start


@pytest.mark.parametrize("text", ["", "x", "1-2-3", "1-0", "T", "2026-99-01T00:00:00Z", "-1-0-0", "1-0-" + "9" * 30])
def test_other_texts_are_no_start(text: str) -> None:
    with pytest.raises(Invalid):
        parse_start(text)


async def test_stale_cursors_say_why_and_where_to_go_on(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("t", retention=1_000))
    await rig.publish("t", *numbered(3))
    rig.clock.advance(5_000)
    await rig.publish("t", "3")
    await rig.round()
    for cursor, reason in ((Cursor(9, 0), "epoch"), (Cursor(1, 1), "expired"), (Cursor(1, 4), "ahead")):
        with pytest.raises(StaleCursor) as caught:
            await rig.core.read(rig.system, "t", cursor)
        assert caught.value.reason == reason
        assert (caught.value.oldest, caught.value.newest) == (Cursor(1, 2), Cursor(1, 3))
        assert caught.value.as_dict()["reason"] == reason
    assert await _all(rig, start=Cursor(1, 2)) == [b"3"]


async def test_a_long_poll_is_woken_by_the_first_message(rig: Rig) -> None:
    await rig.publish("t", "old")
    reading = asyncio.ensure_future(rig.core.read(rig.system, "t", Latest(), wait=30_000))
    await until(lambda: rig.core.log.by_id[1].waiting)
    await rig.publish("t", "new")
    assert [message.record.payload for message in (await reading).messages] == [b"new"]


async def test_a_long_poll_looks_on_after_messages_that_do_not_match(rig: Rig) -> None:
    await rig.publish("t", "old", key="b")
    reading = asyncio.ensure_future(rig.core.read(rig.system, "t", Latest(), wait=30_000, key="a"))
    await until(lambda: rig.core.log.by_id[1].waiting)
    await rig.publish("t", "no", key="b")
    await until(lambda: rig.core.log.by_id[1].waiting)
    await rig.publish("t", "yes", key="a")
    assert [message.record.payload for message in (await reading).messages] == [b"yes"]


async def test_a_long_poll_ends(rig: Rig) -> None:
    await rig.publish("t", "x")
    page = await rig.core.read(rig.system, "t", Latest(), wait=5)
    assert page.messages == []
    assert not rig.core.log.by_id[1].waiting
    # Nor does a limit of nothing spin.
    page = await rig.core.read(rig.system, "t", Earliest(), wait=5, limit=0)
    assert len(page.messages) == 1


async def test_expired_messages_are_passed_over(rig: Rig) -> None:
    soon = rig.clock.now() + 5_000
    rig.batch = 3
    await rig.publish("t", Record(b"1"), Record(b"2", expires=soon), Record(b"3"))
    assert await _all(rig) == [b"1", b"2", b"3"]
    rig.clock.advance(6_000)
    assert await _all(rig) == [b"1", b"3"]


async def test_offsets_may_have_gaps(make: Make) -> None:
    """A commit that failed leaves one."""
    rig = await make(Limits(tail_size=1))
    await rig.publish("t", "1")
    rig.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await rig.publish("t", "lost")
    rig.engine.fault = None
    [receipt] = await rig.publish("t", "2")
    assert receipt.position.offset == 2
    assert await _all(rig) == [b"1", b"2"]
    with pytest.raises(NotFound):
        await rig.core.message(rig.system, "t", receipt.position._replace(offset=1))
    await rig.restart()
    assert await _all(rig, start=Cursor(1, 1)) == [b"2"]
