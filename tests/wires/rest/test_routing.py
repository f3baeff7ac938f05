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


def test_a_route_stands_once() -> None:
    with pytest.raises(ValueError, match="two routes"):
        RouteTable([Route("GET", "/a/{b}", publish), Route("GET", "/a/{c}", publish)])
