"""The declaration of an operation: its parameters as one request, its result as one reply, and its own path.

The parameters that are not injected are the fields of the request (``{"a": 2, "b": 3}``). Where there is only one, and
it is of a structured type, it is the request itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, NamedTuple, get_args, get_origin

from polywire.contract.codec import Codec
from polywire.contract.files import File
from polywire.contract.objects import Parameter, object_type
from polywire.contract.tree import Map, Null, Object, Reference, Tree, Type, Union

__all__ = ["Arguments", "OperationContract", "Route", "is_structured"]

_STREAMS = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator)
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LITERAL = re.compile(r"[^{}/?#%\s]*")
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE"})


class Arguments:
    """Some parameters of an operation as one JSON value: an object of them, or (``whole``) the only one itself."""

    def __init__(self, name: str, parameters: Sequence[Parameter], *, whole: bool) -> None:
        self.parameters = tuple(parameters)
        self.whole = whole
        self.codec: Codec[Any] = Codec(parameters[0].hint if whole else object_type(name, parameters, closed=True))
        self._names = tuple(parameter.name for parameter in parameters)
        self.raw: type[bytes | File] | None = _raw(parameters[0].hint) if len(parameters) == 1 else None
        """What the only parameter is, where any body can be it: bytes, or a file."""
        self.optional = all(parameter.default is not inspect.Parameter.empty for parameter in parameters)
        """Whether nothing need be given."""

    def decode(self, payload: bytes) -> dict[str, Any]:
        """By parameter name. An empty payload is an object without fields. Raises `Invalid`."""
        if not payload:
            return self.nothing()
        return self._by_name(self.codec.decode(payload))

    def from_builtins(self, value: Any) -> dict[str, Any]:
        """As `decode`, from JSON-like builtins."""
        return self._by_name(self.codec.from_builtins(value))

    def to_builtins(self, arguments: Mapping[str, Any]) -> Any:
        """The request that says ``arguments``; what is not among them is left out."""
        if self.whole:
            return self.codec.to_builtins(arguments[self._names[0]])
        return _ANYTHING.to_builtins(dict(arguments))

    def nothing(self) -> dict[str, Any]:
        """The arguments where none is given. Raises `Invalid` if one must be."""
        if self.whole and self.optional:
            return {self._names[0]: self.parameters[0].default}
        return self.from_builtins({})

    def _by_name(self, value: Any) -> dict[str, Any]:
        if self.whole:
            return {self._names[0]: value}
        return {name: getattr(value, name) for name in self._names}


_ANYTHING: Codec[Any] = Codec(Any)


class Route(NamedTuple):
    """An operation's own method and path, and which part of a request its parameters are taken from."""

    method: str
    path: str
    placed: tuple[str, ...]
    """The names of the parameters in ``path``, in their order there."""
    in_path: Arguments | None
    in_query: Arguments | None
    in_body: Arguments | None


class OperationContract:
    """What an operation was declared to take and give.

    ``safe``: it changes nothing, so that it may be asked with GET, cached, and asked again. ``streams``: ``reply`` is
    of one item of many. ``reply`` None: it answers nothing. ``status``: of a successful answer on its own path; None:
    200, or 204 where it answers nothing.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        parameters: Sequence[Parameter],
        returns: Any,
        *,
        method: str | None = None,
        path: str | None = None,
        safe: bool = False,
        status: int | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.safe = safe or method in ("GET", "HEAD")
        self.status = status
        self.streams = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
        self.summary, self.description = _texts(function)
        only = parameters[0] if len(parameters) == 1 else None
        self.request = Arguments(name, parameters, whole=only is not None and _is_request(only.hint))
        self.reply: Codec[Any] | None = self._reply(returns)
        self.route = self._route(method, path, parameters) if method is not None and path is not None else None

    def _reply(self, returns: Any) -> Codec[Any] | None:
        if self.streams:
            given = get_args(returns) if (get_origin(returns) or returns) in _STREAMS else ()
            returns = given[0] if given else Any
        return None if returns is None or returns is type(None) else Codec(returns)

    def _route(self, method: str, path: str, parameters: Sequence[Parameter]) -> Route:
        placed = _placeholders(path)
        unknown = [name for name in placed if name not in {parameter.name for parameter in parameters}]
        if unknown:
            raise TypeError(f"the path {path!r} names {unknown[0]!r}, which is no parameter of {self.name}")
        in_path = [parameter for parameter in parameters if parameter.name in placed]
        others = [parameter for parameter in parameters if parameter.name not in placed]
        if method in _WITHOUT_BODY:
            in_query, in_body = others, []
        else:
            structured = [one for one in others if _is_request(one.hint)]
            in_body = structured if len(structured) == 1 else others
            in_query = [one for one in others if one not in in_body]
        return Route(
            method,
            path,
            tuple(placed),
            Arguments(f"{self.name}.path", in_path, whole=False) if in_path else None,
            self._part("query", in_query),
            self._part("body", in_body),
        )

    def _part(self, name: str, parameters: Sequence[Parameter]) -> Arguments | None:
        if not parameters:
            return None
        if len(parameters) == len(self.request.parameters):
            return self.request
        whole = len(parameters) == 1 and _is_request(parameters[0].hint)
        return Arguments(f"{self.name}.{name}", parameters, whole=whole)

    def bind(self, given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call in Python, checked as one from outside would be. Raises `Invalid`, `TypeError`."""
        parameters = self.request.parameters
        if len(given) > len(parameters):
            raise TypeError(f"{self.name} takes {len(parameters)} arguments, not {len(given)}")
        arguments = {parameter.name: value for parameter, value in zip(parameters, given, strict=False)}
        twice = sorted(arguments.keys() & named.keys())
        if twice:
            raise TypeError(f"{self.name} got two values for {twice[0]!r}")
        arguments.update(named)
        if self.request.whole:
            name = parameters[0].name
            value = arguments.pop(name) if name in arguments and len(arguments) == 1 else arguments
            return self.request.from_builtins(_ANYTHING.to_builtins(value))
        return self.request.from_builtins(_ANYTHING.to_builtins(arguments))


def _placeholders(path: str) -> list[str]:
    """Its parameters, in order. Raises `TypeError` for what is no path."""
    if not path.startswith("/") or "//" in path:
        raise TypeError(f"a path begins with / and has no empty segment: {path!r}")
    found: list[str] = []
    for segment in path.split("/")[1:]:
        placeholder = _PLACEHOLDER.fullmatch(segment)
        if placeholder is not None:
            found.append(placeholder[1])
        elif not _LITERAL.fullmatch(segment):
            raise TypeError(f"{segment!r} in the path {path!r}: a parameter is a whole segment, as {{user_id}}")
    if len(set(found)) < len(found):
        raise TypeError(f"the path {path!r} names a parameter twice")
    return found


def is_structured(tree: Tree) -> bool:
    """Whether values of the type are JSON objects (or nothing, where that is allowed)."""
    return _is_object(tree.root, tree)


def _is_object(type: Type, tree: Tree) -> bool:
    if isinstance(type, Union):
        return all(_is_object(member, tree) for member in type.members if not isinstance(member, Null))
    if isinstance(type, Reference):
        return isinstance(tree.definitions[type.name], Object)
    return isinstance(type, Map)


def _is_request(hint: Any) -> bool:
    """Whether a parameter of that type can be a whole request. A file is one field of a request, as in a form."""
    return hint is not File and is_structured(Codec(hint).tree)


def _raw(hint: Any) -> type[bytes | File] | None:
    given = [one for one in get_args(hint) if one is not type(None)]
    found = given[0] if len(given) == 1 and type(None) in get_args(hint) else hint
    return found if found is bytes or found is File else None


def _texts(function: Callable[..., Any]) -> tuple[str, str]:
    """The first paragraph of its docstring on one line, and all of it."""
    whole = inspect.getdoc(function) or ""
    return " ".join(whole.partition("\n\n")[0].split()), whole
