"""What a handler's parameters are given: by annotation only; the one parameter left is the payload.

Checked when the handler is declared: anything unclaimed is a `TypeError` that names file, line and parameter.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Annotated, Any, get_args, get_origin

import msgspec

from polywire.contract.codec import Codec

__all__ = ["Depends", "Parameters", "location"]


class Depends(msgspec.Struct, frozen=True):
    """``Annotated[X, Depends(f)]``: the parameter is what ``f`` returns or yields; generators are closed after the handler.

    ``f`` is called once per message, however many ask for it, and may itself ask for dependencies.
    """

    function: Callable[..., Any]


Provide = Callable[[Any], Any]
"""From the handler's context (a delivery, or a list of them) to the value of one parameter."""


class Parameters:
    """How to call a function: which parameters are injected (``kinds``: annotation → provider), and which is the payload."""

    def __init__(self, function: Callable[..., Any], kinds: dict[Any, Provide], *, payload: bool, batch: bool = False) -> None:
        self.function = function
        self.payload_name: str | None = None
        self.payload_codec: Codec[Any] | None = None
        self._injected: list[tuple[str, Provide]] = []
        self._dependencies: list[tuple[str, Depends, Parameters]] = []
        hints = _hints(function)
        for name, parameter in inspect.signature(function).parameters.items():
            self._claim(parameter, hints.get(name, Any), kinds, payload=payload, batch=batch)
        if payload and self.payload_name is None and batch:
            raise TypeError(f"{location(function)}: with batch= one parameter must take the list of payloads")

    def _claim(self, parameter: inspect.Parameter, hint: Any, kinds: dict[Any, Provide], *, payload: bool, batch: bool) -> None:
        name = parameter.name
        depends = _depends(hint)
        base = get_origin(hint) or hint
        if depends is not None:
            self._dependencies.append((name, depends, Parameters(depends.function, kinds, payload=False)))
        elif hint in kinds or base in kinds:
            self._injected.append((name, kinds[hint] if hint in kinds else kinds[base]))
        elif payload and self.payload_name is None and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            self.payload_name = name
            self.payload_codec = self._codec(name, _element(hint) if batch else hint)
        elif parameter.default is parameter.empty:
            raise TypeError(
                f"{location(self.function)}: parameter {name!r} of {self.function.__name__} is claimed by nothing; annotate it with "
                "Delivery, Message, Principal, Hub or Annotated[X, Depends(f)]"
            )

    def _codec(self, name: str, hint: Any) -> Codec[Any]:
        try:
            return Codec(hint)
        except TypeError as error:
            raise TypeError(f"{location(self.function)}: parameter {name!r}: {error}") from None

    async def resolve(self, context: Any, stack: AsyncExitStack, run: Callable[..., Awaitable[Any]]) -> dict[str, Any]:
        """The arguments other than the payload. ``run(f, **arguments)`` calls plain functions where they may block."""
        return await self._resolve(context, stack, run, {})

    async def _resolve(
        self, context: Any, stack: AsyncExitStack, run: Callable[..., Awaitable[Any]], known: dict[Any, Any]
    ) -> dict[str, Any]:
        arguments = {name: provide(context) for name, provide in self._injected}
        for name, depends, parameters in self._dependencies:
            if depends.function not in known:
                inner = await parameters._resolve(context, stack, run, known)
                known[depends.function] = await _enter(depends.function, inner, stack, run)
            arguments[name] = known[depends.function]
        return arguments

    @property
    def plain(self) -> bool:
        """Whether no dependency has to be resolved."""
        return not self._dependencies

    def injected(self, context: Any) -> dict[str, Any]:
        return {name: provide(context) for name, provide in self._injected}


async def _enter(function: Callable[..., Any], arguments: dict[str, Any], stack: AsyncExitStack, run: Callable[..., Awaitable[Any]]) -> Any:
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
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{location(function)}: an annotation of {function.__name__} cannot be resolved: {error}; types of handlers must "
            "be defined at module level"
        ) from None


def _depends(hint: Any) -> Depends | None:
    if get_origin(hint) is Annotated:
        return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Depends)), None)
    return None


def _element(hint: Any) -> Any:
    """The ``T`` of ``list[T]``."""
    arguments = get_args(hint)
    return arguments[0] if get_origin(hint) is list and arguments else Any


def location(function: Callable[..., Any]) -> str:
    """``app.py:12`` of a function, for errors at start-up."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)
