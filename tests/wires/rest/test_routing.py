"""The table of routes, and the README that lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

import polywire.wires.rest
from polywire.core.errors import NotFound
from polywire.wires.rest.binding import MethodNotAllowed
from polywire.wires.rest.routes import EXACT, PREFIXES, ROUTES
from polywire.wires.rest.routing import Route, RouteTable
from polywire.wires.rest.topics import publish

README = (Path(polywire.wires.rest.__file__).parent / "README.md").read_text()
TABLE = RouteTable(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_found_claimed_and_documented(route: Route) -> None:
    path = route.path.encode()
    found, params = TABLE.find(route.method, path)
    assert found is route
    assert len(params) == route.path.count("{")
    assert route.path in EXACT or any(route.path.startswith(prefix) for prefix in PREFIXES)
    last = next(part for part in reversed(route.path.split("/")) if not part.startswith("{"))
    assert f"/{last}" in README
    assert all(f"`{name}`" in README or f"{name}=" in README for name in route.query or ())


def test_parameters_stay_encoded_until_they_are_asked_for() -> None:
    assert TABLE.find("GET", b"/topics/a%2Fb/latest/c%2Fd")[1] == [b"a%2Fb", b"c%2Fd"]


def test_head_is_served_where_get_is() -> None:
    assert TABLE.find("HEAD", b"/topics")[0] is TABLE.find("GET", b"/topics")[0]


@pytest.mark.parametrize(
    "path", [b"", b"topics", b"/topicz", b"/topics/", b"/topics//info", b"//", b"/" * 60_000, b"/topics/{topic}/x"]
)
def test_what_nobody_claims_is_not_found(path: bytes) -> None:
    with pytest.raises(NotFound):
        TABLE.find("GET", path)


def test_a_wrong_method_names_the_right_ones() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        TABLE.find("PUT", b"/subscriptions/x/pull")
    assert caught.value.allow == "OPTIONS, POST"


def test_hostile_paths_do_not_fill_the_table() -> None:
    table = RouteTable(ROUTES)
    for number in range(5_000):
        table.find("GET", b"/topics/%d" % number)
    table.find("GET", b"/topics/" + b"x" * 10_000)
    assert len(table._found) <= 1_024
    assert all(len(path) <= 256 for _, path in table._found)


def table(*paths: str) -> RouteTable:
    """Of ``METHOD /path``."""
    return RouteTable(Route(*path.split(" "), publish) for path in paths)


@pytest.mark.parametrize(
    ("request_line", "found", "params"),
    [
        ("GET /users/me", "/users/me", []),
        ("GET /users/7", "/users/{id}", [b"7"]),
        ("DELETE /users/me", "/users/{id}", [b"me"]),  # the literal path has no DELETE
        ("GET /users/me/photo", "/users/{id}/photo", [b"me"]),  # and leads nowhere
        ("GET /users/7/photo", "/users/{id}/photo", [b"7"]),
        ("GET /a/b/c/d", "/{x}/b/{y}/d", [b"a", b"c"]),
        ("GET /a/b/c/e", "/a/{x}/c/e", [b"b"]),
        ("GET /us%65rs/%37", "/users/{id}", [b"%37"]),
        ("GET /users/m%65", "/users/me", []),
        ("GET /users/a%2Fb", "/users/{id}", [b"a%2Fb"]),
        ("GET /gr%C3%B6%C3%9Fe", "/größe", []),
    ],
)
def test_of_paths_that_fit_the_more_literal_one_is_meant(request_line: str, found: str, params: list[bytes]) -> None:
    routes = table(
        "GET /users/me", "GET /users/{id}", "DELETE /users/{id}", "GET /users/{id}/photo",
        "GET /{x}/b/{y}/d", "GET /a/{x}/c/e", "GET /größe",
    )  # fmt: skip
    method, path = request_line.split(" ")
    route, given = routes.find(method, path.encode())
    assert (route.path, given) == (found, params)


def test_the_methods_of_all_paths_that_fit_are_allowed() -> None:
    routes = table("GET /users/me", "DELETE /users/{id}", "PUT /{x}/{y}")
    assert routes.allowed(b"/users/me") == "DELETE, GET, HEAD, OPTIONS, PUT"
    assert routes.allowed(b"/users/7") == "DELETE, OPTIONS, PUT"
    with pytest.raises(MethodNotAllowed) as caught:
        routes.find("PATCH", b"/users/me")
    assert caught.value.allow == "DELETE, GET, HEAD, OPTIONS, PUT"


def test_a_long_path_costs_no_more_than_the_routes_are_deep() -> None:
    routes = table("GET " + "/{a}" * 3, "GET " + "/a" * 8, "GET " + "/{b}/a" * 4)
    for path in (b"/a" * 30_000, b"/%61" * 30_000, b"/" * 60_000):
        with pytest.raises(NotFound):
            routes.find("GET", path)


def test_a_route_may_take_another_ones_place() -> None:
    routes = table("GET /", "GET /health")
    mine = Route("GET", "/health", publish)
    routes.add(mine, replace=True)
    assert routes.find("GET", b"/health")[0] is mine
    assert routes.find("HEAD", b"/health")[0] is mine


def test_a_route_stands_once() -> None:
    with pytest.raises(ValueError, match="two routes"):
        RouteTable([Route("GET", "/a/{b}", publish), Route("GET", "/a/{c}", publish)])
