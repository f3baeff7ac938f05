"""What a handler's parameters are given: by annotation only; the one parameter left is the payload.

Checked when the handler is declared: anything unclaimed is a `TypeError` that names file, line and parameter.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from polywire.contract.codec import Codec
from polywire.contract.objects import Parameter

__all__ = ["Depends", "Kind", "Parameters", "location"]

Run = Callable[..., Awaitable[Any]]
_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


class Depends(msgspec.Struct, frozen=True):
    """``Annotated[X, Depends(f)]``: the parameter is what ``f`` returns or yields; generators are closed after the
    handler.

    ``f`` is called once per message, however many ask for it, and may itself ask for dependencies.
    """

    function: Callable[..., Any]


class Kind(NamedTuple):
    """How parameters of one annotation are provided: ``of(hint)`` gives the function from an occasion to the value.

    An occasion is what the function is called for: a delivery, or a call. ``single``: the value belongs to one
    delivery; a handler of batches takes a list of them.
    """

    of: Callable[[Any], Callable[[Any], Any]]
    single: bool = False


Provide = Callable[[Sequence[Any]], Any]
"""From what is handled at once (without ``batch=`` one occasion) to the value of one parameter."""


class Parameters:
    """How to call a function: which parameters are injected (``kinds``, by annotation), and which are the payload.

    ``payload``: whether ``one`` parameter may be left for it, or several that are its ``fields``, or ``none``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        kinds: Mapping[Any, Kind],
        *,
        payload: Literal["none", "one", "fields"],
        batch: bool = False,
    ) -> None:
        self.function = function
        self.fields: list[Parameter] = []
        self.payload_name: str | None = None
        self._payload_codec: Codec[Any] | None = None
        self._codecs: list[Codec[Any]] = []  # what else must be able to read the payload
        self._injected: list[tuple[str, Provide]] = []
        self._dependencies: list[tuple[str, Depends, Parameters]] = []
        self._kinds = kinds
        self._payload = payload
        self._batch = batch
        hints = _hints(function)
        self.returns: Any = hints.get("return", Any)
        for name, parameter in inspect.signature(function).parameters.items():
            self._claim(parameter, hints.get(name, Any))
        if batch and payload == "one" and not self._takes_messages():
            raise TypeError(f"{location(function)}: with batch= one parameter must take the list of payloads")

    def _takes_messages(self) -> bool:
        return self.payload_name is not None or bool(self._injected)

    def _claim(self, parameter: inspect.Parameter, hint: Any) -> None:
        name = parameter.name
        depends = _depends(hint)
        plain = _plain(hint)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{location(self.function)}: parameter {name!r} cannot be positional-only")
        variadic = parameter.kind in _VARIADIC
        if depends is not None:
            inner = Parameters(depends.function, self._kinds, payload="none", batch=self._batch)
            self._codecs += inner._codecs
            self._dependencies.append((name, depends, inner))
        elif (provide := self._provider(name, plain)) is not None:
            self._injected.append((name, provide))
        elif self._payload == "fields" and not variadic:
            self._codec(name, plain)
            self.fields.append(Parameter(name, plain, parameter.default))
        elif self._payload == "one" and self.payload_name is None and not variadic:
            self.payload_name = name
            self._payload_codec = self._codec(name, self._payload_type(name, plain))
        elif not variadic and parameter.default is parameter.empty:
            raise TypeError(
                f"{location(self.function)}: parameter {name!r} of {_name(self.function)} is claimed by nothing; "
                f"annotate it with {', '.join(_name(kind) for kind in self._kinds)} or Annotated[X, Depends(f)]"
            )

    def _provider(self, name: str, hint: Any) -> Provide | None:
        if self._batch and get_origin(hint) is list and get_args(hint):
            element = get_args(hint)[0]
            kind = self._kinds.get(_base(element))
            if kind is None or not kind.single:
                return None
            each = self._of(name, kind, element)
            return lambda occasions: [each(occasion) for occasion in occasions]
        kind = self._kinds.get(_base(hint))
        if kind is None:
            return None
        if kind.single and self._batch:
            raise TypeError(f"{location(self.function)}: with batch= parameter {name!r} must be a list[{_name(hint)}]")
        one = self._of(name, kind, hint)
        return lambda occasions: one(occasions[0])

    def _of(self, name: str, kind: Kind, hint: Any) -> Callable[[Any], Any]:
        """The payload of a ``Message[T]`` is looked at before the handler, as a payload parameter's is."""
        if kind.single and get_args(hint):
            self._codecs.append(self._codec(name, get_args(hint)[0]))
        return kind.of(hint)

    def _payload_type(self, name: str, hint: Any) -> Any:
        if not self._batch:
            return hint
        arguments = get_args(hint)
        if hint is not list and get_origin(hint) is not list and hint is not Any:
            raise TypeError(f"{location(self.function)}: with batch= parameter {name!r} must be a list")
        return arguments[0] if arguments else Any

    def _codec(self, name: str, hint: Any) -> Codec[Any]:
        try:
            return Codec(hint)
        except TypeError as error:
            raise TypeError(f"{location(self.function)}: parameter {name!r}: {error}") from None

    def decode(self, payload: bytes) -> Any:
        """The value of the payload parameter (None without one). Raises `Invalid` for what a parameter cannot take."""
        for codec in self._codecs:
            codec.decode(payload)
        return self._payload_codec.decode(payload) if self._payload_codec is not None else None

    async def resolve(
        self, occasions: Sequence[Any], stack: AsyncExitStack, run: Run, known: dict[Any, Any] | None = None
    ) -> dict[str, Any]:
        """The arguments other than the payload. ``run(f, **arguments)`` calls plain functions where they may block.

        ``known``: what dependencies have given already, by function.
        """
        known = {} if known is None else known
        arguments = self.injected(occasions)
        for name, depends, parameters in self._dependencies:
            if depends.function not in known:
                inner = await parameters.resolve(occasions, stack, run, known)
                known[depends.function] = await _enter(depends.function, inner, stack, run)
            arguments[name] = known[depends.function]
        return arguments

    @property
    def plain(self) -> bool:
        """Whether no dependency has to be resolved."""
        return not self._dependencies

    def injected(self, occasions: Sequence[Any]) -> dict[str, Any]:
        return {name: provide(occasions) for name, provide in self._injected}


async def _enter(function: Callable[..., Any], arguments: dict[str, Any], stack: AsyncExitStack, run: Run) -> Any:
    if inspect.isasyncgenfunction(function):
        opened: Callable[..., AsyncGenerator[Any, None]] = function
        return await stack.enter_async_context(asynccontextmanager(opened)(**arguments))
    if inspect.isgeneratorfunction(function):
        plain: Callable[..., Generator[Any, None, None]] = function
        return stack.enter_context(contextmanager(plain)(**arguments))
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    return await run(function, **arguments)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(_annotated(function), include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{location(function)}: an annotation of {_name(function)} cannot be resolved: {error}; "
            "types of handlers must be defined at module level"
        ) from None


def _annotated(function: Callable[..., Any]) -> Any:
    """Where the annotations are: those of a class in its ``__init__``, of an object in its ``__call__``."""
    while isinstance(function, partial):
        function = function.func
    if inspect.isclass(function):
        return function.__init__
    return function if inspect.isroutine(function) else type(function).__call__


def _depends(hint: Any) -> Depends | None:
    if get_origin(hint) is Annotated:
        return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Depends)), None)
    return None


def _plain(hint: Any) -> Any:
    """Without an annotation's extras that mean nothing here (msgspec's bounds stay)."""
    if get_origin(hint) is Annotated and not any(isinstance(extra, msgspec.Meta) for extra in get_args(hint)[1:]):
        return get_args(hint)[0]
    return hint


def _base(hint: Any) -> Any:
    """``Message`` of ``Message[T]``."""
    return get_origin(hint) or hint


def _name(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint))


def location(function: Callable[..., Any]) -> str:
    """``app.py:12`` of a function, for errors at start-up."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)
