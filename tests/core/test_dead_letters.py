import pytest

from polywire.core.dead_letters import dead_name, whose
from polywire.core.errors import Denied, NotFound, Unavailable
from polywire.core.limits import Limits
from polywire.core.message import Flag, Record
from polywire.core.routing import Source
from polywire.core.streams import Earliest
from polywire.core.subscription import Delivery, SubscriptionSettings
from tests.core.harness import DISK_FULL, Rig, numbered, until
from tests.core.test_topics import Make

KINDS = ("queue", "session", "share", "webhook")


def reject(delivery: Delivery) -> None:
    delivery.reject("no good")


async def started(queue: Rig, *payloads: bytes | Record, **settings: object) -> None:
    await queue.subscribe("s", "t", **settings)
    await queue.publish("t", *payloads)


async def buried(queue: Rig, count: int) -> list[bytes]:
    await until(lambda: queue.info().dead == count, f"{count} dead letters")
    return await queue.waiting("s", "dead")


async def test_a_rejected_message_becomes_a_dead_letter_with_its_trail(queue: Rig) -> None:
    record = Record(
        b"x", key=b"k", headers=[("h", "1"), ("h", "2")], content_type="a/b", flags=Flag.RETAINED, id="mine"
    )
    await started(queue, record)
    queue.consume(act=reject)
    assert await buried(queue, 1) == [b"x"]
    assert queue.pending() == 0
    for again in (queue.quiet, queue.restart, queue.crash_and_start):
        await again()
        [peeked] = await queue.core.subscriptions.peek(queue.system, "s", kind="dead")
        found = peeked.message.record
        trail = dict(found.headers)
        assert [header for header in found.headers if header[0] == "h"] == [("h", "1"), ("h", "2")]
        assert trail["polywire-topic"] == "t"
        assert trail["polywire-key"] == "k"
        assert trail["polywire-position"] == "1-0-0"
        assert trail["polywire-reason"] == "no good"
        assert trail["polywire-attempts"] == 1
        assert trail["polywire-subscription"] == "s"
        assert trail["polywire-time"] > 0
        assert (peeked.message.topic, found.key, found.content_type) == ("_dead", b"s", "a/b")
        assert not found.flags & Flag.RETAINED
        assert queue.info().dead == 1


async def test_attempts_have_a_cap(queue: Rig) -> None:
    await started(queue, b"x", attempts=3)
    taker = queue.consume(act=lambda delivery: delivery.nack())
    await buried(queue, 1)
    assert [delivery.attempt for delivery in taker.got] == [1, 2, 3]
    [peeked] = await queue.core.subscriptions.peek(queue.system, "s", kind="dead")
    assert dict(peeked.message.record.headers)["polywire-reason"] == "gave up after 3 attempts"


async def test_attempts_are_remembered_across_a_crash(queue: Rig) -> None:
    await started(queue, b"x", attempts=3)
    for _ in range(2):
        taker = queue.consume(credit=1)
        [delivery] = await taker.wait(1)
        taker.consumer.grant(0)
        delivery.nack()
        await queue.core.log.committed()
        await queue.crash_and_start()
    taker = queue.consume()
    [delivery] = await taker.wait(1)
    assert delivery.attempt == 3


async def test_settling_and_dead_lettering_are_one_commit(queue: Rig) -> None:
    await started(queue, b"x")
    taker = queue.consume()
    [delivery] = await taker.wait(1)
    await queue.quiet()
    queue.engine.holding = True
    delivery.reject("no")
    await until(lambda: queue.engine.held)
    [(commit, _)] = queue.engine.held
    assert len(commit.appends) == 1
    assert any(chunk.subscription == queue.core.subscriptions.find("s").id for chunk in commit.pending)
    await queue.crash_and_start()
    assert await queue.waiting() == [b"x"]
    assert queue.info().dead == 0


@pytest.mark.parametrize("attempts", [None, 1])
async def test_if_that_commit_fails_it_comes_again(queue: Rig, attempts: int | None) -> None:
    await started(queue, b"x", attempts=attempts)
    taker = queue.consume()
    [delivery] = await taker.wait(1)
    await queue.quiet()
    queue.engine.fault = DISK_FULL
    delivery.reject("no")
    await until(lambda: queue.engine.refused)
    await queue.quiet()
    queue.engine.fault = None
    assert queue.pending() == 1
    assert queue.info().dead == 0
    queue.clock.advance(2_000)
    await taker.wait(2)
    assert taker.got[1].attempt == 1
    assert taker.got[1].redelivered
    taker.got[1].reject("no")
    assert await buried(queue, 1) == [b"x"]
    await queue.crash_and_start()
    assert (queue.pending(), queue.info().dead) == (0, 1)


async def test_redrive_puts_back(queue: Rig) -> None:
    records = [Record(payload, key=b"k", headers=[("h", "1")]) for payload in numbered(5)]
    await started(queue, *records, attempts=2)
    await queue.subscribe("other", "t", "u")
    taker = queue.consume(act=reject)
    await buried(queue, 5)
    taker.close()
    subscriptions = queue.core.subscriptions
    assert await subscriptions.redrive(queue.system, "s", limit=2) == 2
    peeked = await subscriptions.peek(queue.system, "s", kind="dead")
    assert await subscriptions.redrive(queue.system, "s", seqs=[peeked[1].seq, 999_999]) == 1
    assert await queue.waiting("s", "dead") == [b"2", b"4"]
    assert await queue.waiting() == [b"0", b"1", b"3"]
    assert queue.pending("other") == 0, "nobody else gets it again"
    await queue.crash_and_start()
    taker = queue.consume()
    await taker.wait(3)
    delivery = taker.got[2]
    assert (delivery.message.topic, delivery.message.record.key, str(delivery.message.position)) == ("t", b"k", "1-0-3")
    assert delivery.message.record.headers == [("h", "1")]
    assert (delivery.attempt, delivery.message.record.payload) == (1, b"3")
    for delivery in taker.got:
        delivery.reject("again")
    await queue.quiet()
    assert await queue.waiting("s", "dead") == [b"2", b"4", b"0", b"1", b"3"]
    last = (await queue.core.subscriptions.peek(queue.system, "s", kind="dead"))[-1]
    trail = [name for name, _ in last.message.record.headers]
    assert trail.count("polywire-reason") == 1
    assert dict(last.message.record.headers)["polywire-topic"] == "t"
    assert dict(last.message.record.headers)["polywire-key"] == "k"


async def test_a_failed_redrive_loses_nothing(queue: Rig) -> None:
    await started(queue, *numbered(3))
    taker = queue.consume(act=reject)
    await buried(queue, 3)
    taker.close()
    assert await queue.core.subscriptions.redrive(queue.system, "s", limit=1) == 1
    queue.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await queue.core.subscriptions.redrive(queue.system, "s")
    queue.engine.fault = None
    await queue.checkpoint()
    await queue.crash_and_start()
    assert await queue.waiting("s", "dead") == [b"1", b"2"]
    assert await queue.waiting() == [b"0"]


async def test_dead_letters_are_purged_removed_and_moved(queue: Rig) -> None:
    await started(queue, *numbered(5))
    queue.consume(act=reject)
    await buried(queue, 5)
    subscriptions = queue.core.subscriptions
    seqs = [peeked.seq for peeked in await subscriptions.peek(queue.system, "s", kind="dead")]
    await subscriptions.remove(queue.system, "s", seqs[0], kind="dead")
    await subscriptions.move(queue.system, "s", seqs[1], "elsewhere", b"key", kind="dead")
    with pytest.raises(NotFound):
        await subscriptions.remove(queue.system, "s", seqs[0], kind="dead")
    assert await queue.waiting("s", "dead") == numbered(3, 2)
    [moved] = (await queue.core.read(queue.system, "elsewhere", Earliest())).messages
    assert (moved.record.payload, moved.record.key) == (b"1", b"key")
    assert await subscriptions.purge(queue.system, "s", kind="dead") == 3
    assert queue.info().dead == 0


async def test_a_moved_dead_letter_is_what_it_was(queue: Rig) -> None:
    await queue.subscribe()
    await queue.publish("t", Record(b"1", key=b"k", headers=[("h", "1")]))
    queue.consume(act=reject)
    await buried(queue, 1)
    [peeked] = await queue.core.subscriptions.peek(queue.system, "s", kind="dead")
    await queue.core.subscriptions.move(queue.system, "s", peeked.seq, "elsewhere", kind="dead")
    [moved] = (await queue.core.read(queue.system, "elsewhere", Earliest())).messages
    assert (moved.record.key, moved.record.headers) == (b"k", [("h", "1")])


async def test_a_subscription_without_dead_letters_has_none(queue: Rig) -> None:
    await started(queue, b"x", dead_letters=False)
    taker = queue.consume(act=reject)
    await taker.wait(1)
    await queue.quiet()
    assert (queue.pending(), queue.info().dead) == (0, 0)
    assert await queue.core.subscriptions.peek(queue.system, "s", kind="dead") == []
    assert await queue.core.subscriptions.purge(queue.system, "s", kind="dead") == 0
    assert await queue.core.subscriptions.redrive(queue.system, "s") == 0
    with pytest.raises(NotFound):
        await queue.core.subscriptions.redrive(queue.system, "nobody")


async def test_cycles_end(queue: Rig) -> None:
    """Subscriptions that read dead letters and reject them do not make dead letters of them, alone or in turn."""
    await started(queue, b"x")
    first = queue.consume(act=reject)
    await buried(queue, 1)
    await queue.subscribe("watch", Source("_dead"))
    await queue.subscribe("other", Source("_dead"))
    takers = [queue.consume(name, act=reject) for name in ("watch", "other")]
    await queue.publish("t", "y")
    await first.wait(2)
    for taker in takers:
        await taker.wait(1)
    await queue.quiet()
    assert queue.info("watch").dead == queue.info("other").dead == 0
    assert queue.core.topic_info(queue.system, "_dead").count == 2
    assert await queue.waiting("s", "dead") == [b"x", b"y"]


async def test_deleting_a_subscription_deletes_its_dead_letters(queue: Rig) -> None:
    await started(queue, b"x")
    queue.consume(act=reject)
    await buried(queue, 1)
    await queue.core.subscriptions.delete(queue.system, "s")
    await queue.subscribe("s", "t")
    assert queue.info().dead == 0
    await queue.restart()
    assert queue.info().dead == 0


async def test_dead_letters_do_not_stay_for_ever(make: Make) -> None:
    rig = await make(Limits(dead_letter_retention=60_000))
    await started(rig, b"x")
    rig.consume(act=reject)
    await buried(rig, 1)
    rig.clock.advance(120_000)
    await rig.round()
    assert rig.info().dead == 0
    await rig.round()
    assert rig.core.topic_info(rig.system, "_dead").count == 0


# Of one name and different kinds


async def died(rig: Rig, kind: str, topic: str, *payloads: bytes) -> None:
    """Subscription ``s`` of the kind, whose messages all become dead letters."""
    await rig.subscribe("s", topic, kind=kind)
    await rig.publish(topic, *payloads)
    rig.consume(act=reject, kind=kind)
    await until(lambda: rig.info("s", kind).dead == len(payloads))


@pytest.mark.parametrize("again", ["quiet", "restart", "crash_and_start"])
async def test_each_kind_has_its_own(queue: Rig, again: str) -> None:
    for number, kind in enumerate(KINDS):
        await died(queue, kind, f"t{number}", *[b"%d" % number] * (number + 1))
    await getattr(queue, again)()
    subscriptions = queue.core.subscriptions
    for number, kind in enumerate(KINDS):
        assert queue.info("s", kind).dead == subscriptions.dead_count("s", kind) == number + 1
        name = dead_name(kind, "s")
        assert await queue.waiting(name, "dead") == [b"%d" % number] * (number + 1)
        [peeked, *_] = await subscriptions.peek(queue.system, name, kind="dead")
        trail = dict(peeked.message.record.headers)
        assert peeked.message.record.key == name.encode()
        assert trail["polywire-subscription"] == "s"
        assert trail.get("polywire-kind", "queue") == kind
    assert dead_name("queue", "s") == "s"


async def test_each_kind_gets_its_own_back(queue: Rig) -> None:
    for number, kind in enumerate(KINDS):
        await died(queue, kind, f"t{number}", b"%d" % number)
    await queue.restart()
    for number, kind in enumerate(KINDS):
        assert await queue.core.subscriptions.redrive(queue.system, "s", kind=kind) == 1
        assert queue.info("s", kind).dead == 0
        assert await queue.waiting("s", kind) == [b"%d" % number]
        [delivery] = await queue.pull("s", kind=kind)
        assert delivery.message.record.headers == []
        assert delivery.message.topic == f"t{number}"
        delivery.reject("again")
        await queue.quiet()
        assert queue.info("s", kind).dead == 1
        assert await queue.core.subscriptions.purge(queue.system, dead_name(kind, "s"), kind="dead") == 1
    await queue.crash_and_start()
    assert [queue.info("s", kind).dead for kind in KINDS] == [0] * len(KINDS)


async def test_deleting_one_leaves_the_others(queue: Rig) -> None:
    for number, kind in enumerate(KINDS):
        await died(queue, kind, f"t{number}", b"%d" % number)
    await queue.core.subscriptions.delete(queue.system, "s", "share")
    await queue.subscribe("s", "t2", kind="share")
    assert [queue.info("s", kind).dead for kind in KINDS] == [1, 1, 0, 1]


async def test_a_queue_named_like_another_kinds_letters(queue: Rig) -> None:
    """Whatever the names, no two subscriptions share a list, nor a way back."""
    names = [("share", "x"), ("queue", "share:x"), ("queue", "queue:share:x"), ("queue", "topic:t"), ("queue", "a:b")]
    for number, (kind, name) in enumerate(names):
        await queue.subscribe(name, f"t{number}", kind=kind)
        await queue.publish(f"t{number}", f"{number}")
        queue.consume(name, act=reject, kind=kind, credit=1)
    queue.core.subscriptions.dead_letter("t", Record(b"unrefused"), "no")
    await until(lambda: all(queue.info(name, kind).dead == 1 for kind, name in names))
    assert len({dead_name(kind, name) for kind, name in names}) == len(names)
    for number, (kind, name) in enumerate(names):
        assert whose(dead_name(kind, name)) == (kind, name)
        assert await queue.waiting(dead_name(kind, name), "dead") == [b"%d" % number]


async def test_dead_letters_belong_to_who_owns_the_subscription(rig: Rig) -> None:
    clients = {}
    for name in ("one", "two"):
        _, secret = await rig.core.access.create_key(rig.system, name, ["subscribe:#"])
        clients[name] = rig.core.access.authenticate(secret)
    await rig.core.subscriptions.create(clients["one"], SubscriptionSettings("s", [Source("t")], kind="share"))
    await rig.core.subscriptions.create(clients["two"], SubscriptionSettings("s", [Source("t")]))
    await rig.publish("t", "1")
    for kind in ("share", "queue"):
        for delivery in await rig.pull(kind=kind):
            delivery.reject("no")
    await rig.quiet()
    subscriptions = rig.core.subscriptions
    for owner, other, kind in (("one", "two", "share"), ("two", "one", "queue")):
        name = dead_name(kind, "s")
        assert len(await subscriptions.peek(clients[owner], name, kind="dead")) == 1
        with pytest.raises(Denied):
            await subscriptions.peek(clients[other], name, kind="dead")
        with pytest.raises(Denied):
            await subscriptions.redrive(clients[other], "s", kind=kind)
        assert await subscriptions.redrive(clients[owner], "s", kind=kind) == 1
    with pytest.raises(NotFound):
        await subscriptions.redrive(clients["one"], "s", kind="session")
    with pytest.raises(NotFound):
        await subscriptions.peek(clients["one"], "session:s", kind="dead")


# What could not be refused


async def test_what_a_wire_could_not_refuse_is_kept_with_the_reason(rig: Rig) -> None:
    rig.core.subscriptions.dead_letter("t", Record(b"{", key=b"k"), "not JSON")
    await rig.quiet()
    [message] = (await rig.core.read(rig.system, "_dead", Earliest())).messages
    trail = dict(message.record.headers)
    assert (trail["polywire-topic"], trail["polywire-reason"], trail["polywire-key"]) == ("t", "not JSON", "k")


async def test_so_many_of_these_a_second(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make(Limits(dead_letter_rate=100))
    moment = rig.clock.now()
    monkeypatch.setattr(rig.clock, "now", lambda: moment)  # it stands still: 1,000 messages take their time
    await rig.publish("t", "x")
    keep = rig.core.subscriptions.dead_letter

    def dropped() -> float:
        return rig.core.metrics()["dead_letters_dropped"]

    for number in range(1_000):
        keep("t", Record(b"%d" % number), "no")
    assert dropped() == 900
    moment += 100
    for number in range(1_000):
        keep("t", Record(b"later %d" % number), "no")
    assert dropped() == 1_890
    moment += 60_000
    for number in range(1_000):
        keep("t", Record(b"much later %d" % number), "no")
    await rig.quiet()
    assert dropped() == 2_790
    kept = (await rig.core.read(rig.system, "_dead", Earliest(), limit=10_000)).messages
    wanted = [*numbered(100), *(b"later %d" % n for n in range(10)), *(b"much later %d" % n for n in range(100))]
    assert [message.record.payload for message in kept] == wanted


async def test_none_of_these_where_the_limit_is_none(make: Make) -> None:
    rig = await make(Limits(dead_letter_rate=0))
    rig.core.subscriptions.dead_letter("t", Record(b"x"), "no")
    await rig.quiet()
    assert rig.core.metrics()["dead_letters_dropped"] == 1
    assert rig.core.catalog.get("_dead") is None


async def test_where_the_log_has_no_room_they_are_dropped_and_counted(rig: Rig) -> None:
    rig.core.log.full = "no room"
    rig.core.subscriptions.dead_letter("t", Record(b"x"), "no")
    assert rig.core.metrics()["dead_letters_dropped"] == 1
    rig.core.log.full = None
    rig.core.subscriptions.dead_letter("t", Record(b"y"), "no")
    await rig.quiet()
    assert rig.core.topic_info(rig.system, "_dead").count == 1


async def test_the_first_dead_letters_subscription_survives_a_failed_commit(rig: Rig) -> None:
    await started(rig, b"x", b"y")
    taker = rig.consume()
    await taker.wait(2)
    await rig.quiet()
    rig.engine.fault = DISK_FULL
    taker.got[0].reject("no")
    await until(lambda: rig.engine.refused)
    await rig.quiet()
    rig.engine.fault = None
    taker.got[1].reject("no")
    await until(lambda: rig.info().dead == 1)
    await rig.crash_and_start()
    assert await rig.waiting("s", "dead") == [b"y"]
    assert await rig.waiting() == [b"x"]
