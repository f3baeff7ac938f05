"""A whole hub, with its operations, on real sockets, its event loop in a thread: for clients that block."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests

from polywire import Hub
from polywire.core.core import Core
from polywire.serving import ServeSettings
from polywire.testing import Served, serve

T = TypeVar("T")


class ServedHub:
    """``url`` is where it listens; `run` runs a coroutine on its loop; `get`, `post`, … are those of `requests`."""

    def __init__(self, hub: Hub, folder: Path, settings: ServeSettings | None = None) -> None:
        self.hub = hub
        self.session = requests.Session()
        self._folder = folder
        self._settings = settings
        self._stack = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.served: Served

    def start(self) -> None:
        self._thread.start()
        self.run(self._start())

    async def _start(self) -> None:
        serving = serve(self.hub, settings=self._settings, data=str(self._folder))
        self.served = await self._stack.enter_async_context(serving)

    def stop(self) -> None:
        self.session.close()
        try:
            self.run(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    @property
    def url(self) -> str:
        return self.served.http_url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def core(self) -> Core:
        return self.hub.core

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 30) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """``function`` on the hub's loop."""

        async def calling() -> T:
            return function(*args, **kwargs)

        return self.run(calling())

    def until(self, condition: Callable[[], object], seconds: float = 10) -> None:
        """Wait until ``condition``, asked on the hub's loop, is true; fails after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self.call(condition):
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.005)

    def request(self, method: str, path: str, **given: Any) -> requests.Response:
        given.setdefault("timeout", 30)
        return self.session.request(method, self.url + path, **given)

    def get(self, path: str, **given: Any) -> requests.Response:
        return self.request("GET", path, **given)

    def post(self, path: str, **given: Any) -> requests.Response:
        return self.request("POST", path, **given)


@contextmanager
def serving_hub(hub: Hub, folder: Path, settings: ServeSettings | None = None) -> Iterator[ServedHub]:
    served = ServedHub(hub, folder, settings)
    served.start()
    try:
        yield served
    finally:
        served.stop()
