"""A hub with the HTTP wires on a real socket, its event loop in a thread, for clients that block."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests

from polywire.contract.contract import Contract
from polywire.core.clock import ManualClock
from polywire.core.core import Core
from polywire.core.limits import Limits
from polywire.engines.sqlite import SqliteEngine
from polywire.server.listener import HttpListener
from polywire.server.settings import HttpSettings
from polywire.wires.rest import RestApp, RestSettings
from polywire.wires.rest.direct import DirectPublish
from polywire.wires.sse import SseApp, SseSettings

T = TypeVar("T")


class HttpHub:
    """``url`` is where it listens; `run` runs a coroutine on its loop; `get`, `post`, … are those of `requests`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.limits: Limits = settings.pop("limits", Limits())
        self.rest: RestSettings = settings.pop("rest", RestSettings())
        self.sse: SseSettings = settings.pop("sse", SseSettings())
        self.pages: dict[str, str] = settings.pop("pages", {})
        self.http = HttpSettings(port=0, **settings)
        self.clock = ManualClock()
        self.url = ""
        self.core: Core
        self.session = requests.Session()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.run(self._start())

    async def _start(self) -> None:
        self.core = Core(SqliteEngine(str(self.folder)), limits=self.limits, clock=self.clock)
        await self.core.start()
        self.listener = HttpListener(self.http, self.core.access)
        sse = SseApp(self.core, settings=self.sse, connections=self.listener.connections)
        nothing = Contract("", (), ())
        self.app = RestApp(self.core, nothing, settings=self.rest, events=sse, name="greenhouse", version="1.2.3")
        self.app.mount(self.listener.router)
        DirectPublish(self.app).mount(self.listener.router)
        self.listener.router.mount_fallback(self.app)
        for path, page in self.pages.items():
            self.listener.router.mount_exact(path, _Page(page))
        await self.listener.start()
        self.url = self.listener.url

    def stop(self) -> None:
        self.session.close()
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        await self.core.stop()
        await self.listener.drain(2)
        await self.listener.close()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 30) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """``function`` on the hub's loop."""

        async def calling() -> T:
            return function(*args, **kwargs)

        return self.run(calling())

    def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait until ``condition``, asked on the hub's loop, is true; fails after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self.call(condition):
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.005)

    def cut(self) -> None:
        """Every open connection is lost, as when a cable is pulled."""

        def cutting() -> None:
            for connection in list(self.listener.state.connections):
                connection.transport.abort()

        self.call(cutting)

    def request(self, method: str, path: str, **given: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=30, **given)

    def get(self, path: str, **given: Any) -> requests.Response:
        return self.request("GET", path, **given)

    def post(self, path: str, **given: Any) -> requests.Response:
        return self.request("POST", path, **given)

    def put(self, path: str, **given: Any) -> requests.Response:
        return self.request("PUT", path, **given)

    def delete(self, path: str, **given: Any) -> requests.Response:
        return self.request("DELETE", path, **given)

    def messages(self, topic: str, **query: Any) -> list[dict[str, Any]]:
        answer = self.get(f"/topics/{topic}", params=query)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["messages"]
        return found


class _Page:
    """An HTML page from the hub's own origin, for a browser."""

    def __init__(self, text: str) -> None:
        self._body = text.encode()

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[HttpHub]:
    hub = HttpHub(folder, **settings)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()
