"""Who may do what over MQTT, beyond the matrix of tests/test_access.py: codes, client ids, wildcards, revocation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from polywire import Hub
from polywire.serving import ServeSettings
from tests.wires.mqtt.guarding import Guarded, guarded
from tests.wires.mqtt.paho_client import PahoClient
from tests.wires.mqtt.raw_client import (
    DISCONNECT,
    PUBACK,
    RawClient,
    connect,
    ping,
    properties_of,
    publish,
    subscribe,
    will,
)
from tests.wires.served_hub import serving_hub

BAD_LOGIN, NOT_AUTHORIZED, TAKEN_OVER = 0x86, 0x87, 0x8E
LASTING = {"clean": False, "connecting": {"SessionExpiryInterval": 1_000}}
LASTING_RAW = {"clean": False, "properties": b"\x11\x00\x00\x03\xe8"}


def application(**settings: Any) -> Hub:
    hub = Hub("guarded", **settings)

    @hub.operation(name="sums.add")
    def add(a: int, b: int) -> int:
        return a + b

    return hub


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Guarded]:
    with serving_hub(application(), tmp_path) as served:
        yield from guarded(served)


# --- logging in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "bad", "none"), [(3, 4, 5), (4, 4, 5), (5, BAD_LOGIN, NOT_AUTHORIZED)])
def test_codes_of_a_login(at: Guarded, level: int, bad: int, none: int) -> None:
    key = at.key("ann", "publish:#")
    for wrong in (key[:-4] + "AAAA", "nonsense", "pw_", "", "x" * 60_000, "ü\ud7ff"):
        assert at.refused(("ann", wrong), level) == bad, wrong[:20]
    assert at.refused(None, level) == none
    at.revoke("ann")
    assert at.refused(("ann", key), level) == bad


def test_a_refusal_says_what_to_do(at: Guarded) -> None:
    at.key("ann", "publish:#")
    client = RawClient("127.0.0.1", at.port, 5)
    at.opened.append(client)
    answer = client.connect("x")
    assert b"as the password" in properties_of(answer.body, 2)[0][0x1F][0]


def test_the_key_may_be_the_user_name(at: Guarded) -> None:
    """For clients and devices that have but one field."""
    key = at.key("ann", "publish:#")
    client = PahoClient("127.0.0.1", at.port)
    at.opened.append(client)
    client.client.username_pw_set(key)
    assert client.connect().reason == 0
    assert client.publish("t", b"x") == 0
    assert at.refused((key, "wrong")) == BAD_LOGIN  # where there is a password, that counts


def test_an_open_hub_welcomes_any_credentials(at: Guarded) -> None:
    at.keys["tutorial"] = "a password of its own"
    for who in ("tutorial", None):
        for level in (3, 4, 5):
            client = at.paho(who, level=level)
            assert client.publish("t", b"x") == 0


def test_with_the_first_key_the_hub_is_open_no_more(at: Guarded) -> None:
    client, old = at.raw(None, "new"), at.raw(None, "old", 4)
    client.subscribe(("t", 1))
    at.key("ann", "publish:#")
    (end,) = client.rest()
    assert (end.kind, end.body[0]) == (DISCONNECT, NOT_AUTHORIZED)
    assert old.rest() == []
    assert at.refused(None) == NOT_AUTHORIZED
    assert at.refused(("any", "credentials")) == BAD_LOGIN


def test_a_device_keeps_its_id_when_keys_come(at: Guarded) -> None:
    """What it left while the hub was open belongs to nobody: it begins anew, and reads nothing of it."""
    device = at.paho(None, "device-1", **LASTING)
    device.subscribe("t/#", qos=1)
    at.key("device", "subscribe:u.#")
    device.disconnected()
    device.close()
    again = at.paho("device", "device-1", connects=False, **LASTING)
    connack = again.connect()
    assert (connack.reason, connack.session_present) == (0, False)
    assert again.payloads("u", at.paho("writer") if at.key("writer", "publish:u.#") else None) == []


@pytest.fixture
def half_open(tmp_path: Path) -> Iterator[Guarded]:
    hub = application(anonymous_allow=["publish:public.#", "subscribe:public.#", "call:sums.add"])
    with serving_hub(hub, tmp_path) as served:
        yield from guarded(served)


def test_what_anonymous_is_granted(half_open: Guarded) -> None:
    at = half_open
    at.key("ann", "publish:#", "subscribe:#")
    client = at.paho(None)
    assert client.subscribe("public/#", "secret/#", "#", qos=1) == [1, NOT_AUTHORIZED, NOT_AUTHORIZED]
    assert client.publish("public/a", b"x") == 0
    assert client.publish("secret/a", b"x") == NOT_AUTHORIZED
    assert client.publish("operations/sums.add", b'{"a": 1, "b": 2}') == 0
    assert client.next().payload == b"x"
    assert at.refused(("any", "credentials")) == BAD_LOGIN  # who says who he is must be right


def test_anonymous_connections_keep_what_is_granted(half_open: Guarded) -> None:
    """When the first key is made, what is not granted goes; the connection stays."""
    at = half_open
    client = at.paho(None, "viewer")
    client.subscribe("public/#", "secret/#", "#", "$SYS/broker/uptime", qos=1)
    client.next()  # the uptime, at once
    at.key("ann", "publish:#")
    ann = at.paho("ann")
    for topic in ("secret/a", "public/a", "other/a"):
        ann.publish(topic, topic)
    at.served.call(at.served.served.clock.advance, "1m")
    assert client.next().payload == b"public/a"
    ann.publish("public/end", b"end")
    assert client.next().payload == b"end"
    assert client.publish("secret/a", b"x") == NOT_AUTHORIZED


def test_a_lasting_session_of_anonymous_that_may_read_less_now(half_open: Guarded) -> None:
    """It ends, with all that was queued for it; what is granted can be subscribed to again."""
    at = half_open
    client = at.paho(None, "viewer", **LASTING)
    client.subscribe("public/#", "secret/#", qos=1)
    client.disconnect()
    at.key("ann", "publish:#")
    ann = at.paho("ann")
    ann.publish("secret/a", b"no")
    again = at.paho(None, "viewer", **LASTING)
    assert again.disconnected() == (True, 0x98)
    again.close()
    again = at.paho(None, "viewer", connects=False, **LASTING)
    assert not again.connect().session_present
    assert again.subscribe("public/#", "secret/#", qos=1) == [1, NOT_AUTHORIZED]
    ann.publish("secret/a", b"no")
    ann.publish("public/a", b"yes")
    assert again.next().payload == b"yes"


# --- over WebSocket --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def upgraded(at: Guarded, query: str = "", **headers: str) -> Iterator[websocket.WebSocket]:
    url = f"{at.served.served.ws_url}/mqtt{query}"
    socket = websocket.create_connection(url, subprotocols=["mqtt"], header=headers, timeout=10)
    try:
        yield socket
    finally:
        socket.shutdown()


def answers(socket: websocket.WebSocket, *packets: bytes) -> list[bytes]:
    """To each of these, in order."""
    found = []
    for packet in packets:
        socket.send_binary(packet)
        found.append(socket.recv())
    return found


def test_who_asked_for_the_websocket_need_not_say_it_again(at: Guarded) -> None:
    key = at.key("ann", "publish:t.#")
    other = at.key("other", "publish:u.#")
    tries = (publish("t/a", b"x", 1, 1, level=5), publish("u/a", b"x", 1, 2, level=5))
    for query, headers in ((f"?api_key={key}", {}), ("", {"Authorization": f"Bearer {key}"}), ("", {"X-API-Key": key})):
        with upgraded(at, query, **headers) as socket:
            connack, allowed, denied = answers(socket, connect("ws", 5), *tries)
            assert (connack[3], allowed[1], denied[4]) == (0, 2, NOT_AUTHORIZED)
    with upgraded(at, Authorization=f"Bearer {key}") as socket:  # what CONNECT says counts
        connack, denied, allowed = answers(socket, connect("ws", 5, login=("other", other)), *tries)
        assert (connack[3], denied[4], allowed[1]) == (0, NOT_AUTHORIZED, 2)
        with upgraded(at) as nobody:
            assert answers(nobody, connect("nobody", 5))[0][3] == NOT_AUTHORIZED
    asking = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "mqtt",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for wrong in ({"Authorization": "Bearer nonsense"}, {"X-API-Key": key[:-4] + "AAAA"}):
        assert at.served.get("/mqtt", headers=asking | wrong).status_code == 401


@pytest.mark.parametrize("by", ["upgrade", "CONNECT"])
def test_revocation_reaches_websockets(at: Guarded, by: str) -> None:
    key = at.key("ann", "publish:t.#")
    headers, login = ({"X-API-Key": key}, None) if by == "upgrade" else ({}, ("ann", key))
    with upgraded(at, **headers) as socket:
        assert answers(socket, connect("ws", 5, login=login))[0][3] == 0
        at.revoke("ann")
        end = socket.recv()
        assert (end[0] >> 4, end[2]) == (DISCONNECT, NOT_AUTHORIZED)
        assert socket.recv() == ""  # closed
    at.until_gone()


# --- {client} --------------------------------------------------------------------------------------------------------


def test_rights_of_a_client_id(at: Guarded) -> None:
    at.key("fleet", "publish:devices.{client}.#", "subscribe:commands.{client}.#", "publish:log.{user}")
    for client_id, other in (("one", "two"), ("two", "one")):
        client = at.paho("fleet", client_id, **LASTING)
        assert client.publish(f"devices/{client_id}/temperature", b"1") == 0
        assert client.publish(f"devices/{other}/temperature", b"1") == NOT_AUTHORIZED
        assert client.subscribe(f"commands/{client_id}/#", qos=1) == [1]
        for wanted in (f"commands/{other}/#", "commands/#", "commands/+/reboot", "#", "+/one/#", "+/+/#"):
            assert client.subscribe(wanted, qos=1) == [NOT_AUTHORIZED], wanted
        assert client.publish("log/fleet", b"1") == 0
    dying = at.paho("fleet", "three", connects=False).will("devices/three/gone", b"x")
    assert dying.connect().reason == 0
    wrong = will("devices/one/gone", b"x", level=5)
    assert at.refused(at.login("fleet"), client_id="four", last_will=wrong) == NOT_AUTHORIZED


@pytest.mark.parametrize("client_id", ["#", "*", "+", "a.b", "a/b", "one.#", "*.#", ""], ids=repr)
def test_an_id_is_no_pattern(at: Guarded, client_id: str) -> None:
    """A client chooses its id, and must not choose its rights."""
    at.key("fleet", "publish:devices.{client}.#", "subscribe:commands.{client}.#")
    client = at.paho("fleet", client_id)
    for topic in ("devices/one/x", "devices/a/b/x", "devices/a.b/x", f"devices/{client_id.replace('#', 'x')}/x"):
        if "+" not in topic:
            assert client.publish(topic, b"x") == NOT_AUTHORIZED, topic
    for wanted in ("commands/one/x", "commands/#", "commands/a/b/#"):
        assert client.subscribe(wanted, qos=1) == [NOT_AUTHORIZED], wanted


def test_connections_of_a_principal_are_counted_together(tmp_path: Path) -> None:
    settings = ServeSettings()
    settings = ServeSettings(mqtt=settings.mqtt.replace(max_connections_per_principal=3))
    with serving_hub(application(), tmp_path, settings) as served:
        for at in guarded(served):
            at.key("fleet", "publish:devices.{client}.#")
            at.key("other", "publish:#")
            clients = [at.raw("fleet", f"c{number}") for number in range(3)]
            assert at.refused(at.login("fleet"), client_id="c3") == 0x97
            assert at.refused(at.login("fleet"), 4, client_id="c3") == 3
            at.raw("other", "o")
            clients[0].close()
            at.until_gone(3)
            at.raw("fleet", "c3")


# --- wildcards -------------------------------------------------------------------------------------------------------

WIDE = (
    "#",
    "+/#",
    "+",
    "+/x",
    "+/+",
    "secret/#",
    "secret/+",
    "secret",
    "/#",
    "/secret",
    "readings/../secret",
    "$SYS/#",
)


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("lasting", [False, True], ids=["live", "lasting"])
def test_nobody_reads_by_wildcards_what_he_may_not(at: Guarded, level: int, lasting: bool) -> None:
    at.key("narrow", "subscribe:readings.x.#", "publish:readings.#")
    at.key("writer", "publish:#")
    options = {"clean": not lasting} | (
        {"connecting": {"SessionExpiryInterval": 100}} if lasting and level == 5 else {}
    )
    client = at.paho("narrow", "narrow", level=level, **options)
    no = NOT_AUTHORIZED if level == 5 else 0x80
    for wanted in (*WIDE, "readings/#", "readings/+"):
        for qos in (0, 1):
            assert client.subscribe(wanted, qos=qos) == [no], wanted
            assert client.subscribe(f"$share/group/{wanted}", qos=qos) in ([no], [0x8F]), wanted
    assert client.subscribe("readings/x/#", qos=1) == [1]
    writer = at.paho("writer")
    for topic in ("secret", "secret/x", "x/x", "readings/y", "readings", "/secret", "readings/x/yes"):
        writer.publish(topic, topic, retain=True)
    writer.publish("readings/x", b"end")
    assert [client.next().payload for _ in range(2)] == [b"readings/x/yes", b"end"]
    again = at.paho("narrow", "other")
    again.subscribe("#", "readings/#", "readings/x/#", qos=1)
    assert again.next().payload == b"readings/x/yes"  # retained
    writer.publish("readings/x", b"end")
    assert again.next().payload == b"end"


def test_what_was_refused_leaves_nothing_behind(at: Guarded) -> None:
    """A lasting subscription needs more than a live one where the topic is a wildcard, since topics have dots."""
    at.key("narrow", "subscribe:*.x")
    at.key("writer", "publish:#")
    client, writer = at.paho("narrow", "narrow", **LASTING), at.paho("writer")
    assert client.subscribe("+/x", qos=1) == [NOT_AUTHORIZED]
    writer.publish("t/x", b"not yet")
    assert client.subscribe("+/x", qos=0) == [0]
    writer.publish("t/x", b"first")
    assert client.next().payload == b"first"
    assert client.subscribe("+/x", qos=1) == [NOT_AUTHORIZED]
    writer.publish("t/x", b"second")  # it has what it had
    assert (client.next().payload, client.messages.empty()) == (b"second", True)


def test_nobody_owns_a_share_that_he_may_not_read(at: Guarded) -> None:
    at.key("spy", "subscribe:own.#")
    at.key("reader", "subscribe:secret.#")
    assert at.paho("spy").subscribe("$share/team/secret/#", qos=1) == [NOT_AUTHORIZED]
    assert at.paho("reader").subscribe("$share/team/secret/#", qos=1) == [1]


def test_who_may_not_read_makes_no_topic(at: Guarded) -> None:
    at.key("narrow", "subscribe:readings.#")
    client = at.paho("narrow")
    assert client.subscribe("fresh/#", "$share/g/fresh2/#", qos=1) == [NOT_AUTHORIZED] * 2
    assert client.publish("fresh3/x", b"x") == NOT_AUTHORIZED
    names = {topic.name for topic in at.served.call(at.core.topics, at.core.access.system)}
    assert not {name for name in names if name.startswith("fresh")}


def test_the_hubs_own_topics_are_nobodys(at: Guarded) -> None:
    key = at.key("all", "*:#")
    client = at.paho("all")
    filters = ("#", "+/#", "_jobs/#", "_dead/#", "_events/#", "_other/#")
    assert client.subscribe(*filters, qos=1) == [1] * len(filters)
    headers = {"Authorization": f"Bearer {key}", "Prefer": "respond-async", "Idempotency-Key": "k"}
    answer = at.served.post("/operations/sums.add", json={"a": 1, "b": 2}, headers=headers)
    assert answer.status_code == 202
    assert client.payloads("fence") == []


def test_figures_of_the_hub(at: Guarded) -> None:
    at.key("narrow", "subscribe:readings.#")
    at.key("watch", "subscribe:$SYS.#")
    assert at.paho("narrow").subscribe("$SYS/broker/version", "$SYS/#", "#") == [NOT_AUTHORIZED] * 3
    client = at.paho("watch")
    assert client.subscribe("$SYS/#") == [0]
    assert client.next().topic.startswith("$SYS/broker/")


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_needs_the_right_and_its_reply_too(at: Guarded) -> None:
    at.key("caller", "call:sums.add")
    at.key("answered", "call:sums.#", "publish:answers.me", "subscribe:answers.me")
    at.key("other", "call:other", "publish:#", "subscribe:#")
    arguments = b'{"a": 1, "b": 2}'
    counters = at.core.calls.get("sums.add").counters  # type: ignore[union-attr]
    other = at.paho("other")
    assert other.publish("operations/sums.add", arguments) == NOT_AUTHORIZED
    assert other.publish("operations/sums.add", b"{") == NOT_AUTHORIZED  # nothing of it is read
    assert other.publish("operations/unknown", b"{") == NOT_AUTHORIZED
    assert at.paho("caller").publish("operations/sums.add", arguments, ResponseTopic="answers/me") == NOT_AUTHORIZED
    assert counters.calls == 0
    answered = at.paho("answered")
    answered.subscribe("answers/me")
    assert answered.publish("operations/sums.add", arguments, ResponseTopic="answers/you") == NOT_AUTHORIZED
    assert counters.calls == 0
    assert answered.publish("operations/sums.add", arguments, ResponseTopic="answers/me") == 0
    assert answered.next().payload == b"3"


# --- sessions and shares of others -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "code"), [(3, 5), (4, 5), (5, NOT_AUTHORIZED)])
def test_a_client_id_is_its_principals(at: Guarded, level: int, code: int) -> None:
    at.key("ann", "subscribe:t.#")
    at.key("bob", "subscribe:#", "publish:#")
    at.key("boss", "manage:device", "subscribe:#")
    device = at.paho("ann", "device", **LASTING)
    device.subscribe("t/#", qos=1)
    assert at.refused(at.login("bob"), level, client_id="device", clean=True) == code
    assert at.refused(at.login("bob"), level, client_id="device", clean=False) == code
    assert device.client.is_connected()
    at.paho("bob").publish("t/a", b"1")
    assert device.next().payload == b"1"
    queue = at.core.subscriptions.find("device", "session")
    assert queue is not None
    at.served.until(lambda: queue.pending.count == 0)
    boss = at.paho("boss", "device", **LASTING)
    assert device.disconnected() == (True, TAKEN_OVER)
    at.paho("bob").publish("t/a", b"2")
    assert boss.next().payload == b"2"


def test_a_share_is_its_principals(at: Guarded) -> None:
    at.key("ann", "subscribe:t.#")
    at.key("bob", "subscribe:t.#", "publish:t.#")
    at.key("boss", "subscribe:t.#", "manage:team/t/#")
    share = "$share/team/t/#"
    ann = at.paho("ann")
    assert ann.subscribe(share, qos=1) == [1]
    bob = at.paho("bob", "bob", **LASTING)
    assert bob.subscribe(share, qos=1) == [NOT_AUTHORIZED]
    assert at.paho("boss").subscribe(share, qos=1) == [1]
    bob.cut()
    assert at.paho("bob", "bob", **LASTING).subscribe("t/#", qos=1) == [1]  # what was refused is not resumed


# --- revocation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
@pytest.mark.parametrize("level", [4, 5])
def test_revocation_ends_connections(at: Guarded, level: int, transport: str) -> None:
    at.key("ann", "subscribe:#", "publish:#")
    at.key("bob", "publish:#")
    client, bob = at.paho("ann", level=level, transport=transport), at.paho("bob")
    client.subscribe("t/#", "$share/g/t/#", "$SYS/broker/version", qos=1)
    assert client.next().topic == "$SYS/broker/version"
    at.revoke("ann")
    told, code = client.disconnected()
    assert (told, code) == (True, NOT_AUTHORIZED) if level == 5 else not told
    bob.publish("t/a", b"x")
    assert client.messages.empty()
    assert at.core.live.metrics()["live_readers"] == 0
    assert at.served.call(lambda: [s for s in at.core.subscriptions if s.settings.kind == "share"]) == []


def test_what_a_revoked_client_still_sends_is_not_published(at: Guarded) -> None:
    """Everything that was acknowledged is there, and nothing else."""
    at.key("ann", "publish:#")
    client = at.raw("ann", "ann")
    client.send(*[publish("t", b"%d" % number, 1, number, level=5) for number in range(1, 51)])
    for _ in range(50):
        assert client.expect(PUBACK)
    at.revoke("ann")
    with contextlib.suppress(OSError):
        client.send(*[publish("t", b"late", 1, number, level=5) for number in range(1, 51)])
    assert [packet.kind for packet in client.rest()] in ([DISCONNECT], [])
    assert at.payloads("t") == [str(number) for number in range(1, 51)]


@pytest.mark.parametrize("delay", [0, 5])
@pytest.mark.parametrize("level", [4, 5])
def test_the_will_of_a_revoked_key_is_not_published(at: Guarded, level: int, delay: int) -> None:
    at.key("ann", "publish:#")
    at.key("bob", "subscribe:#", "publish:#")
    bob = at.paho("bob")
    bob.subscribe("#", qos=1)
    values = {"WillDelayInterval": delay} if level == 5 else {}
    dying = at.paho("ann", "ann", connects=False, level=level, **({} if level == 4 else LASTING))
    dying.will("wills/ann", b"gone", 1, **values).connect()
    at.revoke("ann")
    dying.disconnected()
    at.served.call(at.served.served.clock.advance, "1m")
    assert bob.payloads("fence") == []


def test_a_will_that_waits_is_not_published_after_revocation(at: Guarded) -> None:
    at.key("ann", "publish:#")
    at.key("bob", "subscribe:#", "publish:#")
    bob = at.paho("bob")
    bob.subscribe("#", qos=1)
    dying = at.paho("ann", "ann", connects=False, **LASTING).will("wills/ann", b"gone", 1, WillDelayInterval=10)
    dying.connect()
    dying.cut()
    at.revoke("ann")
    at.served.call(at.served.served.clock.advance, "1m")
    assert bob.payloads("fence") == []


def test_a_new_key_of_the_name_has_what_was_its_own(at: Guarded) -> None:
    at.key("ann", "subscribe:t.#", "publish:t.#")
    at.key("bob", "publish:#", "subscribe:#")
    ann = at.paho("ann", "device", **LASTING)
    ann.subscribe("t/#", qos=1)
    at.revoke("ann")
    ann.disconnected()
    at.paho("bob").publish("t/a", b"meanwhile")
    assert at.refused(at.login("bob"), client_id="device") == NOT_AUTHORIZED
    at.key("ann", "subscribe:t.#")
    again = at.paho("ann", "device", connects=False, **LASTING)
    assert again.connect().session_present
    assert again.next().payload == b"meanwhile"


def test_a_call_of_a_revoked_client(at: Guarded) -> None:
    at.key("ann", "call:#")
    client = at.raw("ann", "ann")
    at.revoke("ann")
    with contextlib.suppress(OSError):
        client.publish("operations/sums.add", b'{"a": 1, "b": 2}', 1, 1)
    assert PUBACK not in [packet.kind for packet in client.rest()]
    assert at.core.calls.get("sums.add").counters.calls == 0  # type: ignore[union-attr]


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_in_a_log(at: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """Nor in what clients are told."""
    caplog.set_level(logging.DEBUG)
    at.key("ann", "publish:t.#", "subscribe:t.#")
    secrets = [at.keys["ann"], at.keys["ann"][:-4] + "AAAA", "a-password-of-its-own"]
    told = b""
    for level in (3, 4, 5):
        for number, secret in enumerate(secrets):
            client = RawClient("127.0.0.1", at.port, level)
            at.opened.append(client)
            last = will("t/gone", b"x", level=level)
            client.send(
                connect(f"id-{number}", level, login=(secret, secret), last_will=last),
                publish("t/a", b"x", 1, 1, level=level),
                publish("secret", b"x", 1, 2, level=level),
                subscribe(1, ("#", 1), ("t/#", 1), level=level),
                ping(),
                b"\xff\xff",
            )
            told += b"".join(packet.body for packet in client.rest())
    at.revoke("ann")
    at.until_gone()
    said = "\n".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records)
    assert "broke the protocol" in said
    for secret in secrets:
        assert secret.rpartition("_")[2] not in said
        assert secret.encode() not in told
