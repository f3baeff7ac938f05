"""The hub: declarations in, lifecycle out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from polywire.contract.codec import Codec
from polywire.core.access import Principal
from polywire.core.clock import Clock
from polywire.core.core import Core
from polywire.core.engine import Engine
from polywire.core.errors import Unavailable
from polywire.core.limits import Limits
from polywire.core.subscription import Delivery
from polywire.engines.sqlite import SqliteEngine
from polywire.handlers.injection import Parameters, location
from polywire.handlers.runner import Handler, Middleware, Runner
from polywire.message import Message
from polywire.router import Declarations, HandlerDeclaration, Router
from polywire.topic import start_of

__all__ = ["Hub", "HubSettings"]

T = TypeVar("T")
M = TypeVar("M", bound=Middleware)
Lifespan = Callable[["Hub"], AbstractAsyncContextManager[Any]]
_ANYTHING: Codec[Any] = Codec(Any)


class HubSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What belongs to the hub itself. ``strict`` None: strict if the application declares topics."""

    data: str = "polywire-data"
    strict: bool | None = None
    anonymous_allow: tuple[str, ...] = ()
    threads: int = 16


class Hub(Declarations):
    """Topics and handlers, and the log they live in.

    Declare first; then ``hub.run()``, ``polywire run app.py``, or ``async with hub:`` for the hub without listeners. Two hubs in one process do not
    meet, as long as their data folders differ.
    """

    def __init__(
        self,
        name: str = "polywire",
        *,
        data: str | Path | None = None,
        strict: bool | None = None,
        anonymous_allow: Sequence[str] = (),
        origins: Sequence[str] = (),
        limits: Limits | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.settings = HubSettings(
            data=str(data) if data is not None else HubSettings().data, strict=strict, anonymous_allow=tuple(anonymous_allow)
        )
        self.origins = tuple(origins)
        self.limits = limits or Limits()
        self._lifespan = lifespan
        self._middleware: list[Middleware] = []
        self._core: Core | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: int | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._runners: list[Runner] = []
        self._stack: AsyncExitStack | None = None

    # Declaring

    def include(self, router: Router) -> None:
        """Take in a router's declarations. Raises `ValueError` for a name that is declared twice."""
        router.attach(self)
        for kind, mine, theirs in (("topic", self._topics, router._topics), ("subscription", self._handlers, router._handlers)):
            twice = sorted(set(mine) & set(theirs))
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is declared twice: in the hub and in the router {router._prefix!r}")
            mine.update(theirs)  # type: ignore[attr-defined]

    def middleware(self, function: M) -> M:
        """``async def m(delivery, call_next): ...`` around every delivery, the first declared outermost."""
        self._middleware.append(function)
        return function

    # Life

    @property
    def core(self) -> Core:
        """Raises `Unavailable` before the start."""
        if self._core is None:
            raise Unavailable(f"hub {self.name!r} has not started", hint="use hub.run(), polywire run, or async with hub")
        return self._core

    def configure(self, **changes: Any) -> None:
        """Replace settings before the start, as command line and environment do. Raises `TypeError` for unknown names."""
        self.settings = msgspec.structs.replace(self.settings, **{k: v for k, v in changes.items() if v is not None})

    async def start(self, *, engine: Engine | None = None, clock: Clock | None = None) -> None:
        """Open the log, recover, and run the handlers; no listener. Raises `Unavailable`, `Conflict`, `Internal`, `TypeError`."""
        if self._core is not None:
            raise RuntimeError(f"hub {self.name!r} has started already")
        strict = self.settings.strict if self.settings.strict is not None else bool(self._topics)
        handlers = [self._handler(declaration) for declaration in self._handlers.values()]
        core = Core(
            engine or SqliteEngine(self.settings.data),
            limits=self.limits, clock=clock, strict=strict, anonymous_allow=self.settings.anonymous_allow,
        )  # fmt: skip
        for topic in self._topics.values():
            contract = topic.contract
            core.declare_topic(contract.settings, contract.admit if contract.checks else None)
        await core.start()
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix=f"{self.name}-handler")
        self._stack = AsyncExitStack()
        try:
            if self._lifespan is not None:
                await self._stack.enter_async_context(self._lifespan(self))
            await self._start_handlers(core, handlers)
        except BaseException:
            await self.stop()
            raise

    async def _start_handlers(self, core: Core, handlers: Sequence[Handler]) -> None:
        for declaration in self._handlers.values():
            core.subscriptions.declare(declaration.settings, start_of(declaration.start))
        await core.log.committed()
        for handler in handlers:
            runner = Runner(handler, core, self._middleware, self._in_thread)
            self._runners.append(runner)
            runner.start()

    async def stop(self) -> None:
        """Let running handlers end (for at most `Limits.drain`), then drain and close the log."""
        core, self._core = self._core, None
        if core is None:
            return
        stopping = [asyncio.ensure_future(runner.stop()) for runner in self._runners]
        if stopping:
            _, late = await asyncio.wait(stopping, timeout=self.limits.drain / 1000)
            for runner in self._runners if late else ():
                runner.cancel()
            await asyncio.gather(*stopping, return_exceptions=True)
        self._runners.clear()
        stack, self._stack = self._stack, None
        try:
            if stack is not None:
                await stack.aclose()
        finally:
            await core.stop()
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def run(self, **settings: Any) -> None:
        """Serve until SIGINT or SIGTERM, with every protocol listening. ``settings`` are those of ``polywire run``."""
        from polywire.serving import run  # noqa: PLC0415 - the wires are only loaded by those who serve

        run(self, **settings)

    # Handlers

    def _handler(self, declaration: HandlerDeclaration) -> Handler:
        providers: dict[Any, Callable[[Delivery], Any]] = {
            Delivery: lambda delivery: delivery,
            Message: lambda delivery: Message(delivery.message, self._codec_of(delivery)),
            Principal: lambda delivery: delivery.consumer.principal,
            Hub: lambda delivery: self,
        }
        batch = declaration.batch is not None
        parameters = Parameters(declaration.function, providers, payload=True, batch=batch)
        if declaration.manual and batch:
            raise TypeError(f"{location(declaration.function)}: batch= and ack='manual' do not go together")
        return Handler(
            declaration.function,
            parameters,
            declaration.settings.name,
            declaration.publish.contract if declaration.publish is not None else None,
            declaration.manual,
            declaration.batch,
            declaration.concurrency,
        )

    def _codec_of(self, delivery: Delivery) -> Any:
        topic = self._topics.get(delivery.message.topic)
        return topic.contract.codec if topic is not None else _ANYTHING

    async def _in_thread(self, function: Callable[..., T], **arguments: Any) -> T:
        assert self._threads is not None
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, **arguments))

    def run_from_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or threading.get_ident() == self._loop_thread:
            coroutine.close()
            raise RuntimeError("send() blocks: await publish() on the hub's own thread, and start the hub first")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
