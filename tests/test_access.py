"""One gate for all: every wire x action x credential, through real sockets."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import aiohttp
import pytest

import polywire.testing
from polywire import Hub
from polywire.testing import Served

Attempt = Callable[[Served, aiohttp.ClientSession, dict[str, str]], Awaitable[int]]


async def publish_rest(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    return (await http.post(f"{t.http_url}/topics/readings?key=kitchen", json=1, headers=credentials)).status


async def publish_lines(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    headers = {**credentials, "Content-Type": "application/x-ndjson"}
    return (await http.post(f"{t.http_url}/topics/readings?key=kitchen", data="1\n2\n", headers=headers)).status


async def read_rest(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    return (await http.get(f"{t.http_url}/topics/readings", headers=credentials)).status


async def read_latest(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    return (await http.get(f"{t.http_url}/topics/readings/latest", headers=credentials)).status


async def read_sse(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    async with http.get(f"{t.http_url}/topics/readings/events", headers=credentials) as answer:
        return answer.status


async def read_websocket(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    try:
        async with http.ws_connect(f"{t.ws_url}/readings?from=earliest", headers=credentials) as socket:
            return 200 if (await socket.receive(timeout=0.5)).type == aiohttp.WSMsgType.TEXT else 403
    except TimeoutError:
        return 403  # a connection that may only publish
    except aiohttp.WSServerHandshakeError as error:
        return error.status


async def publish_websocket(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    before = t.hub.core.topic_info(t.hub.core.access.system, "readings").next
    try:
        async with http.ws_connect(f"{t.ws_url}/readings/kitchen?from=latest", headers=credentials) as socket:
            await socket.send_str("2")
            await socket.ping()
            await socket.close()
    except aiohttp.WSServerHandshakeError as error:
        return error.status
    await t.hub.core.log.published()
    return 201 if t.hub.core.topic_info(t.hub.core.access.system, "readings").next > before else 403


async def create_subscription(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    body = {"sources": [{"topic": "readings"}]}
    name = f"sub-{len(t.hub.core.subscriptions.list(t.hub.core.access.system))}"
    return (await http.put(f"{t.http_url}/subscriptions/{name}", json=body, headers=credentials)).status


async def use_a_foreign_subscription(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    return (await http.post(f"{t.http_url}/subscriptions/theirs/pull", json={}, headers=credentials)).status


async def purge_a_foreign_subscription(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    return (await http.post(f"{t.http_url}/subscriptions/theirs/purge", headers=credentials)).status


async def create_topic(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    return (await http.put(f"{t.http_url}/topics/fresh", json={}, headers=credentials)).status


async def list_keys(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    return (await http.get(f"{t.http_url}/api-keys", headers=credentials)).status


async def read_metrics(t: Served, http: aiohttp.ClientSession, credentials: dict[str, str]) -> int:
    return (await http.get(f"{t.http_url}/metrics", headers=credentials)).status


ACTIONS: dict[str, tuple[Attempt, ...]] = {
    "publish": (publish_rest, publish_lines, publish_websocket),
    "subscribe": (read_rest, read_latest, read_sse, read_websocket, create_subscription),
    "manage": (create_topic, use_a_foreign_subscription, purge_a_foreign_subscription),
    "admin": (list_keys, read_metrics),
}
GRANTS = {
    "publish": "publish:readings.#",
    "subscribe": "subscribe:readings.#",
    "manage": "manage:#",
    "admin": "admin:#",
    "narrow": "publish:readings.cellar",
}


class Guarded(NamedTuple):
    t: Served
    http: aiohttp.ClientSession
    keys: dict[str, str]


@pytest.fixture
async def guarded() -> AsyncIterator[Guarded]:
    hub = Hub("guarded")
    readings = hub.topic("readings")
    async with polywire.testing.serve(hub) as t, aiohttp.ClientSession() as http:
        await readings.publish(1, key="kitchen")
        access = hub.core.access
        keys = {name: (await access.create_key(access.system, name, [grant]))[1] for name, grant in GRANTS.items()}
        _, keys["owner"] = await access.create_key(access.system, "owner", ["subscribe:readings.#"])
        body = {"sources": [{"topic": "readings"}]}
        answer = await http.put(f"{t.http_url}/subscriptions/theirs", json=body, headers=bearer(keys["owner"]))
        assert answer.status == 201
        yield Guarded(t, http, keys)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


CASES = [(action, attempt) for action, attempts in ACTIONS.items() for attempt in attempts]


@pytest.mark.parametrize(("action", "attempt"), CASES, ids=[attempt.__name__ for _, attempt in CASES])
async def test_only_the_right_key_may(guarded: Guarded, action: str, attempt: Attempt) -> None:
    t, http, keys = guarded
    wrong = keys["admin"][:-4] + "AAAA"
    assert await attempt(t, http, {}) == 401, "without credentials"
    assert await attempt(t, http, bearer(wrong)) == 401, "with a wrong key"
    assert await attempt(t, http, bearer("nonsense")) == 401, "with nonsense"
    for name in GRANTS:
        status = await attempt(t, http, bearer(keys[name]))
        if name == action:
            assert status in (200, 201), f"{name} may {action}"
        else:
            assert status == 403, f"{name} may not {action}"


@pytest.mark.parametrize("way", ["bearer", "basic", "x-api-key"])
async def test_ways_to_say_who_you_are(guarded: Guarded, way: str) -> None:
    t, http, keys = guarded
    key = keys["publish"]
    headers = {
        "bearer": bearer(key),
        "basic": {"Authorization": "Basic " + base64.b64encode(f"anybody:{key}".encode()).decode()},
        "x-api-key": {"X-API-Key": key},
    }[way]
    assert await publish_rest(t, http, headers) == 201


async def test_browsers_may_put_the_key_into_the_query(guarded: Guarded) -> None:
    """EventSource and a browser's WebSocket cannot set headers; anything else has no such need."""
    t, http, keys = guarded
    key = keys["subscribe"]
    accept = {"Accept": "text/event-stream"}
    async with http.get(f"{t.http_url}/topics/readings/events?api_key={key}", headers=accept) as answer:
        assert answer.status == 200
    async with http.ws_connect(f"{t.ws_url}/readings?from=earliest&api_key={key}") as socket:
        assert (await socket.receive(timeout=5)).data == "1"
    assert (await http.get(f"{t.http_url}/topics/readings?api_key={key}")).status in (400, 401)


async def test_revocation_reaches_open_connections_at_once(guarded: Guarded) -> None:
    t, http, keys = guarded
    access = t.hub.core.access
    headers = bearer(keys["subscribe"])
    async with (
        http.get(f"{t.http_url}/topics/readings/events", headers=headers) as events,
        http.ws_connect(f"{t.ws_url}/readings", headers=headers) as socket,
    ):
        await access.revoke_key(access.system, "subscribe")
        assert (await socket.receive(timeout=5)).type == aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1008
        await events.content.read()  # ends
    assert await read_rest(t, http, headers) == 401


async def test_no_secret_in_a_log(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    t, http, keys = guarded
    caplog.set_level(logging.DEBUG)
    for key in (keys["publish"], keys["admin"], "pw_feedfeedfeed_wrong"):
        for _, attempt in CASES:
            await attempt(t, http, bearer(key))
        async with http.get(
            f"{t.http_url}/topics/readings/events?api_key={key}", headers={"Accept": "text/event-stream"}
        ):
            pass
    own = [record for record in caplog.records if record.name.startswith(("polywire", "uvicorn", "websockets"))]
    said = "\n".join(record.getMessage() for record in own)
    assert all(key.rpartition("_")[2] not in said for key in keys.values())
