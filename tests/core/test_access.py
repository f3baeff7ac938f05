import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from polywire.core.access import Permission, Principal
from polywire.core.core import Core
from polywire.core.errors import (
    Conflict,
    Denied,
    Invalid,
    LimitExceeded,
    NotFound,
    PolywireError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from polywire.core.limits import Limits
from polywire.core.message import Record
from polywire.core.position import Position
from polywire.core.routing import Source
from polywire.core.streams import Earliest, Latest
from polywire.core.subscription import SubscriptionSettings
from polywire.core.topics import TopicSettings
from tests.core.harness import DISK_FULL, Reader, Rig, Taker, until
from tests.core.test_topics import Make

Do = Callable[[Core, Principal], Awaitable[Any]]


async def key(rig: Rig, name: str, *allow: str) -> Principal:
    _, secret = await rig.core.access.create_key(rig.system, name, list(allow))
    return rig.core.access.authenticate(secret)


def test_who_was_forgotten_meanwhile_is_not_told_of_a_right_taken_away() -> None:
    principal, told = Principal("reader", "key"), list[str]()

    def first() -> None:
        told.append("first")
        forget_second()

    principal.on_revoked(first)
    forget_second = principal.on_revoked(lambda: told.append("second"))
    principal.on_revoked(lambda: told.append("third"))
    principal.narrow((), active=False)
    assert told == ["first", "third"]


async def test_a_hub_without_keys_is_open(rig: Rig) -> None:
    anonymous = rig.core.access.authenticate(None)
    assert rig.core.access.open
    await rig.core.publish(anonymous, "t", [Record(b"x")])
    assert rig.core.access.keys(anonymous) == []


async def test_the_first_key_takes_everything_from_anonymous(rig: Rig) -> None:
    anonymous = rig.core.access.authenticate(None)
    await rig.core.publish(anonymous, "t", [Record(b"x")])
    settings = SubscriptionSettings(name="s", sources=[Source("t")])
    await rig.core.subscriptions.create(anonymous, settings)
    reader, taker = Reader(), Taker()
    rig.core.follow(anonymous, "t", Latest(), reader)
    rig.core.subscriptions.consume(anonymous, "s", taker)
    pulling = asyncio.ensure_future(rig.core.subscriptions.pull(anonymous, "s", max=1, wait=30_000))
    polling = asyncio.ensure_future(rig.core.read(anonymous, "t", Latest(), wait=30_000))
    await until(lambda: rig.info().consumers == 2 and rig.core.log.by_id[1].waiting)
    await rig.core.access.create_key(anonymous, "first", ["*:#"])
    assert isinstance(reader.why, Unauthenticated)
    assert isinstance(taker.why, Unauthenticated)
    assert not rig.core.access.open
    with pytest.raises(Unauthenticated):
        await pulling
    await rig.publish("t", "secret")
    with pytest.raises(Unauthenticated):
        await polling
    assert reader.got == []
    with pytest.raises(Unauthenticated):
        await rig.core.publish(anonymous, "t", [Record(b"x")])
    await rig.restart()
    with pytest.raises(Unauthenticated):
        await rig.core.publish(rig.core.access.anonymous, "t", [Record(b"x")])


async def test_anonymous_keeps_what_it_was_granted(make: Make) -> None:
    rig = await make(anonymous_allow=["publish:open.#"])
    await key(rig, "k", "*:#")
    await rig.core.publish(rig.core.access.anonymous, "open", [Record(b"x", key=b"a")])
    with pytest.raises(Unauthenticated):
        await rig.core.publish(rig.core.access.anonymous, "closed", [Record(b"x")])


async def test_keys_authenticate_and_survive(rig: Rig) -> None:
    info, secret = await rig.core.access.create_key(rig.system, "client", ["publish:t.#"])
    assert secret.startswith(f"pw_{info.id}_")
    assert len(secret) > 50
    for again in (rig.quiet, rig.restart, rig.crash_and_start):
        await again()
        principal = rig.core.access.authenticate(secret)
        assert (principal.name, principal.kind) == ("client", "key")
        assert rig.core.access.keys(rig.system) == [info]
        for wrong in ("", "x", secret[:-1], secret + "x", f"pw_{info.id}_", f"pw_{info.id}", "pw__", "\udcff", "é"):
            with pytest.raises(Unauthenticated):
                rig.core.access.authenticate(wrong)
    stored = (rig.folder / "hub.db").read_bytes() + (rig.folder / "hub.db-wal").read_bytes()
    assert secret.rpartition("_")[2].encode() not in stored, "only a hash is stored"


async def test_wrong_keys_are_refused(rig: Rig) -> None:
    create = rig.core.access.create_key
    await create(rig.system, "k", [])
    with pytest.raises(Conflict):
        await create(rig.system, "k", [])
    for name in ("", "x" * 1_000, "a\n", "hub", "anonymous", "#", "a.*"):
        with pytest.raises(Invalid):
            await create(rig.system, name, [])
    for allow in ("publish", "publish:", ":x", "walk:x", "publish x"):
        with pytest.raises(Invalid, match="not a permission"):
            await create(rig.system, "other", [allow])


async def test_two_keys_of_one_name_at_once(rig: Rig) -> None:
    both = [rig.core.access.create_key(rig.system, "twin", ["*:#"]) for _ in range(2)]
    made = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(one).__name__ for one in made) == ["Conflict", "tuple"]
    assert [key.name for key in rig.core.access.keys(rig.system)] == ["twin"]


async def test_a_key_that_could_not_be_stored_is_none(rig: Rig) -> None:
    rig.engine.fault = DISK_FULL
    with pytest.raises(Unavailable):
        await rig.core.access.create_key(rig.system, "k", [])
    rig.engine.fault = None
    await rig.publish("t", "x")
    assert rig.core.access.open
    await rig.restart()
    assert rig.core.access.open


async def test_revocation_reaches_followers_and_consumers_at_once(rig: Rig) -> None:
    principal = await key(rig, "client", "*:t.#")
    other = await key(rig, "other", "*:t.#")
    await rig.publish("t", "x")
    settings = SubscriptionSettings(name="s", sources=[Source("t")])
    await rig.core.subscriptions.create(principal, settings)
    reader, taker, untouched = Reader(), Taker(), Reader()
    rig.core.follow(principal, "t", Latest(), reader)
    rig.core.follow(other, "t", Latest(), untouched)
    taker.consumer = rig.core.subscriptions.consume(principal, "s", taker)
    await rig.publish("t", "1")
    await taker.wait(1)
    await rig.core.access.revoke_key(rig.system, "client")
    assert isinstance(reader.why, Denied)
    assert isinstance(taker.why, Denied)
    await rig.publish("t", "2")
    await untouched.wait(2)
    assert reader.payloads == [b"1"]
    assert len(taker.got) == 1
    assert rig.info().unsettled == 0, "returned for whoever comes next"
    with pytest.raises(Denied):
        await rig.core.publish(principal, "t", [Record(b"x")])
    with pytest.raises(NotFound):
        await rig.core.access.revoke_key(rig.system, "client")
    await rig.crash_and_start()
    assert [info.name for info in rig.core.access.keys(rig.system)] == ["other"]


async def test_the_removal_of_the_last_key_does_not_open_the_hub(rig: Rig) -> None:
    await key(rig, "k", "*:#")
    await rig.core.access.revoke_key(rig.system, "k")
    with pytest.raises(Unauthenticated):
        await rig.core.publish(rig.core.access.anonymous, "t", [Record(b"x")])


async def test_user_in_a_pattern_is_the_principals_name(rig: Rig) -> None:
    principal = await key(rig, "anna", "publish:home.{user}.#")
    await rig.core.publish(principal, "home", [Record(b"x", key=b"anna.inbox")])
    with pytest.raises(Denied):
        await rig.core.publish(principal, "home", [Record(b"x", key=b"bert.inbox")])


async def test_every_record_of_a_batch_is_checked(rig: Rig) -> None:
    principal = await key(rig, "k", "publish:t.a")
    with pytest.raises(Denied):
        await rig.core.publish(principal, "t", [Record(b"x", key=b"a"), Record(b"x", key=b"b")])
    with pytest.raises(Denied):
        await rig.core.publish(principal, "t", [Record(b"x")])
    with pytest.raises(NotFound):
        rig.core.topic_info(rig.system, "t")


async def test_names_as_long_as_a_frame_are_neither_kept_nor_shown(rig: Rig) -> None:
    principal = await key(rig, "k", "publish:t.#")
    tracemalloc.start()
    for index in range(50):
        with pytest.raises(Denied) as refused:
            rig.core.calls.require(principal, "x" * 60_000 + str(index))
        assert len(str(refused.value.as_dict())) < 1_000
        with pytest.raises(Denied):
            await rig.core.publish(principal, "t" * 60_000 + str(index), [Record(b"x")])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_000_000


async def test_nothing_is_made_for_who_may_not_have_all_sources(rig: Rig) -> None:
    principal = await key(rig, "k", "subscribe:mine.#")
    settings = SubscriptionSettings(name="s", sources=[Source("mine"), Source("theirs")])
    with pytest.raises(Denied):
        await rig.core.subscriptions.create(principal, settings)
    assert rig.core.topics(rig.system) == []


async def test_a_subscription_belongs_to_its_principal(rig: Rig) -> None:
    owner = await key(rig, "owner", "subscribe:t.#")
    thief = await key(rig, "thief", "subscribe:t.#", "publish:#")
    manager = await key(rig, "manager", "manage:s")
    subscriptions = rig.core.subscriptions
    settings = SubscriptionSettings(name="s", sources=[Source("t")])
    await subscriptions.create(owner, settings)
    await rig.publish("t", "1")
    await rig.quiet()
    for principal, error in ((thief, Denied), (rig.core.access.anonymous, Unauthenticated)):
        for doing in (
            subscriptions.create(principal, settings),
            subscriptions.pull(principal, "s", max=1),
            subscriptions.peek(principal, "s"),
            subscriptions.purge(principal, "s"),
            subscriptions.peek(principal, "s", kind="dead"),
            subscriptions.redrive(principal, "s"),
            subscriptions.reset(principal, "s", Earliest()),
            subscriptions.delete(principal, "s"),
        ):
            with pytest.raises(error):
                await doing
        assert subscriptions.list(principal) == []
    assert [info.name for info in subscriptions.list(owner)] == ["s"]
    assert [info.name for info in subscriptions.list(manager)] == ["s"]
    [delivery] = await subscriptions.pull(owner, "s", max=1)
    with pytest.raises(Denied):
        await subscriptions.ack(thief, "s", [delivery.token])
    await subscriptions.reject(owner, "s", [delivery.token], "no")
    await rig.quiet()
    assert len(await subscriptions.peek(owner, "s", kind="dead")) == 1, "and so do its dead letters"
    assert await subscriptions.redrive(owner, "s") == 1
    await subscriptions.purge(manager, "s")


SETTINGS = SubscriptionSettings(name="new", sources=[Source("t", key="k")])


async def _prepare(rig: Rig) -> None:
    rig.batch = 2
    await rig.publish("t", Record(b"x", key=b"k"), Record(b"y", key=b"k", flags=1))
    await rig.subscribe("s", "t")
    await rig.publish("t", Record(b"z", key=b"k"))
    await rig.core.publish(rig.system, "t", [Record(b"x", id="d")], due=rig.clock.now() + 60_000)
    await rig.quiet()


async def _calling(value: Any) -> Any:
    return value


ACTIONS: dict[str, tuple[str, Do]] = {
    "publish": ("publish:t.k", lambda core, who: core.publish(who, "t", [Record(b"x", key=b"k")])),
    "post": ("publish:t.k", lambda core, who: _later(lambda: core.post(who, "t", [Record(b"x", key=b"k")]))),
    "read": ("subscribe:t.#", lambda core, who: core.read(who, "t", Earliest())),
    "read a key": ("subscribe:t.k", lambda core, who: core.read(who, "t", Earliest(), key="k")),
    "follow": ("subscribe:t.#", lambda core, who: _later(lambda: core.follow(who, "t", Latest(), Reader()))),
    "message": ("subscribe:t.#", lambda core, who: core.message(who, "t", Position(1, 0, 0))),
    "latest": ("subscribe:t.k", lambda core, who: core.latest(who, "t", b"k")),
    "latest_all": ("subscribe:t.#", lambda core, who: core.latest_all(who, "t")),
    "delayed": ("subscribe:t.#", lambda core, who: core.delayed(who, "t")),
    "topic_info": ("subscribe:t.#", lambda core, who: _later(lambda: core.topic_info(who, "t"))),
    "create_topic": ("manage:made", lambda core, who: core.create_topic(who, TopicSettings("made"))),
    "delete_topic": ("manage:t", lambda core, who: core.delete_topic(who, "t")),
    "subscribe": ("subscribe:t.k", lambda core, who: core.subscriptions.create(who, SETTINGS)),
    "consume": ("manage:s", lambda core, who: _later(lambda: core.subscriptions.consume(who, "s", Taker()))),
    "pull": ("manage:s", lambda core, who: core.subscriptions.pull(who, "s", max=1)),
    "peek": ("manage:s", lambda core, who: core.subscriptions.peek(who, "s")),
    "purge": ("manage:s", lambda core, who: core.subscriptions.purge(who, "s")),
    "pause": ("manage:s", lambda core, who: core.subscriptions.pause(who, "s")),
    "reset": ("manage:s", lambda core, who: core.subscriptions.reset(who, "s", Earliest())),
    "info": ("manage:s", lambda core, who: _later(lambda: core.subscriptions.info(who, "s"))),
    "delete": ("manage:s", lambda core, who: core.subscriptions.delete(who, "s")),
    "keys": ("admin:#", lambda core, who: _later(lambda: core.access.keys(who))),
    "create_key": ("admin:#", lambda core, who: core.access.create_key(who, "new", [])),
    "revoke_key": ("admin:#", lambda core, who: core.access.revoke_key(who, "unused")),
}


async def _later(call: Callable[[], Any]) -> Any:
    return call()


@pytest.mark.parametrize("action", ACTIONS)
async def test_every_action_of_the_core_asks(rig: Rig, action: str) -> None:
    needed, do = ACTIONS[action]
    await _prepare(rig)
    await key(rig, "unused", "publish:nothing")
    narrow = [
        "publish:t.other",
        "subscribe:t.other",
        "manage:other",
        "admin:other",
        "call:#",
        f"{needed.split(':')[0]}:x.#",
    ]
    revoked = await key(rig, "revoked", "*:#")
    await rig.core.access.revoke_key(rig.system, "revoked")
    refused = [
        (rig.core.access.anonymous, Unauthenticated),
        (await key(rig, "nothing"), Denied),
        (await key(rig, "narrow", *narrow), Denied),
        (revoked, Denied),
    ]
    before = sorted(topic.name for topic in rig.core.topics(rig.system))
    for principal, error in refused:
        with pytest.raises(error) as caught:
            await do(rig.core, principal)
        assert isinstance(caught.value, PolywireError)
        assert caught.value.hint
    assert sorted(topic.name for topic in rig.core.topics(rig.system)) == before
    await do(rig.core, await key(rig, "enough", needed))


@pytest.mark.parametrize("text", ["publish:a.#", "*:#", "subscribe:a.*.b"])
def test_permissions(text: str) -> None:
    permission = Permission.parse(text)
    assert f"{permission.action}:{permission.pattern}" == text


async def test_a_revoked_long_poll_ends_at_once(rig: Rig) -> None:
    reader = await key(rig, "reader", "subscribe:#")
    puller = await key(rig, "puller", "*:#")
    await rig.publish("t", "x")
    settings = SubscriptionSettings(name="s", sources=[Source("t")])
    await rig.core.subscriptions.create(puller, settings)
    reading = asyncio.ensure_future(rig.core.read(reader, "t", Latest(), wait=60_000))
    pulling = asyncio.ensure_future(rig.core.subscriptions.pull(puller, "s", max=1, wait=60_000))
    await until(lambda: rig.core.log.by_id[1].waiting)
    for name, polling in (("reader", reading), ("puller", pulling)):
        assert not polling.done()
        await rig.core.access.revoke_key(rig.system, name)
        with pytest.raises(Denied):
            await asyncio.wait_for(polling, 5)
    assert not rig.core.log.by_id[1].waiting
    assert not reader._watchers
    assert not puller._watchers


async def test_a_long_poll_that_may_still_read_waits_on(rig: Rig) -> None:
    reader = await key(rig, "reader", "subscribe:t.#", "publish:t")
    await rig.publish("t", "x")
    reading = asyncio.ensure_future(rig.core.read(reader, "t", Latest(), wait=60_000))
    await until(lambda: rig.core.log.by_id[1].waiting)
    reader.narrow([Permission.parse("subscribe:t.#")])
    await until(lambda: reader._watchers)
    assert not reading.done()
    await rig.publish("t", "y")
    assert [message.record.payload for message in (await asyncio.wait_for(reading, 5)).messages] == [b"y"]


async def test_anonymous_long_polls_end_when_the_first_key_closes_the_hub(rig: Rig) -> None:
    await rig.publish("t", "x")
    reading = asyncio.ensure_future(rig.core.read(rig.core.access.anonymous, "t", Latest(), wait=60_000))
    await until(lambda: rig.core.log.by_id[1].waiting)
    await key(rig, "first", "*:#")
    with pytest.raises(Unauthenticated):
        await asyncio.wait_for(reading, 5)


async def test_patterns_leave_out_the_hubs_own_topics(rig: Rig) -> None:
    rig.core.event("something")
    await rig.publish("_other", "x", key="my:chat")
    await rig.quiet()
    everywhere = await key(rig, "everywhere", "subscribe:#", "subscribe:*.something", "publish:#")
    named = await key(rig, "named", "subscribe:_events.something", "subscribe:#")
    for principal in (everywhere, named):
        with pytest.raises(Denied):
            await rig.core.read(principal, "_events", Earliest())
        assert len((await rig.core.read(principal, "_other", Earliest())).messages) == 1
        assert [topic.name for topic in rig.core.topics(principal)] == ["_other"]
    with pytest.raises(Denied):
        await rig.core.read(everywhere, "_events", Earliest(), key="something")
    assert len((await rig.core.read(named, "_events", Earliest(), key="something")).messages) == 1
    for allow in ("*:#", "subscribe:_events.#"):
        may = await key(rig, f"may {allow[0]}", allow)
        assert len((await rig.core.read(may, "_events", Earliest())).messages) == 1
        assert "_events" in [topic.name for topic in rig.core.topics(may)]


async def test_who_may_publish_nothing_to_a_topic_is_told_before_a_body_is_read(rig: Rig) -> None:
    require = rig.core.require_publisher
    require(rig.core.access.anonymous, "t")
    some = await key(rig, "some", "publish:t.k", "subscribe:x.#")
    require(some, "t")
    for topic in ("x", "t.k.x"):
        with pytest.raises(Denied):
            require(some, topic)
    with pytest.raises(Unauthenticated):
        require(rig.core.access.anonymous, "t")
    await rig.core.access.revoke_key(rig.system, "some")
    with pytest.raises(Denied):
        require(some, "t")


async def test_whether_one_may_subscribe_can_be_asked(rig: Rig) -> None:
    reader = await key(rig, "reader", "subscribe:t", "subscribe:t.a.#")
    require = rig.core.require_subscriber
    require(reader, "t", "a.*")
    require(reader, "t", keyless=True)
    for topic, pattern in (("t", None), ("t", "b"), ("t", "#"), ("t", ""), ("u", "a")):
        with pytest.raises(Denied):
            require(reader, topic, pattern)
    with pytest.raises(Unauthenticated):
        require(rig.core.access.anonymous, "t")
    with pytest.raises(TooLarge):
        require(rig.system, "t", "x" * 2_000)
    assert rig.core.topics(rig.system) == []
    await rig.core.drain()
    with pytest.raises(Unavailable):
        require(reader, "t", "a.b")


async def test_so_many_keys_there_are(make: Make) -> None:
    rig = await make(Limits(api_keys=3))
    create = rig.core.access.create_key
    for number in range(3):
        await create(rig.system, f"k{number}", ["publish:#"])
    for number in range(3, 30):
        with pytest.raises(LimitExceeded):
            await create(rig.system, f"k{number}", ["publish:#"])
    await rig.core.access.revoke_key(rig.system, "k0")
    with pytest.raises(TooLarge):
        await create(rig.system, "wide", ["publish:#"] * 10_000)
    await create(rig.system, "again", ["publish:#"])
