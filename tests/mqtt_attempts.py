"""What a client may try over MQTT, for tests/test_access.py: each attempt returns a status as HTTP would have it."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from polywire import Hub
from tests.wires.mqtt.raw_client import (
    CONNACK,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    SUBACK,
    Packet,
    RawClient,
    acknowledge,
    connect,
    ping,
    publish,
    string,
    subscribe,
    will,
)

__all__ = ["ATTEMPTS", "MqttAttempt", "leave_session", "may_connect"]

Credentials = dict[str, str]
MqttAttempt = Callable[[Hub, str, int, Credentials], Awaitable[int]]
"""``(hub, WebSocket's URL, port, credentials)``, as HTTP's headers have them."""

_ids = itertools.count()
_BAD_LOGIN = (4, 0x86)
ADD = b'{"a": 1, "b": 2}'
LASTING = b"\x11\x00\x00\x00\x64"
"""Session Expiry Interval."""


class Refused(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


def key_of(credentials: Credentials) -> str | None:
    if "X-API-Key" in credentials:
        return credentials["X-API-Key"]
    scheme, _, value = credentials.get("Authorization", "").partition(" ")
    return base64.b64decode(value).decode().partition(":")[2] if scheme == "Basic" else value or None


def login_of(credentials: Credentials) -> tuple[str, str] | None:
    key = key_of(credentials)
    return None if key is None else ("anybody", key)


def _mind(connack: Packet, credentials: Credentials) -> None:
    """Raises `Refused`. Who gave no key is told the same as who may not; what that means is plain here."""
    code = connack.body[1]
    if code:
        raise Refused(401 if code in _BAD_LOGIN or key_of(credentials) is None else 403)


def connected(port: int, level: int, credentials: Credentials, client_id: str = "", **options: Any) -> RawClient:
    """Raises `Refused`."""
    client = RawClient("127.0.0.1", port, level)
    client_id = client_id or f"tried-{next(_ids)}"
    try:
        _mind(client.connect(client_id, login=login_of(credentials), **options), credentials)
    except BaseException:
        client.close()
        raise
    return client


def until_pinged(client: RawClient) -> list[Packet]:
    """What was said before a ping is answered: all that was sent has been looked at by then."""
    client.send(ping())
    found: list[Packet] = []
    while (packet := client.packet()) is not None and packet.kind != PINGRESP:
        found.append(packet)
    return found


def reason(packet: Packet) -> int:
    return packet.body[2] if len(packet.body) > 2 else 0


async def _tried(attempt: Callable[[], int]) -> int:
    try:
        return await asyncio.to_thread(attempt)
    except Refused as refused:
        return refused.status


async def _stored(hub: Hub, attempt: Callable[[], object]) -> int:
    """201 where the topic has more afterwards: at most levels nobody says that a publish is refused."""
    core = hub.core
    before = core.topic_info(core.access.system, "readings").next
    try:
        await asyncio.to_thread(attempt)
    except Refused as refused:
        return refused.status
    await core.log.published()
    return 201 if core.topic_info(core.access.system, "readings").next > before else 403


# --- publish ---------------------------------------------------------------------------------------------------------


def publishes(level: int, qos: int, *, retain: bool = False) -> MqttAttempt:
    async def attempt(hub: Hub, url: str, port: int, credentials: Credentials) -> int:
        return await _stored(hub, lambda: _publish(port, level, qos, retain, credentials))

    return attempt


def _publish(port: int, level: int, qos: int, retain: bool, credentials: Credentials) -> None:
    client = connected(port, level, credentials)
    try:
        client.publish("readings/kitchen", b"2", qos, 1 if qos else 0, retain=retain)
        if qos == 0:
            until_pinged(client)
            return
        code = reason(client.expect(PUBACK if qos == 1 else PUBREC))
        assert code in (0, 0x87)
        if qos == 2 and code == 0:
            client.send(acknowledge(PUBREL, 1)).expect(PUBCOMP)
        if level == 5 and code:
            raise Refused(403)
    finally:
        client.close()


def leaves_a_will(level: int) -> MqttAttempt:
    def attempt(port: int, credentials: Credentials) -> None:
        last = will("readings/kitchen", b"gone", level=level)
        client = connected(port, level, credentials, last_will=last, will_flags=0x0C)
        client.reset()

    async def watched(hub: Hub, url: str, port: int, credentials: Credentials) -> int:
        core = hub.core
        before = core.topic_info(core.access.system, "readings").next
        status = await _tried(lambda: attempt(port, credentials) or 201)
        while status == 201 and core.topic_info(core.access.system, "readings").next == before:  # noqa: ASYNC110
            await asyncio.sleep(0.002)  # until the hub has seen that the client is gone
        return status

    return watched


def over_websocket(*, on_the_upgrade: bool) -> MqttAttempt:
    """Who asks says so in the upgrade's headers, or in CONNECT."""

    async def attempt(hub: Hub, url: str, port: int, credentials: Credentials) -> int:
        login = None if on_the_upgrade else login_of(credentials)
        others = {name: value for name, value in credentials.items() if name in ("Host", "Origin")}
        headers = credentials if on_the_upgrade else others
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(f"{url}/mqtt", headers=headers, protocols=["mqtt"]) as socket,
            ):
                await socket.send_bytes(connect(f"tried-{next(_ids)}", 5, login=login))
                _mind(await _packet(socket, CONNACK), credentials)
                await socket.send_bytes(publish("readings/kitchen", b"2", 1, 1, level=5))
                return 403 if reason(await _packet(socket, PUBACK)) == 0x87 else 201
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        except Refused as refused:
            return refused.status

    return attempt


async def _packet(socket: aiohttp.ClientWebSocketResponse, kind: int) -> Packet:
    """The only one in the next frame."""
    frame = await socket.receive_bytes(timeout=5)
    start = next(at for at in range(1, 5) if frame[at] < 0x80) + 1
    assert frame[0] >> 4 == kind
    return Packet(kind, frame[0] & 15, frame[start:])


# --- subscribe -------------------------------------------------------------------------------------------------------


def subscribes(level: int, qos: int, filter: str = "readings/#", *, clean: bool = True) -> MqttAttempt:
    def attempt(port: int, credentials: Credentials) -> int:
        lasting = b"" if clean or level < 5 else LASTING
        client = connected(port, level, credentials, clean=clean, properties=lasting)
        try:
            client.send(subscribe(1, (filter, qos), level=level))
            code = client.expect(SUBACK).body[-1]
            assert code in (qos, 0x80 if level < 5 else 0x87)
            return 200 if code == qos else 403
        finally:
            client.close()

    async def tried(hub: Hub, url: str, port: int, credentials: Credentials) -> int:
        return await _tried(lambda: attempt(port, credentials))

    return tried


# --- call ------------------------------------------------------------------------------------------------------------


def calls(level: int, qos: int) -> MqttAttempt:
    async def attempt(hub: Hub, url: str, port: int, credentials: Credentials) -> int:
        operation = hub.core.calls.get("sums.add")
        assert operation is not None
        before = operation.counters.calls
        status = await _tried(lambda: _call(port, level, qos, credentials))
        while hub.core.calls.running:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.002)
        assert (operation.counters.calls > before) == (status == 200) or level < 5 or qos == 0
        return 403 if status == 200 and operation.counters.calls == before else status

    return attempt


def _call(port: int, level: int, qos: int, credentials: Credentials) -> int:
    client = connected(port, level, credentials)
    try:
        client.publish("operations/sums.add", ADD, qos, 1 if qos else 0)
        if qos == 0:
            until_pinged(client)
            return 200
        code = reason(client.expect(PUBACK if qos == 1 else PUBREC))
        assert code in (0, 0x87)
        return 403 if code else 200
    finally:
        client.close()


async def calls_for_a_reply(hub: Hub, url: str, port: int, credentials: Credentials) -> int:
    def attempt() -> int:
        client_id = f"caller-{next(_ids)}"
        client = connected(port, 5, credentials, client_id)
        try:
            own = f"operations/replies/{client_id}"
            assert client.subscribe((own, 0)).body[-1] == 0
            client.publish("operations/sums.add", ADD, properties=b"\x08" + string(own))
            payload = client.receive().payload
            assert payload == b"3" or b'"denied"' in payload
            return 200 if payload == b"3" else 403
        finally:
            client.close()

    return await _tried(attempt)


# --- manage ----------------------------------------------------------------------------------------------------------


def leave_session(port: int, credentials: Credentials, client_id: str) -> None:
    """Its owner is gone, and may come back."""
    client = connected(port, 4, credentials, client_id, clean=False)
    client.subscribe(("readings/#", 1))
    client.send(b"\xe0\x00")
    assert client.rest() == []
    client.close()


def takes_over(client_id: str) -> MqttAttempt:
    async def attempt(hub: Hub, url: str, port: int, credentials: Credentials) -> int:
        options = {"clean": False, "properties": LASTING}
        return await _tried(lambda: connected(port, 5, credentials, client_id, **options).close() or 200)

    return attempt


async def may_connect(port: int, credentials: Credentials, level: int = 5) -> int:
    return await _tried(lambda: connected(port, level, credentials).close() or 200)


ATTEMPTS: dict[str, dict[str, MqttAttempt]] = {
    "publish": {
        **{
            f"mqtt {name}, QoS {qos}": publishes(level, qos)
            for level, name in ((3, "3.1"), (4, "3.1.1"), (5, "5"))
            for qos in (0, 1, 2)
        },
        "mqtt 3.1.1, retained": publishes(4, 1, retain=True),
        "mqtt 5, retained": publishes(5, 1, retain=True),
        "mqtt 3.1.1, will": leaves_a_will(4),
        "mqtt 5, will": leaves_a_will(5),
        "mqtt over websocket, by CONNECT": over_websocket(on_the_upgrade=False),
        "mqtt over websocket, by its upgrade": over_websocket(on_the_upgrade=True),
    },
    "subscribe": {
        "mqtt 3.1": subscribes(3, 0),
        "mqtt 3.1.1": subscribes(4, 0),
        "mqtt 3.1.1, live": subscribes(4, 1),
        "mqtt 3.1.1, lasting": subscribes(4, 1, clean=False),
        "mqtt 5": subscribes(5, 0, "readings/kitchen"),
        "mqtt 5, live": subscribes(5, 2, "readings/+"),
        "mqtt 5, lasting": subscribes(5, 2, clean=False),
        "mqtt 5, shared": subscribes(5, 1, "$share/team/readings/#"),
    },
    "call": {
        "mqtt 3.1.1": calls(4, 1),
        "mqtt 3.1.1, QoS 0": calls(4, 0),
        "mqtt 5": calls(5, 1),
        "mqtt 5, QoS 2": calls(5, 2),
        "mqtt 5, for a reply": calls_for_a_reply,
    },
    "manage": {"mqtt": takes_over("theirs-by-mqtt")},
}
