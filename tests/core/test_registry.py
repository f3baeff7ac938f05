"""Making, changing and removing subscriptions in the order of a byte stream: at once, and told after the commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polywire.core.access import Principal
from polywire.core.errors import Conflict, Denied, Invalid, LimitExceeded, NotFound, PolywireError, Unauthenticated
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.routing import Source
from polywire.core.streams import Earliest
from polywire.core.subscription import SubscriptionSettings
from tests.core.harness import DISK_FULL, Rig, Taker, numbered, until
from tests.core.test_topics import Make

Heard = list[PolywireError | None]


def session(name: str = "s", **more: Any) -> SubscriptionSettings:
    return SubscriptionSettings(name, more.pop("sources", []), kind=more.pop("kind", "session"), **more)


async def key(rig: Rig, name: str, *allow: str) -> Principal:
    _, secret = await rig.core.access.create_key(rig.system, name, list(allow))
    return rig.core.access.authenticate(secret)


def post(rig: Rig, *payloads: str, topic: str = "t") -> None:
    for payload in payloads:
        rig.core.post(rig.system, topic, [Record(payload.encode())])


async def test_changes_take_their_place_between_what_is_posted(queue: Rig) -> None:
    """All of it in one callback: nothing waits for the disk."""
    subscriptions, who = queue.core.subscriptions, queue.system
    post(queue, "0")
    subscriptions.make(who, session())
    post(queue, "1")
    subscriptions.add_source(who, "s", Source("t"), kind="session")
    post(queue, "2", "3")
    subscriptions.end_source(who, "s", Source("t"), kind="session")
    post(queue, "4")
    subscriptions.add_source(who, "s", Source("t"), kind="session")
    post(queue, "5")
    subscriptions.make(who, session("other", sources=[Source("t")]))
    post(queue, "6")
    subscriptions.drop(who, "other", kind="session")
    for check in (queue.quiet, queue.crash_and_start):
        await check()
        assert await queue.waiting("s", "session") == [b"2", b"3", b"5", b"6"]
        assert queue.core.subscriptions.find("other", "session") is None


async def test_told_comes_after_the_commit(queue: Rig) -> None:
    subscriptions, who = queue.core.subscriptions, queue.system
    await queue.publish("t", "x")
    await queue.quiet()
    queue.engine.holding = True
    heard: list[str] = []

    def told(what: str) -> Any:
        return lambda error: heard.append(f"{what} {error}")

    subscriptions.make(who, session(), told("made"))
    subscriptions.make(who, session(), told("joined"))
    subscriptions.add_source(who, "s", Source("t"), told("added"), kind="session")
    await until(lambda: queue.engine.held)
    subscriptions.end_source(who, "s", Source("t"), told("ended"), kind="session")
    subscriptions.drop(who, "s", told("dropped"), kind="session")
    await queue.core.log.engine.space()
    assert heard == []
    queue.engine.let_go()
    await queue.quiet()
    assert heard == ["made None", "joined None", "added None", "ended None", "dropped None"]


async def test_one_that_is_not_durable_costs_no_commit(rig: Rig) -> None:
    subscriptions, who = rig.core.subscriptions, rig.system
    await rig.publish("t", "x")
    await rig.quiet()
    commits = rig.core.log.commits
    heard: Heard = []
    subscriptions.make(who, session(durable=False), heard.append)
    subscriptions.add_source(who, "s", Source("t"), heard.append, kind="session")
    subscriptions.end_source(who, "s", Source("t"), heard.append, kind="session")
    subscriptions.drop(who, "s", heard.append, kind="session")
    await rig.quiet()
    assert (heard, rig.core.log.commits) == ([None] * 4, commits)


async def test_what_failed_to_be_stored_holds_in_memory_and_is_stored_later(queue: Rig) -> None:
    subscriptions, who = queue.core.subscriptions, queue.system
    subscriptions.make(who, session("old", sources=[Source("t")]))
    await queue.publish("t", "x")
    await queue.quiet()
    queue.engine.fault = DISK_FULL
    heard: Heard = []
    subscriptions.make(who, session(), heard.append)
    subscriptions.add_source(who, "s", Source("t"), heard.append, kind="session")
    subscriptions.drop(who, "old", heard.append, kind="session")
    await until(lambda: len(heard) == 3)
    assert all(error is not None for error in heard)
    await queue.quiet()
    queue.engine.fault = None
    await queue.publish("t", "1")
    await queue.crash_and_start()
    assert await queue.waiting("s", "session") == [b"1"]
    assert queue.core.subscriptions.find("old", "session") is None


async def test_many_changes_in_one_turn_are_written_once(rig: Rig) -> None:
    subscriptions, who = rig.core.subscriptions, rig.system
    await rig.publish("t", "x")
    await rig.quiet()
    rig.engine.holding = True
    subscriptions.make(who, session())
    for number in range(500):
        subscriptions.add_source(who, "s", Source("t", key=f"k{number}"), kind="session")
    await until(lambda: rig.engine.held)
    [(commit, _)] = rig.engine.held
    assert [change.kind for change in commit.state] == ["subscription"]
    rig.engine.let_go()
    await rig.crash_and_start()
    assert len(rig.info("s", "session").sources) == 500


# What they may be


async def test_only_kinds_of_wires_begin_without_sources(rig: Rig) -> None:
    subscriptions = rig.core.subscriptions
    for kind in ("session", "share"):
        assert subscriptions.make(rig.system, session(kind=kind)).bindings == subscriptions.find("s", kind).bindings
    for kind in ("queue", "group", "webhook"):
        with pytest.raises(Invalid, match="no source"):
            subscriptions.make(rig.system, session(kind=kind))


async def test_made_again_a_session_takes_new_settings(rig: Rig) -> None:
    subscriptions, who = rig.core.subscriptions, rig.system
    made = subscriptions.make(who, session(offline_limit=3))
    subscriptions.add_source(who, "s", Source("t"), kind="session")
    await rig.publish("t", *numbered(2))
    assert subscriptions.make(who, session(offline_limit=5, expires=1_000)) is made
    await rig.publish("t", *numbered(10))
    assert rig.pending("s", "session") == 5
    await rig.checkpoint()
    await rig.crash_and_start()
    info = rig.info("s", "session")
    assert (info.settings.offline_limit, info.settings.expires, info.pending) == (5, 1_000, 5)
    for other in (session(durable=False), session(sources=[Source("t")])):
        with pytest.raises(Conflict):
            rig.core.subscriptions.make(rig.system, other)
    await rig.subscribe("q", "t")
    with pytest.raises(Conflict):
        rig.core.subscriptions.make(rig.system, SubscriptionSettings("q", [Source("t")], offline_limit=1))


async def test_dead_letters_that_are_wished_for_later_find_their_way_back(rig: Rig) -> None:
    subscriptions, who = rig.core.subscriptions, rig.system
    subscriptions.make(who, session(dead_letters=False))
    subscriptions.add_source(who, "s", Source("t"), kind="session")
    subscriptions.make(who, session())
    await rig.publish("t", "1")
    [delivery] = await rig.pull(kind="session")
    delivery.reject("no")
    await rig.quiet()
    assert await subscriptions.redrive(who, "s", kind="session") == 1
    assert await rig.waiting("s", "session") == [b"1"]


async def test_a_declared_one_is_not_dropped(rig: Rig) -> None:
    rig.core.subscriptions.declare(SubscriptionSettings("s", [Source("t")]), Earliest())
    with pytest.raises(Conflict, match="declared"):
        rig.core.subscriptions.drop(rig.system, "s")


# How long they last


async def test_sessions_and_shares_last_until_their_wire_removes_them(make: Make) -> None:
    rig = await make(Limits(subscription_expires=60_000))
    owner = await key(rig, "client", "subscribe:#")
    wanted = [
        (session(kind="session"), True),
        (session(kind="share"), True),
        (session("zero", expires=0), True),
        (session("short", expires=1_000), False),
        (session("q", kind="queue", sources=[Source("t")]), False),
        (session("q zero", kind="queue", sources=[Source("t")], expires=0), True),
    ]
    for settings, _ in wanted:
        rig.core.subscriptions.make(owner, settings)
    await rig.core.log.committed()
    for again in (rig.quiet, rig.crash_and_start):
        await again()
        rig.clock.advance(10_000_000)
        await rig.round()
        for settings, there in wanted:
            assert (rig.core.subscriptions.find(settings.name, settings.kind) is not None) is there, settings


async def test_looking_for_expired_ones_does_not_hold_the_loop(make: Make) -> None:
    rig = await make(Limits(subscriptions=30_000))
    for number in range(20_000):
        rig.core.subscriptions.make(rig.system, session(f"s{number}", durable=False, dead_letters=False))
    looking = asyncio.ensure_future(rig.core.subscriptions.expire(rig.clock.now()))
    turns = 0
    while not looking.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 3


# Whose they are


async def test_each_twin_asks_for_the_same_rights(rig: Rig) -> None:
    subscriptions = rig.core.subscriptions
    owner, other, nobody = await key(rig, "owner", "subscribe:t.#"), await key(rig, "other", "*:t.#"), None
    subscriptions.make(owner, session(sources=[Source("t")]))
    nobody = rig.core.access.anonymous
    for who, error in ((other, Denied), (nobody, Unauthenticated)):
        with pytest.raises(error):
            subscriptions.make(who, session(sources=[Source("t")]))
        with pytest.raises(error):
            subscriptions.add_source(who, "s", Source("t", key="a"), kind="session")
        with pytest.raises(error):
            subscriptions.end_source(who, "s", Source("t"), kind="session")
        with pytest.raises(error):
            subscriptions.drop(who, "s", kind="session")
    with pytest.raises(Denied):
        subscriptions.make(owner, session("x", sources=[Source("u")]))
    with pytest.raises(Denied):
        subscriptions.add_source(owner, "s", Source("u"), kind="session")
    with pytest.raises(Unauthenticated):
        subscriptions.make(nobody, session("x"))
    for missing in (subscriptions.add_source, subscriptions.end_source):
        with pytest.raises(NotFound):
            missing(owner, "nobody", Source("t"), kind="session")
    with pytest.raises(NotFound):
        subscriptions.drop(owner, "s", kind="share")
    assert [source.topic for source in rig.info("s", "session").sources] == ["t"]
    assert rig.core.subscriptions.find("x", "session") is None
    powerless = await key(rig, "powerless")
    with pytest.raises(Denied):
        subscriptions.make(powerless, session("x"))


async def test_anonymous_clients_have_sessions_of_what_they_may_subscribe_to(make: Make) -> None:
    rig = await make(anonymous_allow=["subscribe:open.#"])
    anonymous, subscriptions = rig.core.access.anonymous, rig.core.subscriptions
    subscriptions.make(anonymous, session("before"))  # while the hub is open to everybody
    subscriptions.add_source(anonymous, "before", Source("secret"), kind="session")
    taker = Taker()
    subscriptions.consume(anonymous, "before", taker, kind="session")
    await key(rig, "first", "*:#")
    assert isinstance(taker.why, Unauthenticated)
    with pytest.raises(Unauthenticated):
        subscriptions.consume(anonymous, "before", Taker(), kind="session")
    subscriptions.make(anonymous, session())
    subscriptions.add_source(anonymous, "s", Source("open"), kind="session")
    with pytest.raises(Unauthenticated):
        subscriptions.add_source(anonymous, "s", Source("secret"), kind="session")
    taker = Taker()
    taker.consumer = subscriptions.consume(anonymous, "s", taker, kind="session")
    await rig.publish("open", "1")
    await taker.wait(1)
    subscriptions.make(anonymous, session("q", kind="queue", sources=[Source("open")]))
    with pytest.raises(Unauthenticated):
        subscriptions.consume(anonymous, "q", Taker())


async def test_limits_hold_for_the_twins(make: Make) -> None:
    rig = await make(Limits(subscriptions=2, topics_on_use=2))
    subscriptions = rig.core.subscriptions
    for number in range(2):
        subscriptions.make(rig.system, session(f"s{number}"))
    for number in range(20):
        with pytest.raises(LimitExceeded):
            subscriptions.make(rig.system, session(f"more{number}"))
    for number in range(2):
        subscriptions.add_source(rig.system, "s0", Source(f"t{number}"), kind="session")
    for number in range(2, 22):
        with pytest.raises(LimitExceeded):
            subscriptions.add_source(rig.system, "s0", Source(f"t{number}"), kind="session")
    assert len(rig.info("s0", "session").sources) == 2


async def test_coming_and_going_without_end_leaves_nothing(rig: Rig) -> None:
    """A client that subscribes and unsubscribes all the time, with messages in between and without."""
    subscriptions, who = rig.core.subscriptions, rig.system
    subscriptions.make(who, session())
    for number in range(500):
        subscriptions.add_source(who, "s", Source("t", key="k"), kind="session")
        subscriptions.end_source(who, "s", Source("t", key="k"), kind="session")
        if number % 100 == 0:
            post(rig, str(number))
    subscription = subscriptions.find("s", "session")
    assert len(subscription.bindings) <= 1 + 1 + 5
    await rig.quiet()
    await rig.checkpoint()
    assert len(subscription.bindings) == 1, "the way back of dead letters"
    assert await rig.waiting("s", "session") == []


async def test_a_source_that_goes_on_after_its_end(queue: Rig) -> None:
    subscriptions, who = queue.core.subscriptions, queue.system
    subscriptions.make(who, session(sources=[Source("t")]))
    await queue.publish("t", "1")
    await queue.checkpoint()
    subscriptions.end_source(who, "s", Source("t"), kind="session")
    await queue.core.log.committed()
    subscriptions.add_source(who, "s", Source("t"), kind="session")
    await queue.publish("t", "2")
    for check in (queue.quiet, queue.checkpoint, queue.crash_and_start):
        await check()
        assert await queue.waiting("s", "session") == [b"1", b"2"]
    await queue.publish("t", "3")
    assert await queue.waiting("s", "session") == [b"1", b"2", b"3"]


async def test_a_list_leaves_out_sessions_unless_they_are_asked_for(rig: Rig) -> None:
    for kind in ("session", "share"):
        rig.core.subscriptions.make(rig.system, session(kind=kind))
    await rig.subscribe("s", "t")
    subscriptions = rig.core.subscriptions
    assert [info.kind for info in subscriptions.list(rig.system)] == ["queue", "share"]
    assert [info.kind for info in subscriptions.list(rig.system, kind="session")] == ["session"]
    assert subscriptions.list(rig.system, kind="dead") == []
