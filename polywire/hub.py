"""The hub: declarations in, lifecycle out."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, get_args, overload

import msgspec
from msgspec import Meta

from polywire.contract.codec import Codec
from polywire.contract.contract import Contract
from polywire.contract.operations import OperationContract
from polywire.core.access import Principal
from polywire.core.calls import Call
from polywire.core.clock import Clock
from polywire.core.core import Core
from polywire.core.endings import Deadline, ended_within
from polywire.core.engine import Engine
from polywire.core.errors import NotFound, Unavailable
from polywire.core.limits import Limits
from polywire.core.subscription import Delivery
from polywire.core.units import text, texts
from polywire.engines.sqlite import SqliteEngine
from polywire.handlers.injection import Kind, Parameters, location
from polywire.handlers.invocation import Invocation, Middleware
from polywire.handlers.operations import core_operation, core_schedule, operation_contract
from polywire.handlers.runner import Handler, Runner
from polywire.handlers.threads import Threads
from polywire.job import Job
from polywire.message import Message
from polywire.mounts import Application, Mounts
from polywire.operation import Operation, OperationDeclaration
from polywire.router import Declarations, HandlerDeclaration, Router
from polywire.topic import Topic

if TYPE_CHECKING:
    from polywire.embedding import EmbeddedHub

__all__ = ["Hub", "HubSettings"]

T = TypeVar("T")
M = TypeVar("M", bound=Middleware)
Lifespan = Callable[["Hub"], AbstractAsyncContextManager[Any]]
_logger = logging.getLogger("polywire.hub")
_ANYTHING: Codec[Any] = Codec(Any)


class HubSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What belongs to the hub itself. ``strict`` None: strict if the application declares topics."""

    data: Annotated[str, text("folder of the log")] = "polywire-data"
    strict: Annotated[bool | None, text("only declared topics exist; not given: if the application declares any")] = (
        None
    )
    anonymous_allow: Annotated[
        tuple[str, ...], texts("what callers without an API key may do once keys exist, as publish:chat.#")
    ] = ()
    threads: Annotated[int, Meta(ge=1, description="threads for handlers that are plain functions")] = 16


class Hub(Declarations):
    """Topics and handlers, and the log they live in.

    Declare first; then ``hub.run()``, ``polywire run app.py``, or ``async with hub:`` for the hub without listeners.
    Two hubs in one process do not meet, as long as their data folders differ. ``version`` and ``description`` are the
    application's own, for its documents.
    """

    def __init__(
        self,
        name: str = "polywire",
        *,
        version: str = "",
        description: str = "",
        data: str | Path | None = None,
        strict: bool | None = None,
        anonymous_allow: Sequence[str] = (),
        origins: Sequence[str] = (),
        limits: Limits | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.version = version
        self.description = description
        self.settings = HubSettings(
            data=str(data) if data is not None else HubSettings().data,
            strict=strict,
            anonymous_allow=tuple(anonymous_allow),
        )
        self.origins = tuple(origins)
        self.limits = limits or Limits()
        self._lifespan = lifespan
        self._middleware: list[Middleware] = []
        self._core: Core | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: int | None = None
        self._threads: Threads | None = None
        self._runners: list[Runner] = []
        self._stack: AsyncExitStack | None = None
        self._stopping = False
        self.contract = Contract(name, (), ())
        """What is declared, as documents and protocols read it; complete once the hub has started."""
        self.mounts = Mounts()
        """What is served beside the protocols: see `mount`."""
        self._embedded: EmbeddedHub | None = None
        self.left_behind: list[asyncio.Task[object]] = []
        """What did not end when the hub stopped."""

    # Declaring

    def include(self, router: Router) -> None:
        """Take in a router's declarations. Raises `ValueError` for a name that is declared twice."""
        router.attach(self)

    def may_declare(self) -> None:
        if self._core is not None:
            raise RuntimeError(f"hub {self.name!r} has started: declare topics and handlers before")

    def topic_named(self, name: str) -> Topic[Any]:
        """A declared topic by its name. Raises `NotFound`."""
        topic = self._topics.get(name)
        if topic is None:
            raise NotFound(f"hub {self.name!r} declares no topic {name!r}")
        return topic

    def middleware(self, function: M) -> M:
        """``async def m(occasion, call_next): ...`` around every delivery and every call, the first declared outermost.

        The occasion is a `Delivery` or a `Call`. What it returns is the handler's or the operation's result; around an
        operation that streams ``call_next()`` returns None, after the last item.
        """
        self.may_declare()
        self._middleware.append(function)
        return function

    def mount(self, path: str, app: Application | str | Path) -> None:
        """Serve an ASGI application, or the files of a folder, on ``path`` and below it, beside the protocols.

        On ``/`` it gets what nobody else claims, the hub's own index included. It is public; who is asking stands in
        ``scope["principal"]``. Its lifespan starts after the hub's and ends before it. Raises `ValueError` for a path
        that is taken and a folder that is not there, `TypeError` for what is no ASGI application.
        """
        self.may_declare()
        self.mounts.add(path, app)

    # Life

    @property
    def core(self) -> Core:
        """Raises `Unavailable` before the start."""
        if self._core is None:
            raise Unavailable(
                f"hub {self.name!r} has not started", hint="use hub.run(), polywire run, or async with hub"
            )
        return self._core

    def configure(self, **changes: Any) -> None:
        """Replace settings before the start, as command line and environment do; None changes nothing.

        Raises `TypeError` for unknown names.
        """
        self.settings = msgspec.structs.replace(self.settings, **{k: v for k, v in changes.items() if v is not None})

    async def start(self, *, engine: Engine | None = None, clock: Clock | None = None) -> None:
        """Open the log, recover, and run the handlers; no listener.

        Raises `Unavailable` (locked, read-only, no space), `Conflict`, `Internal` (a damaged log), and `TypeError` for
        a handler that cannot be called, naming file, line and parameter.
        """
        if self._core is not None:
            raise RuntimeError(f"hub {self.name!r} has started already")
        handlers = [self._handler(declaration) for declaration in self._handlers.values()]
        core = Core(
            engine or SqliteEngine(self.settings.data),
            limits=self.limits, clock=clock, strict=self.strict, anonymous_allow=self.settings.anonymous_allow,
        )  # fmt: skip
        for topic in self._topics.values():
            contract = topic.contract
            core.declare_topic(contract.settings, contract.admit if contract.checks else None)
        self._threads = Threads(self.settings.threads, f"{self.name}-handler")
        self.contract = self._declare_operations(core, self._threads)
        self._declare_schedules(core, self._threads)
        await core.start()
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stack = AsyncExitStack()
        try:
            if self._lifespan is not None:
                await self._stack.enter_async_context(self._lifespan(self))
            await self._start_handlers(core, handlers, self._threads)
        except BaseException:
            await self.stop()
            raise

    async def _start_handlers(self, core: Core, handlers: Sequence[Handler], threads: Threads) -> None:
        for declaration in self._handlers.values():
            core.subscriptions.declare(declaration.settings, declaration.start)
        self._name_abandoned(core)
        await core.log.committed()
        for handler in handlers:
            runner = Runner(handler, core, self._middleware, threads.run)
            self._runners.append(runner)
            runner.start()
        core.jobs.work()
        core.schedules.start()

    def _name_abandoned(self, core: Core) -> None:
        """A handler that left the application leaves its subscription, which goes on holding messages."""
        for subscription in core.subscriptions:
            mine = subscription.owner == core.access.system.name and subscription.settings.kind == "queue"
            if mine and subscription.name not in self._handlers:
                _logger.warning(
                    "subscription %s has no handler any more and holds %d messages; delete it if it is not needed",
                    subscription.name,
                    subscription.pending.count,
                )

    @property
    def strict(self) -> bool:
        """Whether only declared topics exist."""
        return self.settings.strict if self.settings.strict is not None else bool(self._topics)

    def describe(self) -> Contract:
        """What is declared, whether or not the hub has started.

        Raises `TypeError` for an operation that no protocol can call, naming file, line and parameter.
        """
        return self._contract([contract for _, _, contract in self._described()])

    def _declare_operations(self, core: Core, threads: Threads) -> Contract:
        """Raises as `describe`."""
        contracts = []
        for declared, parameters, contract in self._described():
            invocation = Invocation(parameters, declared.name, self._middleware, threads.run)
            contracts.append(contract)
            core.calls.declare(core_operation(contract, invocation, declared))
        return self._contract(contracts)

    def _described(self) -> Iterator[tuple[OperationDeclaration, Parameters, OperationContract]]:
        kinds: dict[Any, Kind] = {
            Call: Kind(lambda _: lambda call: call),
            Principal: Kind(lambda _: lambda call: call.principal),
            Hub: Kind(lambda _: lambda _: self),
        }
        for operation in self._operations.values():
            declared = operation.declaration
            parameters = Parameters(declared.function, kinds, payload="fields")
            yield declared, parameters, operation_contract(declared, parameters)

    def _contract(self, operations: Sequence[OperationContract]) -> Contract:
        topics = tuple(topic.contract for topic in self._topics.values())
        return Contract(self.name, topics, tuple(operations), version=self.version, description=self.description)

    def _declare_schedules(self, core: Core, threads: Threads) -> None:
        """Raises `TypeError` for one that cannot be called, naming file, line and parameter."""
        kinds: dict[Any, Kind] = {
            Principal: Kind(lambda _: lambda _: core.access.system),
            Hub: Kind(lambda _: lambda _: self),
        }
        for name, declared in self._schedules.items():
            parameters = Parameters(declared.function, kinds, payload="none")
            invocation = Invocation(parameters, name, (), threads.run)
            core.schedules.declare(core_schedule(name, declared.interval, invocation))

    # Calling

    @overload
    async def call(self, operation: Operation[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> T: ...

    @overload
    async def call(self, operation: Operation[..., T], /, *args: Any, **kwargs: Any) -> T: ...

    @overload
    async def call(self, operation: str, /, *args: Any, **kwargs: Any) -> Any: ...

    async def call(self, operation: str | Operation[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The result of an operation, called as a client would: arguments are checked, middleware runs.

        Raises `NotFound`, `Invalid`, `DeadlineExceeded`, and what the operation raises.
        """
        name, arguments = self._bound(operation, args, kwargs)
        return await self.core.calls.call(self.core.access.system, name, arguments)

    def call_from_thread(self, operation: str | Operation[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`call` for ``def`` handlers and other threads; blocks. Raises `RuntimeError` on the hub's own thread."""
        return self.run_from_thread(self.call(operation, *args, **kwargs))

    def stream(self, operation: str | Operation[..., Any], /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """The items of an operation that streams, called as `call` does; close the iterator to end it before its end.

        Raises as `call`, `Unsupported` for an operation that answers with one result.
        """
        name, arguments = self._bound(operation, args, kwargs)
        return self.core.calls.stream(self.core.access.system, name, arguments)

    def job(self, id: str) -> Job[Any]:
        """A job by its id; whether there is one, its methods say."""
        return Job(self, id)

    def _bound(
        self, operation: str | Operation[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        name = operation.name if isinstance(operation, Operation) else operation
        self.core.calls.require(self.core.access.system, name)
        return name, self.contract.operation(name).bind(args, kwargs)

    def contract_of(self, operation: str) -> OperationContract:
        return self.contract.operation(operation)

    async def stop(self) -> None:
        """Let running handlers end, then the lifespan; drain and close the log. At most `Limits.drain`, all in all."""
        if self._core is None or self._stopping:
            return
        self._stopping = True
        try:
            await self._stop(self._core)
        finally:
            self._core = self._loop = self._loop_thread = None
            self._stopping = False

    async def _stop(self, core: Core) -> None:
        """Each step has its share of the time; what does not end in it is left behind, and named in the log."""
        deadline = Deadline(self.limits.drain * 0.9 / 1000)
        # Until the core itself drains, handlers and the lifespan may publish what they still have.
        core.refuse_clients()
        share = deadline.left(0.6)
        left = await asyncio.gather(
            core.jobs.stop(share), core.schedules.stop(share), *(runner.stop(share) for runner in self._runners),
            core.calls.drain(share),
        )  # fmt: skip
        self.left_behind.extend(task for tasks in left for task in tasks or ())
        self._runners.clear()
        stack, self._stack = self._stack, None
        try:
            if stack is not None:
                self._leave(await ended_within(deadline.left(0.6), stack.aclose(), "the lifespan"))
        finally:
            self._leave(await core.stop(within=deadline.left()))
            if self._threads is not None:
                self._threads.stop()

    def _leave(self, task: asyncio.Task[object] | None) -> None:
        if task is not None:
            self.left_behind.append(task)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def on_stop(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Await ``callback`` when the running hub stops: after its handlers, before its own lifespan ends."""
        if self._stack is None:
            raise RuntimeError(f"hub {self.name!r} is not running")
        self._stack.push_async_callback(callback)

    def asgi(self, *, open: bool = False, **http: Any) -> EmbeddedHub:
        """The hub as an ASGI application, to be mounted in another: ``app.mount("/hub", hub.asgi())``.

        Give the host `lifespan`, or the first request starts the hub. ``open``: serve other machines, too, while the
        hub has no API keys. ``http`` are fields of `HttpSettings`, as ``origins``; file and environment are read as by
        `run`. Raises `ValueError` if it was called with other settings before.
        """
        return self._as_embedded().set(open=open, **http)

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:  # noqa: ARG002 - its signature
        """The hub's life as a lifespan of an ASGI framework: ``FastAPI(lifespan=hub.lifespan)``; or, inside one's own,
        ``async with hub.lifespan(app):``."""
        return self._as_embedded().lifespan()

    def _as_embedded(self) -> EmbeddedHub:
        from polywire.embedding import EmbeddedHub  # the wires are only loaded by those who serve

        if self._embedded is None:
            self._embedded = EmbeddedHub(self)
        return self._embedded

    def run(self, **settings: Any) -> None:
        """Serve until SIGINT or SIGTERM, with every protocol listening. ``settings`` are those of ``polywire run``."""
        from polywire.serving import run  # the wires are only loaded by those who serve

        run(self, **settings)

    # Handlers

    def _handler(self, declaration: HandlerDeclaration) -> Handler:
        kinds: dict[Any, Kind] = {
            Delivery: Kind(lambda _: lambda delivery: delivery, single=True),
            Message: Kind(self._messages, single=True),
            Principal: Kind(lambda _: lambda delivery: delivery.consumer.principal),
            Hub: Kind(lambda _: lambda _: self),
        }
        results = declaration.publish
        if results is not None and self._topics.get(results.name) is not results:
            where = location(declaration.function)
            raise TypeError(f"{where}: publish= is topic {results.name!r} of another hub, or of a router not included")
        batch = declaration.batch is not None
        parameters = Parameters(declaration.function, kinds, payload="one", batch=batch)
        return Handler(
            declaration.function,
            parameters,
            declaration.settings.name,
            results.contract if results is not None else None,
            declaration.manual,
            declaration.batch,
            declaration.concurrency,
        )

    def _messages(self, hint: Any) -> Callable[[Delivery], Message[Any]]:
        """``Message[T]`` is of ``T``; ``Message`` of what its topic was declared to hold."""
        if get_args(hint):
            codec: Codec[Any] = Codec(get_args(hint)[0])
            return lambda delivery: Message(delivery.message, codec)

        def message(delivery: Delivery) -> Message[Any]:
            topic = self._topics.get(delivery.message.topic)
            return Message(delivery.message, topic.contract.codec if topic is not None else _ANYTHING)

        return message

    def run_from_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the hub's loop, from another thread, and wait for it. Raises `RuntimeError` on its own."""
        if self._loop is None or threading.get_ident() == self._loop_thread:
            coroutine.close()
            raise RuntimeError(
                "this blocks: await publish() or call() on the hub's own thread, and start the hub first"
            )
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
