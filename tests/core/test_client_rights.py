"""Permissions with ``{client}``: the rights of one client of a principal."""

from __future__ import annotations

import gc
import weakref

import pytest

from polywire.core.access import Action, Permission, Principal
from polywire.core.errors import Denied
from polywire.core.message import Record
from polywire.core.routing import Source
from polywire.core.streams import Latest
from polywire.core.subscription import SubscriptionSettings
from tests.core.harness import Reader, Rig, Taker
from tests.core.test_access import key

NOT_PLAIN = ("", "#", "*", "+", "a.b", "a.#", "a.*", "a/b", "/", "..", "a+b", "#a", "one.two.#", "x/#")
PLAIN = ("{client}", "{user}", "\n")
OTHER_NAMES = [
    *("", "#", "*", "*.#", "a", "a.b", "t.k", "x", "x.y", "fleet", "fleet.x", "devices", "devices.#", "devices.a"),
    *("devices.a.b", "devices.a.b.c", "devices.fleet", "devices.one.two.x", "devices.x.y"),
]


async def test_a_permission_of_clients_means_the_client_that_asks(rig: Rig) -> None:
    whole = await key(rig, "fleet", "*:devices.{client}.#", "publish:{user}.{client}", "subscribe:news.#")
    one, two = whole.of_client("one"), whole.of_client("two")
    assert (one.name, one.kind) == ("fleet", "key")
    for client, other in ((one, "two"), (two, "one")):
        mine = "two" if other == "one" else "one"
        assert client.allows(Action.PUBLISH, f"devices.{mine}.temp")
        assert client.allows(Action.SUBSCRIBE, f"devices.{mine}.#")
        assert client.allows(Action.PUBLISH, f"fleet.{mine}")
        assert client.allows(Action.SUBSCRIBE, "news.today")
        assert client.allows_some_of(Action.PUBLISH, "devices")
        for denied in (f"devices.{other}.temp", "devices.#", "devices.*.temp", f"devices.{mine}x", f"fleet.{other}"):
            assert not client.allows(Action.PUBLISH, denied)
            assert not client.allows(Action.SUBSCRIBE, denied)
    # Who comes by no client at all has none of these rights, by any name.
    for name in ("devices.one.temp", "devices.{client}.temp", "fleet.{client}"):
        assert not whole.allows(Action.PUBLISH, name)
    assert not whole.allows_some_of(Action.PUBLISH, "fleet")
    assert whole.allows(Action.SUBSCRIBE, "news.today")


@pytest.mark.parametrize("client_id", [*NOT_PLAIN, *PLAIN])
@pytest.mark.parametrize(
    "pattern", ["{client}.#", "{client}", "devices.{client}.#", "devices.#.{client}", "x{client}.#", "devices.{client}"]
)
def test_no_client_id_widens_a_right(client_id: str, pattern: str) -> None:
    """Whatever a client calls itself: it gets what a client of a plain name gets, or nothing."""
    seen = Principal("fleet", "key", [Permission.parse(f"*:{pattern}")]).of_client(client_id)
    for name in OTHER_NAMES:
        for action in (Action.PUBLISH, Action.SUBSCRIBE, Action.MANAGE):
            assert not seen.allows(action, name), (action, name)
    mine = pattern.replace("{client}", client_id).replace(".#", "")
    assert seen.allows(Action.PUBLISH, mine) is (client_id in PLAIN)


@pytest.mark.parametrize("client_id", ["_dead", "_events", "_other", "_jobs", "default", "operations"])
async def test_a_client_named_like_a_reserved_topic_has_no_right_to_it(rig: Rig, client_id: str) -> None:
    seen = (await key(rig, "fleet", "*:{client}.#", "subscribe:devices.{client}")).of_client(client_id)
    for action in (Action.PUBLISH, Action.SUBSCRIBE):
        assert not seen.allows(action, f"{client_id}.x")
        assert not seen.allows(action, f"{client_id}.#")
        assert not seen.allows_some_of(action, client_id)
    assert seen.allows(Action.SUBSCRIBE, f"devices.{client_id}")
    users = await key(rig, client_id, "subscribe:{user}.#")
    assert not users.allows(Action.SUBSCRIBE, f"{client_id}.x")


async def test_it_costs_nothing_where_no_permission_asks(rig: Rig) -> None:
    whole = await key(rig, "plain", "publish:t.#", "subscribe:{user}.#")
    assert whole.of_client("one") is whole
    assert rig.core.access.anonymous.of_client("one") is rig.core.access.anonymous
    assert rig.system.of_client("one") is rig.system


async def test_revocation_reaches_each_client(rig: Rig) -> None:
    whole = await key(rig, "fleet", "subscribe:devices.{client}.#", "publish:devices.{client}.#")
    clients = {name: whole.of_client(name) for name in ("one", "two")}
    readers = {name: Reader() for name in clients}
    await rig.publish("devices", "x")
    for name, client in clients.items():
        rig.core.follow(client, "devices", Latest(), readers[name], key=f"{name}.#")
    settings = SubscriptionSettings(name="s", sources=[Source("devices", key="one.#")])
    await rig.core.subscriptions.create(clients["one"], settings)
    taker = Taker()
    rig.core.subscriptions.consume(clients["one"], "s", taker)
    await rig.core.publish(clients["one"], "devices", [Record(b"1", key=b"one.a")])
    await taker.wait(1)
    assert await readers["one"].wait(1) == [b"1"]
    assert readers["two"].got == []
    await rig.core.access.revoke_key(rig.system, "fleet")
    for name, client in clients.items():
        assert isinstance(readers[name].why, Denied)
        assert (client.active, client.powerless) == (False, True)
        with pytest.raises(Denied):
            await rig.core.publish(client, "devices", [Record(b"2", key=f"{name}.a".encode())])
    assert isinstance(taker.why, Denied)
    assert not whole._watchers


async def test_clients_that_are_gone_are_forgotten(rig: Rig) -> None:
    whole = await key(rig, "fleet", "*:devices.{client}.#")
    seen = [weakref.ref(whole.of_client(f"c{number}")) for number in range(100)]
    gc.collect()
    assert not any(one() for one in seen)


async def test_a_clients_decisions_are_bounded(rig: Rig) -> None:
    seen = (await key(rig, "fleet", "*:devices.{client}.#")).of_client("one")
    for number in range(10_000):
        assert not seen.allows(Action.PUBLISH, f"devices.{number}")
    assert len(seen._decisions) <= 256
