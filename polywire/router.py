"""Declarations, gathered before there is a hub: what a `Hub` and a `Router` have in common."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

import msgspec

from polywire.contract.operations import OperationContract
from polywire.contract.topics import TopicContract
from polywire.core.address import legal_topic
from polywire.core.call import JobPolicy
from polywire.core.durations import parse_duration
from polywire.core.errors import Invalid
from polywire.core.position import Cursor
from polywire.core.routing import Source
from polywire.core.streams import Start
from polywire.core.subscription import SubscriptionSettings
from polywire.core.topics import TopicSettings
from polywire.handlers.injection import location
from polywire.handlers.outcomes import Retry
from polywire.operation import Method, Operation, OperationDeclaration
from polywire.topic import Topic, start_of

if TYPE_CHECKING:
    from polywire.core.core import Core
    from polywire.hub import Hub

__all__ = ["Declarations", "Declaring", "HandlerDeclaration", "Router", "ScheduleDeclaration"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

Duration = str | float
_JOB_RETRY = Retry(attempts=3)


class HandlerDeclaration(msgspec.Struct):
    function: Callable[..., Any]
    settings: SubscriptionSettings
    start: Start
    publish: Topic[Any] | None
    manual: bool
    batch: int | None
    concurrency: int


class ScheduleDeclaration(msgspec.Struct):
    """``interval`` is in ms."""

    function: Callable[..., Any]
    interval: int


class PathOptions(TypedDict, total=False):
    """Of an operation with a path of its own."""

    name: str | None
    status: int | None
    timeout: Duration | None
    retry: Retry | None
    concurrency: int


class Declaring(Generic[T]):
    """The decorator of a handler whose results are published to a ``Topic[T]``; it leaves the function as it is.

    One overload for each kind of result, so that the function keeps its own to type checkers, too.
    """

    def __init__(self, declare: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._declare = declare

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T | None]]
    ) -> Callable[P, Coroutine[Any, Any, T | None]]: ...

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, list[T]]]
    ) -> Callable[P, Coroutine[Any, Any, list[T]]]: ...

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T | list[T] | None]]
    ) -> Callable[P, Coroutine[Any, Any, T | list[T] | None]]: ...

    @overload
    def __call__(self, function: Callable[P, T]) -> Callable[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, T | None]) -> Callable[P, T | None]: ...

    @overload
    def __call__(self, function: Callable[P, list[T]]) -> Callable[P, list[T]]: ...

    @overload
    def __call__(self, function: Callable[P, T | list[T] | None]) -> Callable[P, T | list[T] | None]: ...

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._declare(function)


class Declarations:
    """``topic``, ``subscribe``, ``operation`` and ``every``, for a hub and for routers alike."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._topics: dict[str, Topic[Any]] = {}
        self._handlers: dict[str, HandlerDeclaration] = {}
        self._operations: dict[str, Operation[..., Any]] = {}
        self._schedules: dict[str, ScheduleDeclaration] = {}

    @property
    def topics(self) -> tuple[Topic[Any], ...]:
        """The declared topics, in the order of their declaration."""
        return tuple(self._topics.values())

    def may_declare(self) -> None:
        """Raises `RuntimeError` when it is too late to declare anything."""
        raise NotImplementedError

    def take_in(self, other: Declarations, whose: str) -> None:
        """Take over what was declared elsewhere. Raises `ValueError` for a name that is declared here too."""
        self.may_declare()
        kinds: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
            ("topic", self._topics, other._topics),
            ("subscription", self._handlers, other._handlers),
            ("operation", self._operations, other._operations),
            ("schedule", self._schedules, other._schedules),
        )
        for kind, mine, theirs in kinds:
            twice = sorted(mine.keys() & theirs.keys())
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is declared twice: in the hub and in {whose}")
        for _, mine, theirs in kinds:
            mine.update(theirs)

    @property
    def core(self) -> Core:
        """Of the hub that these declarations belong to."""
        raise NotImplementedError

    def contract_of(self, operation: str) -> OperationContract:
        """Once the hub has started. Raises `NotFound`."""
        raise NotImplementedError

    def run_from_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the hub's loop from another thread, and wait for it."""
        raise NotImplementedError

    @overload
    def topic(
        self,
        name: str,
        type: type[T],
        *,
        key: str | None = None,
        retention: Duration | None = None,
        retention_size: int | None = None,
        hard_limit: int | None = None,
        overflow: Literal["refuse", "drop-oldest", "dead-letter"] = "refuse",
        durability: Literal["durable", "memory"] = "durable",
        latest: bool = False,
        dedup: bool = False,
    ) -> Topic[T]: ...

    @overload
    def topic(
        self,
        name: str,
        type: Any = Any,
        *,
        key: str | None = None,
        retention: Duration | None = None,
        retention_size: int | None = None,
        hard_limit: int | None = None,
        overflow: Literal["refuse", "drop-oldest", "dead-letter"] = "refuse",
        durability: Literal["durable", "memory"] = "durable",
        latest: bool = False,
        dedup: bool = False,
    ) -> Topic[Any]: ...

    def topic(
        self,
        name: str,
        type: Any = Any,
        *,
        key: str | None = None,
        retention: Duration | None = None,
        retention_size: int | None = None,
        hard_limit: int | None = None,
        overflow: Literal["refuse", "drop-oldest", "dead-letter"] = "refuse",
        durability: Literal["durable", "memory"] = "durable",
        latest: bool = False,
        dedup: bool = False,
    ) -> Topic[Any]:
        """Declare a topic: messages of ``type`` (anything, if not given), kept for ``retention`` (``"7d"`` or seconds).

        ``key`` is the field of the payload that is the message's key; ``latest`` keeps the last message of each key for
        good; ``dedup`` stores a CloudEvent once, by its source and id; sizes are bytes. Raises `TypeError` for a type
        that cannot be one, `ValueError` for a name declared twice, `Invalid` for a value that no topic can have.
        """
        self.may_declare()
        full = self._prefix + name
        if full in self._topics:
            raise ValueError(f"topic {full!r} is declared twice")
        settings = TopicSettings(
            full,
            durability=durability,
            retention=parse_duration(retention) if retention is not None else None,
            retention_size=retention_size,
            hard_limit=hard_limit,
            overflow=overflow,
            latest=latest,
            dedup=dedup,
        )
        settings.check()
        topic: Topic[Any] = Topic(self, TopicContract(settings, type, key))
        self._topics[full] = topic
        return topic

    @overload
    def subscribe(
        self,
        *sources: Topic[Any] | str,
        publish: Topic[T],
        name: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
        start: str | datetime | Cursor = "now",
        ordered: bool = False,
        ack: Literal["auto"] = "auto",
        ack_timeout: Duration | None = None,
        batch: int | None = None,
        concurrency: int = 1,
    ) -> Declaring[T]: ...

    @overload
    def subscribe(
        self,
        *sources: Topic[Any] | str,
        publish: None = None,
        name: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
        start: str | datetime | Cursor = "now",
        ordered: bool = False,
        ack: Literal["auto", "manual"] = "auto",
        ack_timeout: Duration | None = None,
        batch: int | None = None,
        concurrency: int = 1,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def subscribe(
        self,
        *sources: Topic[Any] | str,
        publish: Topic[Any] | None = None,
        name: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
        start: str | datetime | Cursor = "now",
        ordered: bool = False,
        ack: Literal["auto", "manual"] = "auto",
        ack_timeout: Duration | None = None,
        batch: int | None = None,
        concurrency: int = 1,
    ) -> Any:
        """Run the decorated function for every message of these topics (or patterns of names), at least once.

        ``publish``: where its result (or a list of them) goes, in one commit with the acknowledgement. ``key`` and
        ``headers`` filter. ``start`` is where a new subscription begins: ``now``, ``earliest``, a time or a cursor.
        ``ordered``: one message per key at a time, also with ``concurrency``. ``batch``: the payload is a list of up to
        so many. The removal of a retained message is only seen by a handler whose payload may be None. The function
        stays callable as it is. Raises `TypeError`, `ValueError`, `Invalid` for what cannot be declared.
        """
        if not sources:
            raise ValueError("subscribe to at least one topic")
        if ack not in ("auto", "manual"):
            raise ValueError(f"ack is 'auto' or 'manual', not {ack!r}")
        begin = start_of(start)
        chosen = [self._source(source, key, headers) for source in sources]

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            self.may_declare()
            policy = retry or Retry()
            full = f"{self._prefix}{name or getattr(function, '__name__', 'handler')}"
            if full in self._handlers:
                raise ValueError(
                    f"{location(function)}: a subscription named {full!r} is declared twice; give it a name="
                )
            if concurrency < 1 or (batch is not None and batch < 1):
                raise ValueError(f"{location(function)}: concurrency and batch are at least 1")
            if ack == "manual" and (batch is not None or publish is not None):
                raise ValueError(f"{location(function)}: ack='manual' goes with neither batch= nor publish=")
            settings = SubscriptionSettings(
                name=full,
                sources=chosen,
                ordered=ordered,
                attempts=policy.attempts,
                backoff=policy.backoff(),
                ack_timeout=parse_duration(ack_timeout) if ack_timeout is not None else None,
            )
            self._handlers[full] = HandlerDeclaration(
                function, settings, begin, publish, ack == "manual", batch, concurrency
            )
            return function

        return Declaring(declare)

    @overload
    def operation(self, function: Callable[P, R], /) -> Operation[P, R]: ...

    @overload
    def operation(
        self,
        /,
        *,
        name: str | None = None,
        safe: bool = False,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        concurrency: int = 10,
    ) -> Callable[[Callable[P, R]], Operation[P, R]]: ...

    def operation(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        safe: bool = False,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        concurrency: int = 10,
    ) -> Any:
        """Make a function callable over every protocol, as ``POST /operations/NAME`` does over REST.

        Its parameters that are not injected are the fields of the request, its result is the reply; an async generator
        streams. ``safe``: it changes nothing. ``timeout`` (``"5m"`` or seconds; 0 for none) overrides the hub's limits.
        Its jobs are tried again as ``retry`` says (three times, if not given), ``concurrency`` of them at a time.
        """
        declare = self._declaring(name=name, safe=safe, timeout=timeout, retry=retry, concurrency=concurrency)
        return declare if function is None else declare(function)

    def get(
        self, path: str, *, name: str | None = None, status: int | None = None, timeout: Duration | None = None
    ) -> Callable[[Callable[P, R]], Operation[P, R]]:
        """An operation with a path of its own, as ``/users/{user_id}``; the other parameters come from the query.

        It changes nothing: its answers have an ETag.
        """
        return self._declaring("GET", path, name=name, status=status, timeout=timeout)

    def post(self, path: str, **options: Unpack[PathOptions]) -> Callable[[Callable[P, R]], Operation[P, R]]:
        """An operation with a path of its own. The parameters that are not in the path are the body's fields; a single
        structured one among them is the body itself, and the others come from the query. ``status``: of its answer,
        if not 200 (204 where it answers nothing). The other options are those of `operation`."""
        return self._declaring("POST", path, **options)

    def put(self, path: str, **options: Unpack[PathOptions]) -> Callable[[Callable[P, R]], Operation[P, R]]:
        """As `post`."""
        return self._declaring("PUT", path, **options)

    def patch(self, path: str, **options: Unpack[PathOptions]) -> Callable[[Callable[P, R]], Operation[P, R]]:
        """As `post`."""
        return self._declaring("PATCH", path, **options)

    def delete(self, path: str, **options: Unpack[PathOptions]) -> Callable[[Callable[P, R]], Operation[P, R]]:
        """As `post`, but the other parameters come from the query."""
        return self._declaring("DELETE", path, **options)

    def _declaring(
        self,
        method: Method | None = None,
        path: str | None = None,
        *,
        name: str | None = None,
        safe: bool = False,
        status: int | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        concurrency: int = 10,
    ) -> Callable[[Callable[P, R]], Operation[P, R]]:
        milliseconds = parse_duration(timeout) if timeout is not None else None
        policy = retry or _JOB_RETRY
        jobs = JobPolicy(policy.attempts, policy.backoff(), concurrency)

        def declare(function: Callable[P, R]) -> Operation[P, R]:
            self.may_declare()
            plain = function.declaration.function if isinstance(function, Operation) else function
            full = f"{self._prefix}{name or getattr(plain, '__name__', 'operation')}"
            if not legal_topic(full):
                raise ValueError(f"{location(plain)}: not a name for an operation: {full!r}; give it a name=")
            if full in self._operations:
                raise ValueError(f"{location(plain)}: an operation named {full!r} is declared twice; give it a name=")
            if concurrency < 1:
                raise ValueError(f"{location(plain)}: concurrency is at least 1")
            declared = OperationDeclaration(full, plain, method, path, safe, status, milliseconds, jobs)
            operation: Operation[P, R] = Operation(self, declared)
            self._operations[full] = operation
            return operation

        return declare

    def every(self, interval: Duration, *, name: str | None = None) -> Callable[[F], F]:
        """Run the decorated function every ``interval`` (``"1h"``, or seconds), first after one.

        It is given what it asks for by annotation: `Hub`, `Principal` (the hub's own), ``Annotated[X, Depends(f)]``.
        When it runs next is stored under its ``name``: a restart neither skips a run nor repeats it; of several that
        were missed one is made up for. It never runs twice at a time. What it raises is logged and counted. The
        function stays callable as it is.
        """
        milliseconds = parse_duration(interval)
        if milliseconds < 1:
            raise ValueError(f"every {interval!r} is all the time")

        def declare(function: F) -> F:
            self.may_declare()
            full = f"{self._prefix}{name or getattr(function, '__name__', 'schedule')}"
            if full in self._schedules:
                raise ValueError(f"{location(function)}: a schedule named {full!r} is declared twice; give it a name=")
            self._schedules[full] = ScheduleDeclaration(function, milliseconds)
            return function

        return declare

    def _source(self, source: Topic[Any] | str, key: str | None, headers: Mapping[str, str] | None) -> Source:
        if not isinstance(source, (Topic, str)):
            raise TypeError(
                f"subscribe takes topics and names of topics, not {source!r} (is there a pair of parentheses missing?)"
            )
        topic = source.name if isinstance(source, Topic) else source
        return Source(topic, key, dict(headers or {}))


class Router(Declarations):
    """Declarations for one part of a large application; ``hub.include(router)`` takes them in."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self._hub: Hub | None = None

    def attach(self, hub: Hub) -> None:
        """Give everything declared here to the hub. Raises `ValueError`."""
        if self._hub is not None:
            raise ValueError("this router is included already")
        hub.take_in(self, f"the router {self._prefix!r}")
        self._hub = hub

    def may_declare(self) -> None:
        if self._hub is not None:
            raise RuntimeError("declare topics and handlers before hub.include(router)")

    @property
    def core(self) -> Core:
        return self._required().core

    def contract_of(self, operation: str) -> OperationContract:
        return self._required().contract_of(operation)

    def run_from_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            hub = self._required()
        except Invalid:
            coroutine.close()
            raise
        return hub.run_from_thread(coroutine)

    def _required(self) -> Hub:
        if self._hub is None:
            raise Invalid("this router is not part of a hub", hint="call hub.include(router)")
        return self._hub
