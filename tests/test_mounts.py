"""``hub.mount``: what may be declared, and applications and folders on a hub that serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI, HTTPException, Request
from websockets.asyncio.client import connect

from polywire import Hub, Unavailable
from polywire.core.access import Action
from polywire.mounts import RESERVED, Mounts
from polywire.testing import Served, serve
from polywire.wires.rest.routes import EXACT, PREFIXES

PAGE = "<!doctype html><title>front</title>"


async def app(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "index.html").write_text(PAGE)
    return tmp_path / "static"


# Declaring ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/admin", "/a/b/c/d/e/f/g/h", "/topicsx", "/.well-known/x", "/v1.0"])
def test_paths(path: str) -> None:
    Mounts().add(path, app)


NO_PATHS = "|admin|/admin/|//|/a//b|/a/../b|/..|/./a|/a?b|/a#b|/a b|/a\n|/%61|/ü|/{x}|/1/2/3/4/5/6/7/8/9"


@pytest.mark.parametrize("path", NO_PATHS.split("|"))
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="a path is / or begins with /"):
        Mounts().add(path, app)


@pytest.mark.parametrize("path", [*RESERVED, "/topics/mine", "/docs/x"])
def test_the_hubs_own_paths_are_named(path: str) -> None:
    with pytest.raises(ValueError, match=f"/{path.split('/')[1]} is the hub's own"):
        Hub("test").mount(path, app)


def test_every_path_of_rest_is_reserved() -> None:
    assert {*PREFIXES, *EXACT} - {"/"} <= set(RESERVED)


def test_a_path_is_mounted_once() -> None:
    hub = Hub("test")
    hub.mount("/admin", app)
    with pytest.raises(ValueError, match="mounted there already"):
        hub.mount("/admin", app)


def test_a_folder_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("nothing", "file"):
        with pytest.raises(ValueError, match=f"there is no folder .*{name}"):
            Hub("test").mount("/", tmp_path / name)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


@pytest.mark.parametrize("wrong", [None, 3, wsgi, FastAPI, lambda: None])
def test_what_is_no_application(wrong: Any) -> None:
    with pytest.raises(TypeError, match="ASGI application"):
        Hub("test").mount("/", wrong)


async def test_it_is_declared_before_the_start(folder: Path) -> None:
    hub = Hub("test")
    async with serve(hub):
        with pytest.raises(RuntimeError, match="has started"):
            hub.mount("/", folder)


# Serving ------------------------------------------------------------------------------------------------------------


async def get(t: Served, path: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(t.http_url + path, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_a_front_end_beside_the_protocols(folder: Path) -> None:
    hub = Hub("test")
    hub.topic("chat")
    hub.mount("/", folder)
    async with serve(hub) as t:
        for accept in ("*/*", "text/html", "application/json"):
            assert await get(t, "/", Accept=accept) == (200, PAGE)
        assert (await get(t, "/topics"))[0] == 200
        assert (await get(t, "/health"))[0] == 200
        assert (await get(t, "/topics/nothing"))[0] == 404
        assert (await get(t, "/nothing"))[0] == 404
        async with aiohttp.ClientSession() as session:
            assert (await session.post(t.http_url + "/topics/chat", data="x")).status == 201
        async with connect(t.ws_url + "/chat?from=earliest", proxy=None) as viewer:
            assert await viewer.recv() in ("x", b"x")


def shop(hub: Hub, log: list[str]) -> FastAPI:
    orders = hub.topic("orders")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await orders.publish("opened")
        yield
        await orders.publish("closed")
        log.append("closed")

    app = FastAPI(lifespan=lifespan)

    @app.get("/who")
    def who(request: Request) -> str:
        principal = request.scope["principal"]
        if not principal.allows(Action.ADMIN, "#"):
            raise HTTPException(403)
        return str(principal.name)

    return app


async def test_its_lifespan_lies_within_the_hubs(tmp_path: Path) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(hub: Hub) -> AsyncIterator[None]:
        log.append("hub starts")
        yield
        log.append("hub ends")

    hub = Hub("test", lifespan=lifespan)
    hub.mount("/shop", shop(hub, log))
    for _ in range(2):
        async with serve(hub, data=str(tmp_path / "data")) as t:
            assert log[-1] == "hub starts"
        assert log[-2:] == ["closed", "hub ends"]
    async with serve(hub, data=str(tmp_path / "data")) as t:
        _, text = await get(t, "/topics/orders")
        assert [text.count("opened"), text.count("closed")] == [3, 2]


async def test_an_application_may_ask_who_asks() -> None:
    hub = Hub("test")
    hub.mount("/shop", shop(hub, []))
    async with serve(hub) as t:
        assert (await get(t, "/shop/who"))[0] == 200
        access = hub.core.access
        _, admin = await access.create_key(access.system, "admin", ["admin:#"])
        _, reader = await access.create_key(access.system, "reader", ["subscribe:#"])
        assert await get(t, "/shop/who", Authorization=f"Bearer {admin}") == (200, '"admin"')
        assert (await get(t, "/shop/who", Authorization=f"Bearer {reader}"))[0] == 403
        assert (await get(t, "/shop/who"))[0] == 403


async def test_an_application_that_cannot_start_keeps_the_hub_from_it(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise ConnectionError("no database")
        yield

    hub = Hub("test")
    hub.mount("/shop", FastAPI(lifespan=lifespan))
    with pytest.raises(RuntimeError, match=r"the application mounted on /shop did not start: .*no database"):
        async with serve(hub):
            pytest.fail("it must not start")
    with pytest.raises(Unavailable):
        assert hub.core
    assert "did not start" in caplog.text


async def test_a_path_that_an_operation_has_is_taken() -> None:
    hub = Hub("test")

    @hub.get("/users/{number}")
    def user(number: int) -> int:
        return number

    hub.mount("/users", app)
    with pytest.raises(ValueError, match=r"hub.mount\('/users'\): the path '/users' is taken"):
        async with serve(hub):
            pytest.fail("it must not start")


async def test_operations_go_before_what_is_on_the_root(folder: Path) -> None:
    (folder / "users").mkdir()
    (folder / "users" / "index.html").write_text("shadowed")
    (folder / "users.html").write_text("a file")
    hub = Hub("test")

    @hub.get("/users/{number}")
    def user(number: int) -> int:
        return number

    hub.mount("/", folder)
    async with serve(hub) as t:
        assert await get(t, "/users/3") == (200, "3")
        assert await get(t, "/users.html") == (200, "a file")
        assert await get(t, "/") == (200, PAGE)


async def test_an_operation_on_the_root_itself(folder: Path) -> None:
    hub = Hub("test")

    @hub.get("/")
    def index() -> str:
        return "an operation"

    hub.mount("/", folder)
    async with serve(hub) as t:
        assert await get(t, "/") == (200, '"an operation"')
        assert await get(t, "/index.html") == (200, PAGE)


async def test_an_operation_that_takes_every_path(folder: Path) -> None:
    hub = Hub("test")

    @hub.get("/{name}")
    def any_name(name: str) -> str:
        return name

    hub.mount("/", folder)
    with pytest.raises(ValueError, match=r"hub.mount\('/'\): the path '/' is taken"):
        async with serve(hub):
            pytest.fail("it must not start")


async def test_stopping_keeps_its_time_with_a_request_that_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()
    theirs = FastAPI()

    @theirs.get("/slow")
    async def slow() -> None:
        begun.set()
        await asyncio.Event().wait()

    hub = Hub("test")
    hub.limits = type(hub.limits)(drain=1_000)
    hub.mount("/shop", theirs)
    caplog.set_level(logging.CRITICAL)
    started = 0.0
    async with serve(hub) as t:
        asking = asyncio.create_task(get(t, "/shop/slow"))
        await begun.wait()
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started < 2.5
    with pytest.raises(aiohttp.ClientError):
        await asking
