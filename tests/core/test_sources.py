"""What a subscription holds: decided when a message is appended, by its sources from when until when."""

import msgspec
import pytest

from polywire.core.errors import Conflict, Denied, Invalid, LimitExceeded, NotFound, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Flag, Record
from polywire.core.position import Cursor
from polywire.core.routing import Source
from polywire.core.streams import Earliest, Latest, Since
from polywire.core.subscription import SubscriptionSettings
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, numbered
from tests.core.test_topics import Make


async def test_it_holds_what_is_appended_from_now_on(queue: Rig) -> None:
    await queue.publish("t", "before")
    await queue.subscribe("s", "t")
    await queue.publish("t", *numbered(20))
    assert await queue.waiting() == numbered(20)
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(20)


@pytest.mark.parametrize("again", ["restart", "crash_and_start"])
async def test_starting_at_the_earliest(queue: Rig, again: str) -> None:
    await queue.publish("t", *numbered(50))
    await queue.subscribe("s", "t", start=Earliest())
    await queue.publish("t", *numbered(10, 50))
    await queue.core.subscriptions.filled()
    assert await queue.waiting() == numbered(60)
    await getattr(queue, again)()
    assert await queue.waiting() == numbered(60)


async def test_a_crash_during_the_replay_begins_it_again(queue: Rig) -> None:
    await queue.publish("t", *numbered(50))
    await queue.subscribe("s", "t", start=Earliest())
    await queue.crash_and_start()
    taker = queue.consume()
    await taker.wait(50)
    assert taker.payloads == numbered(50)
    assert not queue.info().filling


async def test_nothing_is_delivered_before_the_replay_has_ended(queue: Rig) -> None:
    await queue.publish("t", *numbered(30), key="k")
    creating = await queue.subscribe("s", Source("t", key="k"), start=Earliest())
    taker = queue.consume()
    assert creating.filling
    assert taker.got == []
    await queue.publish("t", "30", key="k")
    await taker.wait(31)
    assert taker.payloads == numbered(31)


async def test_starting_at_a_time_or_a_cursor(queue: Rig) -> None:
    await queue.publish("t", *numbered(5))
    queue.clock.advance(60_000)
    moment = queue.clock.now()
    await queue.publish("t", *numbered(5, 5))
    await queue.subscribe("time", "t", start=Since(moment))
    await queue.subscribe("cursor", "t", start=Cursor(1, 2))
    await queue.subscribe("gone", "t", start=Cursor(9, 2))
    await queue.core.subscriptions.filled()
    assert await queue.waiting("time") == numbered(5, 5)
    assert await queue.waiting("cursor") == numbered(7, 3)


async def test_key_and_header_filters(queue: Rig) -> None:
    await queue.subscribe("key", Source("t", key="a.*"))
    await queue.subscribe("header", Source("t", headers={"kind": "x"}))
    await queue.subscribe("both", Source("t", key="a.#", headers={"kind": "x"}))
    records = [
        Record(b"%d" % number, key=[b"a.b", b"b.a", b"a", None][number % 4], headers=[("kind", "xy"[number // 4 % 2])])
        for number in range(16)
    ]
    await queue.publish("t", *records)
    for check in (queue.quiet, queue.crash_and_start):
        await check()
        assert await queue.waiting("key") == [b"0", b"4", b"8", b"12"]
        assert await queue.waiting("header") == [b"0", b"1", b"2", b"3", b"8", b"9", b"10", b"11"]
        assert await queue.waiting("both") == [b"0", b"2", b"8", b"10"]
    await queue.subscribe("late", Source("t", key="a.*", headers={"kind": "y"}), start=Earliest())
    await queue.core.subscriptions.filled()
    assert await queue.waiting("late") == [b"4", b"12"]


async def test_sources_of_messages_without_a_key(queue: Rig) -> None:
    await queue.subscribe("keyless", Source("t", keyless=True))
    await queue.subscribe("all", Source("t", keyless=True), Source("t", key="#"))
    await queue.subscribe("pattern", Source("#", keyless=True, headers={"kind": "x"}))
    records = [
        Record(b"%d" % number, key=[None, b"", b"a", None][number % 4], headers=[("kind", "xy"[number // 4 % 2])])
        for number in range(16)
    ]
    await queue.publish("t", *records)
    await queue.publish("later", "16")
    await queue.publish(
        "later", Record(b"17", headers=[("kind", "x")]), Record(b"18", key=b"", headers=[("kind", "x")])
    )
    for check in (queue.quiet, queue.crash_and_start, queue.restart):
        await check()
        assert await queue.waiting("keyless") == [b"0", b"3", b"4", b"7", b"8", b"11", b"12", b"15"]
        assert await queue.waiting("all") == numbered(16)
        assert await queue.waiting("pattern") == [b"0", b"3", b"8", b"11", b"17"]
    await queue.subscribe("late", Source("t", keyless=True), start=Earliest())
    await queue.core.subscriptions.filled()
    assert await queue.waiting("late") == await queue.waiting("keyless")
    await queue.core.subscriptions.unbind(queue.system, "keyless", Source("t", keyless=True))
    await queue.publish("t", "19")
    assert len(await queue.waiting("keyless")) == 8


async def test_a_keyless_source_has_no_pattern_and_another_right(rig: Rig) -> None:
    wrong = SubscriptionSettings("s", [Source("t", key="a", keyless=True)])
    with pytest.raises(Invalid) as caught:
        await rig.core.subscriptions.create(rig.system, wrong)
    assert [field.path for field in caught.value.fields] == ["$.sources"]
    _, secret = await rig.core.access.create_key(rig.system, "client", ["subscribe:t", "subscribe:u.a"])
    client = rig.core.access.authenticate(secret)
    await rig.core.subscriptions.create(client, SubscriptionSettings("s", [Source("t", keyless=True)]))
    for denied in (Source("t"), Source("t", key=""), Source("u", keyless=True)):
        with pytest.raises(Denied):
            await rig.core.subscriptions.create(client, SubscriptionSettings("other", [denied]))


async def test_sources_that_skip_what_is_volatile(queue: Rig) -> None:
    await queue.subscribe("durable", Source("t", skip_volatile=True))
    await queue.subscribe("key", Source("t", key="a", skip_volatile=True, headers={"h": "1"}))
    await queue.subscribe("all", Source("t"))
    records = [
        Record(b"%d" % number, key=b"a", flags=Flag.VOLATILE * (number % 3 == 0), headers=[("h", str(number % 2))])
        for number in range(12)
    ]
    await queue.publish("t", *records)
    wanted = [b"%d" % number for number in range(12) if number % 3]
    for check in (queue.quiet, queue.crash_and_start):
        await check()
        assert await queue.waiting("durable") == wanted
        assert await queue.waiting("key") == [b"1", b"5", b"7", b"11"]
        assert await queue.waiting("all") == numbered(12)
    await queue.subscribe("late", Source("t", skip_volatile=True), start=Earliest())
    await queue.core.subscriptions.filled()
    assert await queue.waiting("late") == wanted


def test_sources_stored_before_there_were_such() -> None:
    stored = msgspec.msgpack.encode({"topic": "t", "key": "a.*", "headers": {"h": "1"}})
    assert msgspec.msgpack.decode(stored, type=Source) == Source("t", "a.*", {"h": "1"})
    settings = msgspec.msgpack.encode({"name": "s", "sources": [{"topic": "t"}], "kind": "queue"})
    assert msgspec.msgpack.decode(settings, type=SubscriptionSettings) == SubscriptionSettings("s", [Source("t")])


async def test_a_message_is_held_once_whatever_the_number_of_sources(queue: Rig) -> None:
    await queue.subscribe("s", "t", Source("t", key="#"), Source("t", key="a"), Source("#"))
    await queue.publish("t", *numbered(10), key="a")
    assert await queue.waiting() == numbered(10)


async def test_a_pattern_takes_in_topics_made_later_from_their_first_message(queue: Rig) -> None:
    await queue.publish("sensor.1", "before")
    await queue.subscribe("s", "sensor.*")
    await queue.publish("sensor.1", "1")
    await queue.publish("sensor.2", "2")
    await queue.publish("other", "no")
    queue.core.event("nor", the="hub's own")
    await queue.crash_and_start()
    await queue.publish("sensor.3", "3")
    assert await queue.waiting() == [b"1", b"2", b"3"]


async def test_a_source_waits_for_its_topic(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.core.delete_topic(queue.system, "t")
    await queue.publish("t", "1")
    await queue.restart()
    await queue.publish("t", "2")
    assert await queue.waiting() == [b"1", b"2"]


async def test_several_sources_are_read_in_the_order_of_the_hub(queue: Rig) -> None:
    await queue.subscribe("s", "a", "b", "c")
    for number in range(30):
        await queue.publish("cab"[number % 3], str(number))
    taker = queue.consume(credit=3, act=lambda delivery: delivery.ack())
    await taker.wait(30)
    assert taker.payloads == numbered(30)
    late = await queue.subscribe("late", "b", "a", "c", start=Earliest())
    assert late.filling
    taker = queue.consume("late")
    await taker.wait(30)
    assert taker.payloads == numbered(30)


async def test_bind_and_unbind_take_their_place_in_the_order_of_appends(queue: Rig) -> None:
    subscriptions = queue.core.subscriptions
    await queue.subscribe("s", "a")
    queue.core.post(queue.system, "b", [Record(b"0")])
    await subscriptions.bind(queue.system, "s", Source("b"))
    queue.core.post(queue.system, "b", [Record(b"1")])
    queue.core.post(queue.system, "a", [Record(b"2")])
    await subscriptions.unbind(queue.system, "s", Source("a"))
    queue.core.post(queue.system, "a", [Record(b"3")])
    queue.core.post(queue.system, "b", [Record(b"4")])
    assert await queue.waiting() == [b"1", b"2", b"4"]
    assert [source.topic for source in queue.info().sources] == ["b"]
    await queue.crash_and_start()
    assert await queue.waiting() == [b"1", b"2", b"4"]
    await queue.core.subscriptions.bind(queue.system, "s", Source("a"))
    await queue.publish("a", "5")
    await queue.checkpoint()
    await queue.crash_and_start()
    await queue.publish("a", "6")
    assert await queue.waiting() == [b"1", b"2", b"4", b"5", b"6"]


async def test_a_crash_between_unbind_and_routing_changes_nothing(queue: Rig) -> None:
    """What was appended before the unbind is held, though its routing was lost with the crash."""
    await queue.subscribe("s", "t")
    await queue.checkpoint()
    queue.core._upkeep.stop()
    await queue.publish("t", *numbered(10))
    await queue.core.subscriptions.unbind(queue.system, "s", Source("t"))
    await queue.publish("t", *numbered(10, 10))
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(10)


async def test_a_removed_source_is_forgotten_only_after_its_routing_was_stored(queue: Rig) -> None:
    await queue.subscribe("s", "t", "u")
    await queue.checkpoint()
    await queue.publish("t", "1")
    await queue.quiet()
    queue.engine.holding = True
    queue.core._upkeep._checkpoints.run_soon()  # stores how far routing has come by now ...
    await queue.core.log.engine.space()
    queue.core.post(queue.system, "t", [Record(b"2")])
    unbound = queue.core._upkeep  # ... while a message and the end of its source go with the next commit
    queue.core.subscriptions._bindings.end(queue.core.subscriptions.find("s").bindings[0])
    queue.core.log.change(queue.core.subscriptions.state(queue.core.subscriptions.find("s")))
    queue.engine.let_go()
    await queue.quiet()
    unbound.stop()
    await queue.crash_and_start()
    assert await queue.waiting() == [b"1", b"2"]


async def test_sources_made_after_messages_in_memory_hold_after_a_crash(make: Make) -> None:
    """Sequence numbers of memory topics are not stored; a source may not begin beyond those that are given again."""
    rig = await make()
    await rig.core.create_topic(rig.system, TopicSettings("m", durability="memory"))
    await rig.publish("m", *numbered(500))
    await rig.subscribe("s", "t")
    await rig.crash_and_start()
    await rig.publish("t", *numbered(10))
    assert await rig.waiting() == numbered(10)


async def test_memory_topics_in_a_durable_subscription(make: Make) -> None:
    rig = await make()
    await rig.core.create_topic(rig.system, TopicSettings("m", durability="memory"))
    await rig.subscribe("s", "m", "t")
    await rig.publish("m", "1")
    await rig.publish("t", "2")
    await rig.publish("m", "3")
    taker = rig.consume()
    await taker.wait(3)
    assert sorted(taker.payloads) == [b"1", b"2", b"3"]
    await rig.core.subscriptions.purge(rig.system, "s")
    taker.close()
    await rig.quiet()
    await rig.restart()
    assert await rig.waiting() == [b"2"]
    await rig.publish("t", *numbered(10))
    assert rig.pending() == 11, "nothing is held under a number that the lost messages had"


async def test_recovery_routes_what_no_checkpoint_had(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.subscribe("k", Source("t", key="a"))
    await queue.publish("t", *numbered(10), key="a")
    taker = queue.consume(act=lambda delivery: delivery.ack() if int(delivery.message.record.payload) < 5 else None)
    await taker.wait(10)
    await queue.quiet()
    await queue.crash_and_start()
    assert await queue.waiting() == numbered(5, 5), "acks were stored, with what was routed until then"
    assert await queue.waiting("k") == numbered(10)


# Making, joining, removing


async def test_creating_is_joining_when_equal(rig: Rig) -> None:
    first = await rig.subscribe("s", "t", attempts=3)
    assert await rig.subscribe("s", "t", attempts=3) == first
    with pytest.raises(Conflict, match="other settings"):
        await rig.subscribe("s", "t", attempts=4)
    other = await rig.subscribe("s", "t", kind="group")
    assert other.kind == "group"
    assert len(rig.core.subscriptions.list(rig.system)) == 2


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"name": ""}, "$.name"),
        ({"name": "x" * 2_500}, "$.name"),
        ({"name": "a.#"}, "$.name"),
        ({"name": "a\nb"}, "$.name"),
        ({"sources": []}, "$.sources"),
        ({"attempts": 0}, "$.attempts"),
        ({"offline_limit": -1}, "$.offline_limit"),
    ],
)
async def test_wrong_settings_are_named(rig: Rig, settings: dict[str, object], path: str) -> None:
    wrong = SubscriptionSettings(**{"name": "s", "sources": [Source("t")], **settings})  # type: ignore[arg-type]
    with pytest.raises(Invalid) as caught:
        await rig.core.subscriptions.create(rig.system, wrong)
    assert [field.path for field in caught.value.fields] == [path]


async def test_subscriptions_have_a_limit(make: Make) -> None:
    rig = await make(Limits(subscriptions=3))
    for number in range(3):
        await rig.subscribe(f"s{number}", "t")
    for number in range(3, 33):
        with pytest.raises(LimitExceeded):
            await rig.subscribe(f"s{number}", "t")


async def test_sources_have_a_limit(make: Make) -> None:
    rig = await make(Limits(sources=3))
    with pytest.raises(LimitExceeded):
        await rig.subscribe("s", "a", "b", "c", "d")
    await rig.subscribe("s", "a", "b", dead_letters=False)
    await rig.core.subscriptions.bind(rig.system, "s", Source("c"))
    for number in range(30):
        with pytest.raises(LimitExceeded):
            await rig.core.subscriptions.bind(rig.system, "s", Source(f"d{number}"))
    assert len(rig.info().sources) == 3
    await rig.core.subscriptions.unbind(rig.system, "s", Source("c"))
    await rig.publish("a", "1")
    with pytest.raises(LimitExceeded):  # until a checkpoint it is remembered how far it reached
        await rig.core.subscriptions.bind(rig.system, "s", Source("d"))
    await rig.checkpoint()
    await rig.core.subscriptions.bind(rig.system, "s", Source("d"))


async def test_a_deleted_subscription_is_gone_for_good(queue: Rig) -> None:
    await queue.subscribe("s", "t")
    await queue.publish("t", *numbered(5))
    taker = queue.consume()
    await taker.wait(5)
    await queue.core.subscriptions.delete(queue.system, "s")
    assert isinstance(taker.why, NotFound)
    assert not taker.got[0].ack()
    for action in (queue.restart, queue.crash_and_start):
        with pytest.raises(NotFound):
            queue.info()
        await action()
    await queue.subscribe("s", "t")
    assert await queue.waiting() == []


async def test_one_that_is_not_durable_ends_with_the_hub(queue: Rig) -> None:
    await queue.subscribe("s", "t", durable=False)
    await queue.publish("t", *numbered(5))
    assert await queue.waiting() == numbered(5)
    await queue.restart()
    with pytest.raises(NotFound):
        queue.info()


async def test_an_unused_subscription_expires_with_an_event(queue: Rig) -> None:
    _, secret = await queue.core.access.create_key(queue.system, "client", ["*:#"])
    owner = queue.core.access.authenticate(secret)
    for name in ("unused", "used"):
        settings = SubscriptionSettings(name=name, sources=[Source("t")], expires=60_000)
        await queue.core.subscriptions.create(owner, settings)
    await queue.publish("t", "1")
    for _ in range(4):
        queue.clock.advance(25_000)
        await queue.pull("used", max=1)
        await queue.round()
    with pytest.raises(NotFound):
        queue.info("unused")
    assert queue.pending("used") == 1
    [event] = (await queue.core.read(queue.system, "_events", Earliest())).messages
    assert event.record.key == b"subscription.expired"
    assert b'"subscription":"unused"' in event.record.payload
    await queue.crash_and_start()
    await queue.round()
    assert queue.pending("used") == 1, "the last use was stored"
    queue.clock.advance(65_000)
    await queue.round()
    with pytest.raises(NotFound):
        queue.info("used")


async def test_the_applications_own_never_expire(rig: Rig) -> None:
    rig.core.subscriptions.declare(SubscriptionSettings(name="s", sources=[Source("t")], expires=1_000), Earliest())
    rig.clock.advance(100_000)
    await rig.round()
    assert rig.info().name == "s"


async def test_a_changed_declaration_is_taken_over(rig: Rig) -> None:
    subscriptions = rig.core.subscriptions
    subscriptions.declare(SubscriptionSettings(name="s", sources=[Source("a"), Source("b")]), Earliest())
    await rig.publish("a", "1")
    await rig.publish("b", "2")
    await rig.quiet()
    subscriptions.declare(SubscriptionSettings(name="s", sources=[Source("b"), Source("c")], attempts=2), Earliest())
    for topic in "abc":
        await rig.publish(topic, topic)
    assert await rig.waiting() == [b"1", b"2", b"b", b"c"]
    assert rig.info().settings.attempts == 2


async def test_a_subscription_whose_commit_failed_is_stored_with_the_next(rig: Rig) -> None:
    await rig.publish("t", "x")
    await rig.quiet()
    rig.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await rig.subscribe("s", "new")
    rig.engine.fault = None
    await rig.publish("new", "1")
    await rig.crash_and_start()
    assert await rig.waiting() == [b"1"]


async def test_a_declared_subscription_is_not_deleted(queue: Rig) -> None:
    settings = SubscriptionSettings(name="declared", sources=[Source("t")])
    queue.core.subscriptions.declare(settings, Latest())
    with pytest.raises(Conflict, match="declared"):
        await queue.core.subscriptions.delete(queue.system, "declared")
    with pytest.raises(Invalid):
        queue.core.subscriptions.declare(SubscriptionSettings(name="a.#", sources=[Source("t")]), Latest())
