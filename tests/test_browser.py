"""A real browser: EventSource, fetch and WebSocket of a page from another origin, through a connection that is cut."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

import polywire.testing
from polywire import Hub
from polywire.core.streams import Earliest
from polywire.serving import ServeSettings
from polywire.testing import Served
from polywire.wires.sse import SseSettings
from tests.conftest import require_tool

PAGE = """<!doctype html><meta charset="utf-8"><script>
const hub = new URLSearchParams(location.search).get("hub");
let told = Promise.resolve();  // one after the other: requests side by side may overtake
const tell = (what) => told = told.then(() => fetch(hub + "/topics/seen", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(what)})).catch(() => {});
const events = new EventSource(hub + "/topics/news/events?from=earliest");
events.onmessage = (event) => tell({event: event.data, id: event.lastEventId});
const socket = new WebSocket(hub.replace("http", "ws") + "/chat");
socket.onopen = () => socket.send("hello from a browser");
socket.onmessage = (message) => tell({chat: message.data});
</script>"""


class Proxy:
    """Passes bytes on, until it is told to cut every connection and to take no more."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, upstream_writer):
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


@asynccontextmanager
async def page_server() -> AsyncIterator[str]:
    """Another origin that has the page."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def browser(url: str) -> AsyncIterator[None]:
    chromium = require_tool("chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--remote-debugging-port=0", url,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 10)
            if process.returncode is None:
                process.kill()
                await process.wait()


async def seen(t: Served, what: str, count: int) -> list[Any]:
    """What the page told of, once it is so much."""
    found: list[Any] = []
    async with asyncio.timeout(30):
        async for message in t.hub.topic_named("seen").follow("earliest"):
            if what in message.value:
                found.append(message.value[what])
                if len(found) == count:
                    return found
    raise AssertionError("the hub stopped")


async def test_event_source_goes_on_where_it_was() -> None:
    require_tool("chromium")
    async with page_server() as origin:
        hub = Hub("browser", origins=[origin])
        news, chat = hub.topic("news"), hub.topic("chat")
        hub.topic("seen")
        settings = ServeSettings(sse=SseSettings(retry=200))
        async with polywire.testing.serve(hub, settings=settings) as t, contextlib.AsyncExitStack() as stack:
            proxy = Proxy(int(t.http_url.rpartition(":")[2]))
            await proxy.open()
            stack.push_async_callback(proxy.cut)
            for number in range(3):
                await news.publish(number)
            async with browser(f"{origin}/?hub=http://127.0.0.1:{proxy.port}"):
                assert await seen(t, "event", 3) == ["0", "1", "2"]
                assert await seen(t, "chat", 1) == ["hello from a browser"]
                await chat.publish({"from": "python"})
                assert await seen(t, "chat", 2) == ["hello from a browser", '{"from":"python"}']

                await proxy.cut()
                for number in range(3, 6):
                    await news.publish(number)
                await proxy.open()
                assert await seen(t, "event", 6) == ["0", "1", "2", "3", "4", "5"]


async def test_a_foreign_page_sees_nothing() -> None:
    require_tool("chromium")
    async with page_server() as foreign, page_server() as origin:
        hub = Hub("browser", origins=[origin])
        for name in ("news", "seen", "chat"):
            hub.topic(name)
        async with polywire.testing.serve(hub) as t:
            await hub.topic_named("news").publish("for friends")
            # The allowed page loads later, and is heard; so the foreign one had its chance.
            async with browser(f"{foreign}/?hub={t.http_url}"), browser(f"{origin}/?hub={t.http_url}"):
                assert await seen(t, "event", 1) == ['"for friends"']
                assert await seen(t, "chat", 1) == ["hello from a browser"]
            page = await hub.core.read(hub.core.access.system, "seen", Earliest())
            assert len(page.messages) == 2
