"""Named readers whose cursor the hub remembers."""

from __future__ import annotations

import pytest

from polywire.core.errors import Denied, Invalid, LimitExceeded, NotFound
from polywire.core.limits import Limits
from polywire.core.position import Cursor
from polywire.core.streams import Earliest, StaleCursor
from tests.core.conftest import Make
from tests.core.harness import Rig, numbered


async def test_a_reader_goes_on_where_it_committed(rig: Rig) -> None:
    await rig.publish("t", *numbered(5))
    page = await rig.core.read(rig.system, "t", Earliest(), limit=3)
    await rig.core.cursors.commit(rig.system, "t", "report", page.next)
    await rig.crash_and_start()
    cursor = rig.core.cursors.get(rig.system, "t", "report")
    rest = await rig.core.read(rig.system, "t", cursor)
    assert [message.record.payload for message in rest.messages] == numbered(5)[3:]


async def test_a_cursor_may_go_back_and_be_forgotten(rig: Rig) -> None:
    await rig.publish("t", *numbered(2))
    cursors = rig.core.cursors
    for offset in (1, 0):
        await cursors.commit(rig.system, "t", "r", Cursor(1, offset))
    assert cursors.get(rig.system, "t", "r") == Cursor(1, 0)
    await cursors.forget(rig.system, "t", "r")
    for _ in range(2):
        with pytest.raises(NotFound):
            cursors.get(rig.system, "t", "r")
        await rig.restart()
        cursors = rig.core.cursors


async def test_readers_of_two_topics_do_not_meet(rig: Rig) -> None:
    for topic in ("a", "b"):
        await rig.publish(topic, b"1")
    await rig.core.cursors.commit(rig.system, "a", "r", Cursor(1, 0))
    with pytest.raises(NotFound):
        rig.core.cursors.get(rig.system, "b", "r")


@pytest.mark.parametrize(("cursor", "reason"), [(Cursor(9, 0), "epoch"), (Cursor(1, 7), "ahead")])
async def test_a_cursor_of_no_use_is_refused(rig: Rig, cursor: Cursor, reason: str) -> None:
    await rig.publish("t", b"1")
    with pytest.raises(StaleCursor) as refused:
        await rig.core.cursors.commit(rig.system, "t", "r", cursor)
    assert refused.value.reason == reason


@pytest.mark.parametrize("name", ["", "x" * 251, "a\nb"])
async def test_names_of_readers(rig: Rig, name: str) -> None:
    await rig.publish("t", b"1")
    with pytest.raises(Invalid):
        await rig.core.cursors.commit(rig.system, "t", name, Cursor(1, 0))


async def test_a_reader_belongs_to_its_principal(rig: Rig) -> None:
    await rig.publish("t", b"1")
    access = rig.core.access
    keys = {}
    for name, allow in (("ann", ["subscribe:t.#"]), ("bob", ["subscribe:t.#"]), ("eve", ["subscribe:u.#"])):
        keys[name] = access.authenticate((await access.create_key(rig.system, name, allow))[1])
    await rig.core.cursors.commit(keys["ann"], "t", "r", Cursor(1, 0))
    assert rig.core.cursors.get(keys["ann"], "t", "r") == Cursor(1, 0)
    for name in ("bob", "eve"):
        with pytest.raises(Denied):
            rig.core.cursors.get(keys[name], "t", "r")
        with pytest.raises(Denied):
            await rig.core.cursors.commit(keys[name], "t", "r", Cursor(1, -1))
        with pytest.raises(Denied):
            await rig.core.cursors.forget(keys[name], "t", "r")
    assert rig.core.cursors.get(rig.system, "t", "r") == Cursor(1, 0)


async def test_so_many_readers_are_remembered(make: Make) -> None:
    rig = await make(Limits(subscriptions=3))
    await rig.publish("t", b"1")
    for number in range(3):
        await rig.core.cursors.commit(rig.system, "t", str(number), Cursor(1, 0))
    for number in range(3, 30):
        with pytest.raises(LimitExceeded):
            await rig.core.cursors.commit(rig.system, "t", str(number), Cursor(1, 0))
    await rig.core.cursors.commit(rig.system, "t", "0", Cursor(1, -1))
