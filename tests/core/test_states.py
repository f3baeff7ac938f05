"""What wires keep by kind and key: with what is published beside it, in one commit or not at all."""

from __future__ import annotations

import pytest

from polywire.core.errors import PolywireError
from polywire.core.limits import Limits
from polywire.core.message import Flag, Record
from polywire.core.routing import Source
from polywire.core.streams import Earliest
from polywire.core.subscription import SubscriptionSettings
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Rig, until
from tests.core.test_topics import Make

KIND = "ids"
Heard = list[PolywireError | None]


def put(rig: Rig, key: str, value: bytes, **more: object) -> None:
    rig.core.states.put(KIND, key, value, **more)


async def stored(rig: Rig) -> dict[str, bytes]:
    """What a crash leaves."""
    await rig.crash_and_start()
    return rig.core.states.take(KIND)


async def payloads(rig: Rig, topic: str = "t") -> list[bytes]:
    return [m.record.payload for m in (await rig.core.read(rig.system, topic, Earliest(), limit=1_000)).messages]


@pytest.mark.parametrize("again", ["restart", "crash_and_start"])
async def test_what_was_put_is_found_after_a_start_once(rig: Rig, again: str) -> None:
    put(rig, "a", b"1")
    put(rig, "b c", b"")
    put(rig, "é/\x00/🙂", b"\xff")
    put(rig, "a", b"2")
    put(rig, "gone", b"x")
    rig.core.states.put("other", "a", b"3")
    rig.core.states.delete(KIND, "gone")
    rig.core.states.delete(KIND, "never there")
    await rig.core.log.committed()
    assert rig.core.states.take(KIND) == {}, "only what a start found"
    for _ in range(2):
        await getattr(rig, again)()
        assert rig.core.states.take(KIND) == {"a": b"2", "b c": b"", "é/\x00/🙂": b"\xff"}
        assert rig.core.states.take(KIND) == {}
        assert rig.core.states.take("other") == {"a": b"3"}
        assert rig.core.states.take("unknown") == {}


async def test_it_is_told_after_the_commit(rig: Rig) -> None:
    heard: Heard = []
    await rig.quiet()
    rig.engine.holding = True
    put(rig, "a", b"1", told=heard.append)
    rig.core.states.delete(KIND, "b", heard.append)
    await until(lambda: rig.engine.held)
    assert heard == []
    rig.engine.let_go()
    await rig.quiet()
    assert heard == [None, None]


@pytest.mark.parametrize("kind", ["", "two words"])
async def test_wrong_kinds_are_refused(rig: Rig, kind: str) -> None:
    with pytest.raises(ValueError, match="not a kind"):
        rig.core.states.put(kind, "a", b"")


async def test_a_key_that_cannot_be_stored_harms_nobody(rig: Rig) -> None:
    rig.core.post(rig.system, "t", [Record(b"1")])
    with pytest.raises(ValueError, match="surrogates"):
        put(rig, "\ud800", b"")
    await rig.quiet()
    assert await payloads(rig) == [b"1"]


# With what is published


HOW = {
    "plain": Record(b"1"),
    "retained": Record(b"1", key=b"k", flags=Flag.RETAINED),
    "dedup": Record(b"1", id="mine", flags=Flag.DEDUP),
    "volatile": Record(b"1", flags=Flag.VOLATILE),
}


@pytest.mark.parametrize("first", ["message", "state"])
@pytest.mark.parametrize("how", [*HOW, "delayed", "sent"])
async def test_a_message_and_a_state_are_one_commit(rig: Rig, how: str, first: str) -> None:
    await rig.publish("t", "before")
    await rig.quiet()
    due = rig.clock.now() + 60_000 if how == "delayed" else None

    def both() -> None:
        record = HOW.get(how, Record(b"1"))
        if first == "state":
            put(rig, "a", b"1")
        if how == "sent":
            rig.core.send(rig.system, "t", [record])
        else:
            rig.core.post(rig.system, "t", [record], due=due)
        if first == "message":
            put(rig, "a", b"1")

    rig.engine.holding = True
    both()
    await until(lambda: rig.engine.held)
    [(commit, _)] = rig.engine.held
    assert len(commit.appends) + len(commit.delayed) == 1
    assert [change.key for change in commit.state if change.kind == "wire"] == [f"{KIND} a"]
    assert await stored(rig) == {}
    assert (await payloads(rig), rig.core.delays.count) == ([b"before"], 0)
    both()
    await rig.quiet()
    assert await stored(rig) == {"a": b"1"}
    assert len(await payloads(rig)) + rig.core.delays.count == 2


async def test_also_while_another_commit_is_under_way(rig: Rig) -> None:
    """Each callback's changes join the same transaction, whichever that is."""
    await rig.publish("t", "before")
    await rig.quiet()
    rig.engine.holding = True
    for number in range(3):
        rig.core.post(rig.system, "t", [Record(b"%d" % number)])
        put(rig, str(number), b"x")
        await until(lambda: rig.engine.held)
    [(commit, _)] = rig.engine.held
    assert [change.key for change in commit.state if change.kind == "wire"] == [f"{KIND} 0"]
    await rig.crash_and_start()
    assert (rig.core.states.take(KIND), await payloads(rig)) == ({}, [b"before"])


async def test_an_acknowledgement_and_a_state_are_one_commit(rig: Rig) -> None:
    await rig.subscribe()
    await rig.publish("t", "1")
    [delivery] = await rig.consume().wait(1)
    await rig.quiet()
    rig.engine.holding = True
    put(rig, "a", b"1")
    delivery.ack()
    await until(lambda: rig.engine.held)
    assert await stored(rig) == {}
    assert await rig.waiting() == [b"1"]
    [delivery] = await rig.consume().wait(1)
    delivery.ack()
    put(rig, "a", b"1")
    await rig.quiet()
    assert await stored(rig) == {"a": b"1"}
    assert await rig.waiting() == []


async def test_a_subscription_and_a_state_are_one_commit(rig: Rig) -> None:
    await rig.publish("t", "x")
    await rig.quiet()
    rig.engine.holding = True
    rig.core.subscriptions.make(rig.system, SubscriptionSettings("s", [], kind="session"))
    rig.core.subscriptions.add_source(rig.system, "s", Source("t"), kind="session")
    put(rig, "s", b"1")
    await until(lambda: rig.engine.held)
    [(commit, _)] = rig.engine.held
    assert sorted(change.kind for change in commit.state) == ["subscription", "wire"]
    assert await stored(rig) == {}
    assert rig.core.subscriptions.find("s", "session") is None


async def test_a_message_in_memory_is_delivered_and_the_state_commits_by_itself(rig: Rig) -> None:
    await rig.core.create_topic(rig.system, TopicSettings("m", durability="memory"))
    await rig.quiet()
    rig.engine.holding = True
    published: Heard = []
    put_: Heard = []
    rig.core.post(rig.system, "m", [Record(b"1")], published.append)
    put(rig, "a", b"1", told=put_.append)
    await until(lambda: published)
    assert (await payloads(rig, "m"), put_) == ([b"1"], [])
    rig.engine.let_go()
    await until(lambda: put_)
    assert await stored(rig) == {"a": b"1"}


async def test_the_state_beside_a_duplicate_is_stored(rig: Rig) -> None:
    """Of one that is committed, and of one that still waits for its commit."""
    twice = [Record(b"1", id="mine", flags=Flag.DEDUP) for _ in range(3)]
    await rig.core.publish(rig.system, "t", twice[:1])
    rig.core.post(rig.system, "t", twice[1:2])
    put(rig, "a", b"1")
    await rig.quiet()
    rig.engine.holding = True
    rig.core.post(rig.system, "t", [Record(b"2", id="other", flags=Flag.DEDUP)])
    await until(lambda: rig.engine.held)
    heard: Heard = []
    rig.core.post(rig.system, "t", [Record(b"2", id="other", flags=Flag.DEDUP)], heard.append)
    put(rig, "b", b"2")
    rig.engine.let_go()
    await rig.quiet()
    assert heard == [None]
    assert await stored(rig) == {"a": b"1", "b": b"2"}
    assert await payloads(rig) == [b"1", b"2"]


# Commits that fail


async def test_what_failed_is_stored_with_the_next_commit(rig: Rig) -> None:
    put(rig, "kept", b"1")
    put(rig, "deleted", b"1")
    await rig.core.log.committed()
    rig.engine.fault = DISK_FULL
    heard: Heard = []
    put(rig, "kept", b"2", told=heard.append)
    rig.core.states.delete(KIND, "deleted", heard.append)
    await until(lambda: len(heard) == 2)
    assert all(isinstance(error, PolywireError) for error in heard)
    await rig.quiet()
    rig.engine.fault = None
    await rig.publish("t", "x")
    assert await stored(rig) == {"kept": b"2"}


async def test_a_checkpoint_stores_it_when_nothing_else_comes(rig: Rig) -> None:
    await rig.quiet()
    rig.engine.fault = DISK_FULL
    put(rig, "a", b"1")
    await until(lambda: rig.engine.refused)
    await rig.quiet()
    rig.engine.fault = None
    await rig.checkpoint()
    assert await stored(rig) == {"a": b"1"}


async def test_the_later_truth_wins(rig: Rig) -> None:
    await rig.quiet()
    rig.engine.holding = True
    put(rig, "put", b"1")
    put(rig, "deleted", b"1")
    rig.core.states.delete(KIND, "put again")
    await until(lambda: rig.engine.held)
    put(rig, "put", b"2")
    rig.core.states.delete(KIND, "deleted")
    put(rig, "put again", b"2")
    rig.engine.fault = DISK_FULL
    rig.engine.let_go()
    await until(lambda: rig.engine.refused == 2)
    put(rig, "put", b"3")
    await rig.quiet()
    rig.engine.fault = None
    await rig.checkpoint()
    assert await stored(rig) == {"put": b"3", "put again": b"2"}


async def test_what_is_tied_to_a_message_is_forgotten_with_it(rig: Rig) -> None:
    put(rig, "a", b"before", tied=True)
    await rig.core.log.committed()
    rig.engine.fault = DISK_FULL
    heard: Heard = []
    rig.core.post(rig.system, "t", [Record(b"lost")], heard.append)
    put(rig, "a", b"received", tied=True)
    put(rig, "b", b"received", tied=True)
    await until(lambda: heard)
    await rig.quiet()
    rig.engine.fault = None
    await rig.publish("t", "1")
    assert await stored(rig) == {"a": b"before"}
    assert await payloads(rig) == [b"1"]


async def test_a_truth_before_what_is_tied_outlives_it(rig: Rig) -> None:
    put(rig, "a", b"old")
    await rig.core.log.committed()
    rig.engine.fault = DISK_FULL
    rig.core.states.delete(KIND, "a")
    put(rig, "a", b"received", tied=True)
    put(rig, "b", b"received", tied=True)
    put(rig, "b", b"known")
    await until(lambda: rig.engine.refused)
    await rig.quiet()
    rig.engine.fault = None
    await rig.publish("t", "1")
    assert await stored(rig) == {"b": b"known"}


async def test_who_hears_of_a_failure_can_still_change_what_goes_next(rig: Rig) -> None:
    """The next commit was filled while the failed one was under way, by callbacks that knew nothing of it."""
    await rig.publish("t", "before")
    await rig.quiet()
    rig.engine.holding = True

    def forget(error: PolywireError | None) -> None:
        if error is not None:
            put(rig, "ids", b"2")

    rig.core.post(rig.system, "t", [Record(b"lost")], forget)
    put(rig, "ids", b"1", tied=True)
    await until(lambda: rig.engine.held)
    rig.core.post(rig.system, "t", [Record(b"stored")])
    put(rig, "ids", b"1 2", tied=True)
    [(commit, done)] = rig.engine.held
    rig.engine.held.clear()
    done(commit, PolywireError(DISK_FULL))
    rig.engine.let_go()
    await rig.quiet()
    assert await stored(rig) == {"ids": b"2"}
    assert await payloads(rig) == [b"before", b"stored"]


async def test_a_lasting_fault_keeps_one_change_of_each_key(make: Make) -> None:
    rig = await make(Limits(checkpoint_interval=1))
    rig.engine.fault = DISK_FULL
    for number in range(200):
        put(rig, str(number % 3), b"%d" % number)
        await until(lambda: rig.engine.refused > number)  # noqa: B023
    await rig.quiet()
    assert len([change for change in rig.core.log.kept.state if change.kind == "wire"]) == 3
    rig.engine.fault = None
    await rig.checkpoint()
    assert await stored(rig) == {"0": b"198", "1": b"199", "2": b"197"}


async def test_states_go_on_when_publishing_is_refused_for_space(rig: Rig) -> None:
    rig.core.log.full = "no room"
    put(rig, "a", b"1")
    await rig.core.log.committed()
    assert await stored(rig) == {"a": b"1"}
