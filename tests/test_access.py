"""One gate for all: every wire x action x credential, through real sockets, on the hub's own listener and below
somebody else's server."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import polywire.testing
from polywire import Hub, Router
from tests import mqtt_attempts
from tests.hosts import hosted


class Target(NamedTuple):
    """``mqtt_port`` 0: below somebody else's server there is no MQTT."""

    hub: Hub
    http_url: str
    ws_url: str
    mqtt_port: int = 0

    @property
    def on_its_own(self) -> bool:
        return self.mqtt_port > 0

    def ways(self, action: str) -> dict[str, Attempt]:
        """Those there are."""
        return {way: attempt for way, attempt in ACTIONS[action].items() if self.on_its_own or "mqtt" not in way}


Credentials = dict[str, str]
Attempt = Callable[[Target, aiohttp.ClientSession, Credentials], Awaitable[int]]


@dataclass
class Order:
    number: int


def guarded_hub(**settings: Any) -> Hub:
    hub = Hub("guarded", **settings)
    hub.topic("readings")
    hub.topic("orders", Order)
    sums = Router(prefix="sums.")

    @sums.operation(safe=True)
    def add(a: int, b: int) -> int:
        return a + b

    @sums.get("/sums/{a}/{b}")
    def both(a: int, b: int) -> int:
        return a + b

    @sums.post("/sums")
    def total(order: Order) -> int:
        return order.number

    @sums.operation(safe=True)
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number
        if to == 1_000:
            await asyncio.Event().wait()

    @sums.operation(timeout="1h")
    async def gate(secret: str) -> str:
        await asyncio.Event().wait()
        return secret

    @hub.operation
    def other(order: Order) -> None: ...

    hub.include(sums)
    return hub


async def status_of(http: aiohttp.ClientSession, method: str, url: str, **given: Any) -> int:
    async with http.request(method, url, **given) as answer:
        return answer.status


# --- publish ---------------------------------------------------------------------------------------------------------


def publishes(content_type: str, body: str, **headers: str) -> Attempt:
    async def attempt(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
        told = {**credentials, "Content-Type": content_type, **headers}
        return await status_of(http, "POST", f"{t.http_url}/topics/readings?key=kitchen", data=body, headers=told)

    return attempt


EVENT = '{"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "data": 1}'
FILE = '--b\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nx\r\n--b--\r\n'


async def publish_websocket(
    t: Target, http: aiohttp.ClientSession, credentials: Credentials, frame: str = "2", *protocols: str
) -> int:
    core = t.hub.core
    before = core.topic_info(core.access.system, "readings").next
    url = f"{t.ws_url}/ws/readings/kitchen?from=latest"
    try:
        async with http.ws_connect(url, headers=credentials, protocols=protocols) as socket:
            await socket.send_str(frame)
            await socket.ping()
            await socket.close()
    except aiohttp.WSServerHandshakeError as error:
        return error.status
    await core.log.published()
    return 201 if core.topic_info(core.access.system, "readings").next > before else 403


async def publish_event_frame(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
    return await publish_websocket(t, http, credentials, EVENT, "cloudevents.json")


# --- JSON-RPC --------------------------------------------------------------------------------------------------------

RPC_CODES = {-32001: 401, -32003: 403, -32602: 400}


async def ask(
    t: Target, http: aiohttp.ClientSession, credentials: Credentials, method: str, **params: Any
) -> dict[str, Any]:
    """The answer. Raises `aiohttp.WSServerHandshakeError`."""
    async with http.ws_connect(f"{t.ws_url}/ws", headers=credentials) as socket:
        await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        while True:
            answer: dict[str, Any] = await socket.receive_json(timeout=5)
            if "id" in answer:
                return answer


def asks(method: str, **params: Any) -> Attempt:
    async def attempt(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
        try:
            answer = await ask(t, http, credentials, method, **params)
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        return RPC_CODES[answer["error"]["code"]] if "error" in answer else 200

    return attempt


# --- subscribe -------------------------------------------------------------------------------------------------------


def gets(path: str, **headers: str) -> Attempt:
    async def attempt(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
        return await status_of(http, "GET", t.http_url + path, headers={**credentials, **headers})

    return attempt


async def read_websocket(t: Target, http: aiohttp.ClientSession, credentials: Credentials, *protocols: str) -> int:
    url = f"{t.ws_url}/ws/readings?from=earliest"
    try:
        async with http.ws_connect(url, headers=credentials, protocols=protocols) as socket:
            return 200 if (await socket.receive(timeout=0.2)).type == aiohttp.WSMsgType.TEXT else 403
    except TimeoutError:
        return 403  # a connection that may only publish
    except aiohttp.WSServerHandshakeError as error:
        return error.status


async def read_event_frames(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
    return await read_websocket(t, http, credentials, "cloudevents.json")


async def create_subscription(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
    body = {"sources": [{"topic": "readings"}]}
    name = f"sub-{len(t.hub.core.subscriptions.list(t.hub.core.access.system))}"
    return await status_of(http, "PUT", f"{t.http_url}/subscriptions/{name}", json=body, headers=credentials)


async def consume(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
    name = f"queue-{len(t.hub.core.subscriptions.list(t.hub.core.access.system))}"
    return await asks("consume", queue=name, topic="readings")(t, http, credentials)


# --- call ------------------------------------------------------------------------------------------------------------


def calls(path: str = "/operations/sums.add", body: str = '{"a": 1, "b": 2}', **headers: str) -> Attempt:
    async def attempt(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
        told = {**credentials, "Content-Type": "application/json", **headers}
        return await status_of(http, "POST", t.http_url + path, data=body, headers=told)

    return attempt


# --- MQTT ------------------------------------------------------------------------------------------------------------


def over_mqtt(attempt: mqtt_attempts.MqttAttempt) -> Attempt:
    async def tried(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
        return await attempt(t.hub, t.ws_url, t.mqtt_port, credentials)

    return tried


# --- manage and admin ------------------------------------------------------------------------------------------------


def does(method: str, path: str, body: Any = None) -> Attempt:
    async def attempt(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
        return await status_of(http, method, t.http_url + path, json=body, headers=credentials)

    return attempt


ACTIONS: dict[str, dict[str, Attempt]] = {
    "publish": {
        "json": publishes("application/json", "1"),
        "lines": publishes("application/x-ndjson", "1\n2\n"),
        "xml": publishes("application/xml", "<a/>"),
        "form": publishes("application/x-www-form-urlencoded", "a=1"),
        "file": publishes("multipart/form-data; boundary=b", FILE),
        "binary event": publishes(
            "text/plain", "x", **{"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "t"}
        ),
        "structured event": publishes("application/cloudevents+json", EVENT),
        "batch of events": publishes("application/cloudevents-batch+json", f"[{EVENT}]"),
        "websocket": publish_websocket,
        "event frame": publish_event_frame,
        "json-rpc": asks("publish", topic="readings", key="kitchen", data=1),
    },
    "subscribe": {
        "rest": gets("/topics/readings"),
        "events": gets("/topics/readings", Accept="application/cloudevents-batch+json"),
        "latest": gets("/topics/readings/latest"),
        "sse": gets("/topics/readings/events"),
        "websocket": read_websocket,
        "event frames": read_event_frames,
        "subscription": create_subscription,
        "json-rpc": asks("subscribe", topic="readings"),
        "json-rpc queue": consume,
    },
    "call": {
        "direct": calls(),
        "once": calls(**{"Idempotency-Key": "one"}),
        "xml": calls(body="<add><a>1</a><b>2</b></add>", **{"Content-Type": "application/xml"}),
        "form": calls(body="a=1&b=2", **{"Content-Type": "application/x-www-form-urlencoded"}),
        "get": gets("/operations/sums.add?a=1&b=2"),
        "own path": gets("/sums/1/2"),
        "own path, direct": calls("/sums", '{"number": 1}'),
        "by its name": calls("/operations/sums.both"),
        "stream": gets("/operations/sums.count?to=3"),
        "stream of events": gets("/operations/sums.count?to=3", Accept="text/event-stream"),
        "job": calls(Prefer="respond-async"),
        "json-rpc": asks("call", operation="sums.add", arguments={"a": 1, "b": 2}),
        "json-rpc method": asks("sums.add", a=1, b=2),
        "json-rpc stream": asks("sums.count", to=3),
        "json-rpc job": asks("submit", operation="sums.add", arguments={"a": 1, "b": 2}),
    },
    "manage": {
        "topic": does("PUT", "/topics/fresh", {}),
        "pull": does("POST", "/subscriptions/theirs/pull", {}),
        "purge": does("POST", "/subscriptions/theirs/purge"),
        "json-rpc": asks("consume", queue="theirs"),
    },
    "admin": {"keys": gets("/api-keys"), "metrics": gets("/metrics")},
}
for action, attempts in mqtt_attempts.ATTEMPTS.items():
    ACTIONS[action] |= {way: over_mqtt(attempt) for way, attempt in attempts.items()}
GRANTS = {
    "publish": "publish:readings.#",
    "subscribe": "subscribe:readings.#",
    "call": "call:sums.#",
    "manage": "manage:#",
    "admin": "admin:#",
    "narrow": "publish:readings.cellar",
    "other": "call:other",
}


class Guarded(NamedTuple):
    t: Target
    http: aiohttp.ClientSession
    keys: dict[str, str]


@pytest.fixture(params=["listener", "mounted"])
async def target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Target]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYWIRE_SQLITE_RESERVE_SIZE", "0")
    hub = guarded_hub(data=tmp_path / "data")
    async with AsyncExitStack() as stack:
        if request.param == "listener":
            served = await stack.enter_async_context(polywire.testing.serve(hub))
            yield Target(hub, served.http_url, served.ws_url, served.mqtt_port)
        else:
            app = Starlette(routes=[Mount("/hub", hub.asgi())], lifespan=hub.lifespan)
            host = await stack.enter_async_context(hosted(app, lifespan="on"))
            yield Target(hub, f"{host.url}/hub", f"{host.ws_url}/hub")


@pytest.fixture
async def guarded(target: Target) -> AsyncIterator[Guarded]:
    async with aiohttp.ClientSession() as http:
        await target.hub.topic_named("readings").publish(1, key="kitchen")
        access = target.hub.core.access
        keys = {name: (await access.create_key(access.system, name, [grant]))[1] for name, grant in GRANTS.items()}
        for name, grants in (("owner", ["subscribe:readings.#", "call:#"]), ("everything", ["*:#"])):
            _, keys[name] = await access.create_key(access.system, name, grants)
        body = {"sources": [{"topic": "readings"}]}
        assert await does("PUT", "/subscriptions/theirs", body)(target, http, bearer(keys["owner"])) == 201
        if target.on_its_own:
            await asyncio.to_thread(
                mqtt_attempts.leave_session, target.mqtt_port, bearer(keys["owner"]), "theirs-by-mqtt"
            )
        yield Guarded(target, http, keys)


def bearer(key: str) -> Credentials:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("action", ACTIONS)
async def test_only_the_right_key_may(guarded: Guarded, action: str) -> None:
    t, http, keys = guarded
    wrong = keys["admin"][:-4] + "AAAA"
    for way, attempt in t.ways(action).items():
        for key in (wrong, "nonsense", None):
            assert await attempt(t, http, bearer(key) if key else {}) == 401, f"{way} with {key}"
        for name in GRANTS:
            status = await attempt(t, http, bearer(keys[name]))
            if name == action:
                assert status in (200, 201, 202), f"{way}: {name} may {action}"
            else:
                assert status == 403, f"{way}: {name} may not {action}"


@pytest.mark.parametrize("way", ["bearer", "basic", "x-api-key"])
async def test_ways_to_say_who_you_are(guarded: Guarded, way: str) -> None:
    t, http, keys = guarded
    for action in ("publish", "call"):
        key = keys[action]
        headers = {
            "bearer": bearer(key),
            "basic": {"Authorization": "Basic " + base64.b64encode(f"anybody:{key}".encode()).decode()},
            "x-api-key": {"X-API-Key": key},
        }[way]
        for attempt in t.ways(action).values():
            assert await attempt(t, http, headers) in (200, 201, 202)


async def test_browsers_may_put_the_key_into_the_query(guarded: Guarded) -> None:
    """EventSource and a browser's WebSocket cannot set headers; anything else has no such need."""
    t, http, keys = guarded
    key = keys["subscribe"]
    accept = {"Accept": "text/event-stream"}
    async with http.get(f"{t.http_url}/topics/readings/events?api_key={key}", headers=accept) as answer:
        assert answer.status == 200
    async with http.ws_connect(f"{t.ws_url}/ws/readings?from=earliest&api_key={key}") as socket:
        assert (await socket.receive(timeout=5)).data == "1"
    async with http.ws_connect(f"{t.ws_url}/ws?api_key={key}") as socket:
        await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": "subscribe", "params": {"topic": "readings"}})
        assert (await socket.receive_json(timeout=5))["result"]["subscription"] == 1
    counting = f"{t.http_url}/operations/sums.count?to=1&api_key={keys['call']}"
    async with http.get(counting, headers=accept) as answer:
        assert await answer.text() == "data: 0\n\nevent: end\ndata: {}\n\n"
    assert await status_of(http, "GET", counting) == 401
    assert await status_of(http, "GET", f"{t.http_url}/topics/readings?api_key={key}") in (400, 401)


# --- what is shown ---------------------------------------------------------------------------------------------------


async def shown(guarded: Guarded, path: str, who: str) -> Any:
    answer = await guarded.http.get(guarded.t.http_url + path, headers=bearer(guarded.keys[who]))
    assert answer.status == 200
    return await answer.json()


SUMS = {"sums.add", "sums.both", "sums.count", "sums.gate", "sums.total"}


async def test_what_may_not_be_called_is_not_listed(guarded: Guarded) -> None:
    for who, names in {"call": SUMS, "other": {"other"}, "everything": {*SUMS, "other"}, "publish": set()}.items():
        listed = {one["name"] for one in (await shown(guarded, "/operations", who))["operations"]}
        assert listed == names, who
    answer = await guarded.http.get(f"{guarded.t.http_url}/operations")
    assert await answer.json() == {"operations": []}


async def test_documents_show_what_their_reader_may_do(guarded: Guarded) -> None:
    t, http, keys = guarded
    paths = {name: set((await shown(guarded, "/openapi.json", name))["paths"]) for name in ("call", "other", "publish")}
    assert {"/operations/sums.add", "/sums", "/sums/{a}/{b}"} <= paths["call"]
    assert not {path for path in paths["call"] if "other" in path or path.startswith("/topics/")}
    assert "/operations/other" in paths["other"]
    assert not {path for path in paths["other"] if "sums" in path}
    assert "/topics/readings" in paths["publish"]
    assert not {path for path in paths["publish"] if "sums" in path or "other" in path or "orders" in path}
    types = {name: [one["name"] for one in (await shown(guarded, "/schemas", name))["schemas"]] for name in GRANTS}
    assert types["call"] == types["other"] == ["Order"]
    assert types["publish"] == types["subscribe"] == types["narrow"] == []
    assert await gets("/schemas/Order")(t, http, bearer(keys["call"])) == 200
    assert await gets("/schemas/Order")(t, http, bearer(keys["publish"])) == 404
    for path in ("/openapi.json", "/schemas", "/schemas/Order"):
        assert await gets(path)(t, http, {}) == 401


async def test_the_page_holds_nothing(guarded: Guarded) -> None:
    """It loads before its reader can give a key, and asks for the rest with that."""
    t, http, keys = guarded
    pages = [await (await http.get(f"{t.http_url}/docs", headers=h)).text() for h in ({}, bearer(keys["everything"]))]
    assert pages[0] == pages[1]
    assert "<html" in pages[0]
    assert "sums" not in pages[0]


WRONG_ORDERS = {
    "application/json": '{"x": 1}',
    "application/x-ndjson": '{"x": 1}',
    "application/xml": "<order><x>1</x></order>",
    "application/x-www-form-urlencoded": "x=1",
    "multipart/form-data; boundary=b": FILE,
    "application/cloudevents+json": EVENT.replace("1}", '{"x": 1}}'),
}


@pytest.mark.parametrize("content_type", WRONG_ORDERS)
async def test_who_may_not_publish_learns_nothing_of_a_type(guarded: Guarded, content_type: str) -> None:
    t, http, keys = guarded
    for credentials, status in (({}, 401), (bearer(keys["publish"]), 403), (bearer(keys["everything"]), 400)):
        headers = {**credentials, "Content-Type": content_type}
        answer = await http.post(f"{t.http_url}/topics/orders", data=WRONG_ORDERS[content_type], headers=headers)
        told = await answer.text()
        assert answer.status == status, told
        assert ("$.number" in told or "$[0].number" in told) is (status == 400), told


# --- jobs ------------------------------------------------------------------------------------------------------------


async def submitted(guarded: Guarded, who: str) -> str:
    """A job that runs until it is ended."""
    headers = {**bearer(guarded.keys[who]), "Prefer": "respond-async"}
    body = {"secret": "s3cret"}
    answer = await guarded.http.post(f"{guarded.t.http_url}/operations/sums.gate", json=body, headers=headers)
    job: str = (await answer.json())["id"]
    assert answer.status == 202
    while guarded.t.hub.core.jobs.running == 0:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.005)
    return job


async def test_a_job_is_its_owners_and_theirs_who_manage_it(guarded: Guarded) -> None:
    t, http, keys = guarded
    job = await submitted(guarded, "owner")
    ways = [
        gets(f"/jobs/{job}"),
        gets(f"/jobs/{job}?wait=1ms"),
        gets(f"/jobs/{job}/events"),
        asks("job", job=job),
        does("DELETE", f"/jobs/{job}"),
        asks("cancel", job=job),
        asks("follow", job=job),
    ]
    for attempt in ways:
        assert await attempt(t, http, {}) == 401
        for who in ("call", "other", "publish", "subscribe", "admin"):
            assert await attempt(t, http, bearer(keys[who])) == 403, who
    for who in ("owner", "manage", "everything"):
        for attempt in (gets(f"/jobs/{job}"), gets(f"/jobs/{job}/events"), asks("job", job=job)):
            assert await attempt(t, http, bearer(keys[who])) == 200, who
        cancel = asks("cancel", job=job) if who == "manage" else does("DELETE", f"/jobs/{job}")
        assert await cancel(t, http, bearer(keys[who])) == 200, who
        assert (await shown(guarded, f"/jobs/{job}", "owner"))["status"] == "cancelled"
        if who != "everything":
            job = await submitted(guarded, "owner")


async def test_a_key_of_idempotency_is_its_principals(guarded: Guarded) -> None:
    """Neither the reply of somebody else nor that there was one."""
    t, http, keys = guarded
    for who, arguments, total in (("call", {"a": 1, "b": 2}, 3), ("owner", {"a": 5, "b": 5}, 10)):
        headers = {**bearer(keys[who]), "Idempotency-Key": "one"}
        for _ in range(2):
            answer = await http.post(f"{t.http_url}/operations/sums.add", json=arguments, headers=headers)
            assert (answer.status, await answer.json()) == (200, total)


# --- the hub's own topics --------------------------------------------------------------------------------------------


def connects(topic: str, *protocols: str) -> Attempt:
    async def attempt(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> int:
        try:
            async with http.ws_connect(f"{t.ws_url}/ws/{topic}", headers=credentials, protocols=protocols):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status

    return attempt


PRIVATE = ("_calls", "_jobs", "_replies")
READS: dict[str, Callable[..., Attempt]] = {
    "page": lambda topic: gets(f"/topics/{topic}"),
    "page of a key": lambda topic: gets(f"/topics/{topic}?key=sums.gate"),
    "latest": lambda topic: gets(f"/topics/{topic}/latest"),
    "latest of a key": lambda topic: gets(f"/topics/{topic}/latest/x"),
    "info": lambda topic: gets(f"/topics/{topic}/info"),
    "delayed": lambda topic: gets(f"/topics/{topic}/delayed"),
    "cancel": lambda topic: does("DELETE", f"/topics/{topic}/delayed/x"),
    "message": lambda topic: gets(f"/topics/{topic}/messages/1-0-0"),
    "cursor": lambda topic: gets(f"/topics/{topic}/cursors/r"),
    "sse": lambda topic: gets(f"/topics/{topic}/events?from=earliest"),
    "subscription": lambda topic: does("PUT", "/subscriptions/s", {"sources": [{"topic": topic}]}),
    "websocket": connects,
    "event frames": lambda topic: connects(topic, "cloudevents.json"),
    "json-rpc": lambda topic: asks("subscribe", topic=topic, **{"from": "earliest"}),
    "json-rpc queue": lambda topic: asks("consume", queue="q", topic=topic),
}


async def filled(t: Target, http: aiohttp.ClientSession, credentials: Credentials) -> None:
    """Something is in each of the topics."""
    for headers in ({"Prefer": "respond-async"}, {"Idempotency-Key": "k"}, {"Prefer": "respond-async"}):
        assert await calls(**headers)(t, http, credentials) in (200, 202)
    assert {topic.name for topic in t.hub.core.topics(t.hub.core.access.system)} >= set(PRIVATE)


@pytest.mark.parametrize("topic", PRIVATE)
async def test_what_others_asked_for_is_read_by_nobody(guarded: Guarded, topic: str) -> None:
    t, http, keys = guarded
    await filled(t, http, bearer(keys["owner"]))
    _, named = await t.hub.core.access.create_key(t.hub.core.access.system, "named", [f"*:{topic}.#", "subscribe:#"])
    for way, attempt in READS.items():
        assert await attempt(topic)(t, http, {}) == 401, way
        for key in (keys["everything"], named):
            assert await attempt(topic)(t, http, bearer(key)) == 403, way
    for key in (keys["everything"], named, keys["manage"]):
        listed = await (await http.get(f"{t.http_url}/topics", headers=bearer(key))).json()
        assert not {one["name"] for one in listed["topics"]} & set(PRIVATE)
        answer = await ask(t, http, bearer(key), "topics")
        assert not {one["name"] for one in answer["result"]["topics"]} & set(PRIVATE)
    assert await does("POST", f"/topics/{topic}", 1)(t, http, bearer(keys["everything"])) == 403
    assert await does("DELETE", f"/topics/{topic}")(t, http, bearer(keys["everything"])) == 409


async def test_nor_while_the_hub_is_open(target: Target) -> None:
    async with aiohttp.ClientSession() as http:
        await filled(target, http, {})
        for topic in PRIVATE:
            for way, attempt in READS.items():
                assert await attempt(topic)(target, http, {}) == 403, way
            assert await does("POST", f"/topics/{topic}", 1)(target, http, {}) == 400
            assert await asks("publish", topic=topic, data=1)(target, http, {}) == 400
        listed = await (await http.get(f"{target.http_url}/topics")).json()
        assert [one["name"] for one in listed["topics"]] == ["orders", "readings"]


async def test_a_subscription_to_everything_has_none_of_it(guarded: Guarded) -> None:
    t, http, keys = guarded
    everything = bearer(keys["everything"])
    body = {"sources": [{"topic": "#"}, {"topic": "*"}], "start": "earliest"}
    assert await does("PUT", "/subscriptions/all", body)(t, http, everything) == 201
    await filled(t, http, bearer(keys["owner"]))
    answer = await http.post(f"{t.http_url}/subscriptions/all/pull", json={"max": 100}, headers=everything)
    topics = {one["message"]["topic"] for one in (await answer.json())["deliveries"]}
    assert topics == {"readings"}


# --- applications in the hub -----------------------------------------------------------------------------------------


async def who_asks(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["principal"].name.encode()})


async def test_what_is_mounted_is_public_and_opens_nothing_else(tmp_path: Path) -> None:
    hub = guarded_hub()
    hub.mount("/shop", who_asks)
    (tmp_path / "index.html").write_text("front")
    hub.mount("/", tmp_path)
    async with polywire.testing.serve(hub) as t, aiohttp.ClientSession() as http:
        access = hub.core.access
        _, key = await access.create_key(access.system, "ann", ["call:sums.add"])
        target = Target(hub, t.http_url, t.ws_url)
        theirs = {"Authorization": "Bearer of-the-shop"}
        for headers, name in (({}, "anonymous"), (theirs, "anonymous"), (bearer(key), "ann")):
            answer = await http.get(f"{t.http_url}/shop/x", headers=headers)
            assert (answer.status, await answer.text()) == (200, name)
        assert await (await http.get(t.http_url)).text() == "front"
        for action, way in (("call", "direct"), ("call", "own path"), ("publish", "json"), ("call", "json-rpc")):
            attempt = ACTIONS[action][way]
            assert await attempt(target, http, {}) == 401
            assert await attempt(target, http, theirs) == 401, "no key of the hub's"
        for path in ("/topics", "/openapi.json", "/api-keys", "/shop/../api-keys"):
            assert await gets(path)(target, http, theirs) == 401


@pytest.mark.parametrize("foreign", [{"Host": "rebound.example"}, {"Origin": "https://evil.example"}])
async def test_an_open_hub_answers_no_foreign_pages(target: Target, foreign: Credentials) -> None:
    async with aiohttp.ClientSession() as http:
        for action in ("publish", "subscribe", "call"):
            for way, attempt in target.ways(action).items():
                assert await attempt(target, http, {}) in (200, 201, 202), way
                if "mqtt" not in way or "websocket" in way:
                    assert await attempt(target, http, foreign) == 403, way
        for path in ("/openapi.json", "/schemas", "/docs", "/operations", "/jobs/x"):
            assert await gets(path)(target, http, foreign) == 403, path


# --- revocation ------------------------------------------------------------------------------------------------------


async def test_revocation_reaches_open_connections_at_once(guarded: Guarded) -> None:
    t, http, keys = guarded
    access = t.hub.core.access
    headers = bearer(keys["subscribe"])
    async with (
        http.get(f"{t.http_url}/topics/readings/events", headers=headers) as events,
        http.ws_connect(f"{t.ws_url}/ws/readings", headers=headers) as socket,
        http.ws_connect(f"{t.ws_url}/ws/readings", headers=headers, protocols=["cloudevents.json"]) as framed,
        http.ws_connect(f"{t.ws_url}/ws", headers=headers) as rpc,
    ):
        for number, (method, params) in enumerate((("subscribe", {}), ("consume", {"queue": "q"}))):
            params |= {"topic": "readings"}
            await rpc.send_json({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
            assert "result" in await rpc.receive_json(timeout=5)
        await access.revoke_key(access.system, "subscribe")
        for one in (socket, framed, rpc):
            while (frame := await one.receive(timeout=5)).type == aiohttp.WSMsgType.TEXT:
                assert json.loads(frame.data)["method"] == "ended"
            assert frame.type == aiohttp.WSMsgType.CLOSE
            assert one.close_code == 1008
        await events.content.read()  # ends
    assert await gets("/topics/readings")(t, http, headers) == 401
    assert t.hub.core.metrics()["followers"] == 0


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_revocation_ends_answers_that_stream(guarded: Guarded, accept: str) -> None:
    t, http, keys = guarded
    access = t.hub.core.access
    headers = {**bearer(keys["call"]), "Accept": accept}
    async with http.get(f"{t.http_url}/operations/sums.count?to=1000", headers=headers) as answer:
        await answer.content.readuntil(b"999\n")
        await access.revoke_key(access.system, "call")
        assert b'"denied"' in await asyncio.wait_for(answer.content.read(), 5)
    assert t.hub.core.calls.running == 0


async def test_revocation_ends_jobs(guarded: Guarded) -> None:
    """One that runs is interrupted, one that waits is never begun; what came of them is read by who may manage them."""
    t, http, keys = guarded
    access = t.hub.core.access
    running = await submitted(guarded, "owner")
    delayed = calls(Prefer="respond-async", **{"Polywire-Delay": "300ms"})
    assert await delayed(t, http, bearer(keys["owner"])) == 202
    await access.revoke_key(access.system, "owner")
    assert (await shown(guarded, f"/jobs/{running}?wait=5s", "manage"))["error"]["code"] == "denied"
    assert await gets(f"/jobs/{running}")(t, http, bearer(keys["owner"])) == 401
    _, again = await access.create_key(access.system, "owner", ["call:#"])
    assert await gets(f"/jobs/{running}")(t, http, bearer(again)) == 200, "a new key of the name has what was its own"


# --- logs ------------------------------------------------------------------------------------------------------------


async def test_no_secret_in_a_log(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    t, http, keys = guarded
    caplog.set_level(logging.DEBUG)
    for key in (keys["publish"], keys["call"], keys["admin"], "pw_feedfeedfeed_wrong"):
        for attempt in (one for action in ACTIONS for one in t.ways(action).values()):
            await attempt(t, http, bearer(key))
        async with http.get(
            f"{t.http_url}/topics/readings/events?api_key={key}", headers={"Accept": "text/event-stream"}
        ):
            pass
    names = ("polywire", "uvicorn", "websockets") if t.on_its_own else ("polywire",)  # another server's log is its own
    own = [record for record in caplog.records if record.name.startswith(names)]
    said = "\n".join(record.getMessage() for record in own)
    assert all(key.rpartition("_")[2] not in said for key in keys.values())
