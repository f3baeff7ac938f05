"""The shape of requests: which parameter comes from where, and what makes a whole request."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from polywire import File, Invalid
from polywire.contract.codec import Codec
from polywire.contract.objects import Parameter
from polywire.contract.operations import Arguments, OperationContract, is_structured


@dataclass
class User:
    name: str
    age: int = 0


class Filter(TypedDict, total=False):
    limit: int


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: list[str]


def contract(function: Callable[..., Any], method: str | None = None, path: str | None = None) -> OperationContract:
    hints = inspect.get_annotations(function, eval_str=True)
    parameters = [
        Parameter(name, hints[name], one.default) for name, one in inspect.signature(function).parameters.items()
    ]
    return OperationContract("op", function, parameters, hints.get("return", Any), method=method, path=path)


def names(arguments: Arguments | None) -> list[str]:
    return [] if arguments is None else [parameter.name for parameter in arguments.parameters]


# --- the request -----------------------------------------------------------------------------------------------------


def test_parameters_are_fields() -> None:
    def add(a: int, b: int = 2) -> int: ...

    request = contract(add).request
    assert not request.whole
    assert request.decode(b'{"a": 1}') == {"a": 1, "b": 2}
    assert request.from_builtins({"a": 1, "b": 3}) == {"a": 1, "b": 3}
    for payload in (b"", b"{}"):
        with pytest.raises(Invalid) as caught:
            request.decode(payload)
        assert [field.path for field in caught.value.fields] == ["$.a"]
    with pytest.raises(Invalid) as caught:
        request.decode(b'{"a": "x", "c": 1}')
    assert sorted(field.path for field in caught.value.fields) == ["$.a", "$.c"]


def test_no_parameters_take_an_empty_object() -> None:
    def nothing() -> None: ...

    request = contract(nothing).request
    assert request.optional
    assert request.decode(b"") == request.decode(b"{}") == {}
    with pytest.raises(Invalid):
        request.decode(b'{"a": 1}')


@pytest.mark.parametrize("hint", [User, Filter, dict[str, int], Cat | Dog, User | None])
def test_a_single_structured_parameter_is_the_request(hint: Any) -> None:
    assert is_structured(Codec(hint).tree)
    only = Parameter("it", hint, inspect.Parameter.empty)
    assert OperationContract("op", lambda: None, [only], None).request.whole
    both = OperationContract("op", lambda: None, [only, Parameter("n", int, 1)], None)
    assert not both.request.whole


@pytest.mark.parametrize("hint", [int, str, bytes, list[User], Any, int | User, File])
def test_any_other_is_a_field(hint: Any) -> None:
    only = Parameter("it", hint, inspect.Parameter.empty)
    assert not OperationContract("op", lambda: None, [only], None).request.whole


def test_a_default_of_a_whole_request() -> None:
    def search(by: Filter | None = None) -> None: ...

    request = contract(search).request
    assert request.whole
    assert request.decode(b"") == {"by": None}
    assert request.decode(b'{"limit": 1}') == {"by": {"limit": 1}}


@pytest.mark.parametrize(
    ("hint", "raw"),
    [(bytes, bytes), (File, File), (File | None, File), (bytes | None, bytes), (str, None), (list[bytes], None)],
)
def test_what_takes_any_body(hint: Any, raw: Any) -> None:
    only = Parameter("it", hint, inspect.Parameter.empty)
    assert Arguments("op", [only], whole=False).raw is raw
    assert Arguments("op", [only, Parameter("n", int, 1)], whole=False).raw is None


def test_a_mutable_default_is_not_shared() -> None:
    def collect(item: int, into: list[int] = []) -> None: ...  # noqa: B006 - what is tested

    request = contract(collect).request
    request.decode(b'{"item": 1}')["into"].append(1)
    assert request.decode(b'{"item": 1}')["into"] == []


# --- the reply -------------------------------------------------------------------------------------------------------


def test_replies() -> None:
    def said() -> list[User]: ...
    def unsaid(): ...  # type: ignore[no-untyped-def]
    def nothing() -> None: ...
    async def many() -> AsyncIterator[User]:
        yield User("a")

    def some() -> Iterator[int]:
        yield 1

    async def anything():  # type: ignore[no-untyped-def]
        yield 1

    assert contract(said).reply.type == list[User]  # type: ignore[union-attr]
    assert contract(unsaid).reply.untyped  # type: ignore[union-attr]
    assert contract(nothing).reply is None
    for function, item in ((many, User), (some, int), (anything, Any)):
        made = contract(function)
        assert made.streams
        assert made.reply is not None
        assert made.reply.type is item


# --- own paths -------------------------------------------------------------------------------------------------------


def test_where_parameters_come_from() -> None:
    def everything(user_id: int, user: User, notify: bool = False) -> None: ...
    def scalars(user_id: int, name: str, age: int = 0) -> None: ...
    def two(a: User, b: User, n: int = 0) -> None: ...

    def placed(function: Any, method: str, path: str) -> tuple[list[str], list[str], list[str]]:
        route = contract(function, method, path).route
        assert route is not None
        return names(route.in_path), names(route.in_query), names(route.in_body)

    for method in ("POST", "PUT", "PATCH"):
        assert placed(everything, method, "/users/{user_id}") == (["user_id"], ["notify"], ["user"])
        assert placed(scalars, method, "/users/{user_id}") == (["user_id"], [], ["name", "age"])
        assert placed(two, method, "/pairs") == ([], [], ["a", "b", "n"])
    for method in ("GET", "DELETE"):
        assert placed(scalars, method, "/users/{user_id}") == (["user_id"], ["name", "age"], [])
        assert placed(scalars, method, "/users") == ([], ["user_id", "name", "age"], [])


def test_parameters_of_a_path_are_in_its_order() -> None:
    def move(to: int, thing: str) -> None: ...

    route = contract(move, "POST", "/things/{thing}/to/{to}").route
    assert route is not None
    assert route.placed == ("thing", "to")


def test_a_get_is_safe() -> None:
    def look() -> int: ...

    assert contract(look, "GET", "/look").safe
    assert not contract(look, "POST", "/look").safe


@pytest.mark.parametrize(
    "path",
    ["", "users", "//", "/a//b", "/a/{id", "/a/id}", "/a/{id}.json", "/a-{id}", "/{id}/{id}", "/a?b", "/a#b", "/a b",
     "/a/%20", "/{0}", "/{}", "/{id:int}", "/{other}"],
)  # fmt: skip
def test_what_is_no_path(path: str) -> None:
    def find(id: int) -> None: ...

    with pytest.raises(TypeError, match="path"):
        contract(find, "GET", path)


# --- calls in Python -------------------------------------------------------------------------------------------------


def test_arguments_in_python_are_checked_too() -> None:
    def add(a: int, b: int = 2) -> int: ...
    def save(user: User) -> None: ...

    one = contract(add)
    assert one.bind((1,), {}) == one.bind((), {"a": 1}) == {"a": 1, "b": 2}
    with pytest.raises(Invalid):
        one.bind(("x",), {})
    with pytest.raises(TypeError, match="takes 2"):
        one.bind((1, 2, 3), {})
    with pytest.raises(TypeError, match="two values"):
        one.bind((1,), {"a": 1})
    for given in (((User("a"),), {}), ((), {"user": User("a")}), ((), {"name": "a"}), (({"name": "a"},), {})):
        assert contract(save).bind(*given) == {"user": User("a")}
