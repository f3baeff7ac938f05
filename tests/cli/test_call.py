"""``polywire call`` and ``polywire operations``: what is sent, what is printed, how they fail."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.cli.hub_process import POLYWIRE, Hub, Process, last_line

APP = '''
import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any

from msgspec import Meta

from polywire import Conflict, File, Hub

hub = Hub("calls")


@dataclass
class Place:
    city: str
    zip: str | None = None


@dataclass
class Order:
    number: int
    customer: str
    to: Place | None = None
    lines: list[str] = field(default_factory=list)
    rush: bool = False


@hub.operation
def add(a: int, b: float = 0.5) -> float:
    """Add two numbers."""
    return a + b


@hub.operation
def texts(texts: dict[str, str]) -> dict[str, str]:
    return texts


@hub.operation
def show(
    number: int | None = None, ratio: float = 0, flag: bool = False, tags: list[str] = [], sizes: list[int] = [],
    place: Place | None = None, maybe: str | None = None,
) -> dict[str, Any]:
    return {"number": number, "ratio": ratio, "flag": flag, "tags": tags, "sizes": sizes,
            "city": place and place.city, "maybe": maybe}


@hub.operation
def order(order: Order) -> Order:
    return order


@hub.get("/greetings/{name}")
def greet(name: Annotated[str, Meta(min_length=2)], times: Annotated[int, Meta(ge=1)] = 1) -> str:
    """Say hello.

    As often as you like.
    """
    return " ".join(["hello", *[name] * times])


@hub.operation
def describe(photo: File, title: str = "", sizes: list[int] = []) -> dict[str, Any]:
    return {"name": photo.name, "type": photo.content_type, "size": len(photo.content), "title": title, "sizes": sizes}


@hub.operation
def reverse(data: bytes) -> bytes:
    return data[::-1]


@hub.operation
def nothing() -> None:
    pass


@hub.operation
def refuse(why: str) -> int:
    raise Conflict(why, hint="try another")


@hub.operation
async def countdown(start: int, fail: bool = False) -> AsyncIterator[str]:
    for number in range(start, 0, -1):
        yield f"{number} …"
    if fail:
        raise Conflict("not today")


@hub.operation
async def numbers() -> AsyncIterator[int]:
    for number in range(1_000_000):
        yield number
        await asyncio.sleep(60)


@hub.operation(timeout=0)
async def wait(seconds: float) -> str:
    if seconds == 60:
        begun.set()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if seconds == 60:
            left.set()
        raise
    return "waited"


@hub.operation
async def was_begun() -> bool:
    return await begun.wait()


@hub.operation
async def was_left() -> bool:
    return await left.wait()


@hub.operation
def next_number() -> int:
    return next(counted)


begun, left = asyncio.Event(), asyncio.Event()
counted = count(1)
'''


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("calls")
    (folder / "calls.py").write_text(APP)
    with Hub("calls.py", data=folder / "data") as running:
        yield running


def result(hub: Hub, *arguments: str, stdin: bytes = b"") -> object:
    return json.loads(hub.polywire("call", *arguments, "--json", stdin=stdin).stdout)


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_numbers(hub: Hub) -> None:
    assert hub.polywire("call", "add", "a=1", "b=2").stdout == "3.0\n"
    assert hub.polywire("call", "add", "a=-1").stdout == "-0.5\n"


def test_a_text_is_taken_as_it_is(hub: Hub) -> None:
    texts = ["Bob", "1", "007", "true", "null", "", '["x"]', '{"a": 1}', "a=b&c=d+e%20;", "über ☺\n", "-", " x "]
    given = {f"t{index}": text for index, text in enumerate(texts)}
    assert result(hub, "texts", *(f"{name}={text}" for name, text in given.items())) == given
    assert result(hub, "texts", "at=@@ann") == {"at": "@ann"}


def test_a_value_is_read_by_the_declared_type(hub: Hub) -> None:
    nothing = {"number": None, "ratio": 0, "flag": False, "tags": [], "sizes": [], "city": None, "maybe": None}
    assert result(hub, "show") == nothing
    assert result(hub, "show", "number=007", "ratio=1e3", "flag=true", "tags=x", "maybe=null") == {
        **nothing, "number": 7, "ratio": 1000, "flag": True, "tags": ["x"], "maybe": "null",
    }  # fmt: skip
    assert result(hub, "show", "number=-3", "ratio=2", "flag=false", 'tags=["x","1"]', "sizes=[]") == {
        **nothing, "number": -3, "ratio": 2, "tags": ["x", "1"],
    }  # fmt: skip


def test_a_name_may_be_repeated(hub: Hub) -> None:
    shown = result(hub, "show", "tags=1", "sizes=1", "tags=b", "sizes=2", 'place={"city": "Ulm"}')
    assert isinstance(shown, dict)
    assert (shown["tags"], shown["sizes"], shown["city"]) == (["1", "b"], [1, 2], "Ulm")


def test_the_fields_of_a_structured_parameter(hub: Hub) -> None:
    given: dict[str, object] = {
        "number": 1,
        "customer": "2",
        "to": {"city": "Ulm", "zip": "089"},
        "lines": ["x"],
        "rush": True,
    }
    assert (
        result(hub, "order", "number=1", "customer=2", f"to={json.dumps(given['to'])}", "lines=x", "rush=true") == given
    )


def test_a_whole_request(hub: Hub, tmp_path: Path) -> None:
    assert result(hub, "add", '{"a": 1, "b": 2}') == 3
    assert result(hub, "add", "-", stdin=b'{"a": 3}') == 3.5
    (tmp_path / "request.json").write_text('{"a": 4}')
    assert result(hub, "add", f"@{tmp_path / 'request.json'}") == 4.5
    assert result(hub, "add", "-", "--content-type", "application/xml", stdin=b"<add><a>5</a></add>") == 5.5
    assert "JSON" in hub.polywire("call", "add", "{", code=1).stderr


def test_files(hub: Hub, tmp_path: Path) -> None:
    picture = tmp_path / "a cät.png"
    picture.write_bytes(b"\x89PNG\r\n--\r\n")
    shown = result(hub, "describe", f"photo=@{picture}", "title=007", "sizes=[1, 2]")
    assert shown == {"name": "a cät.png", "type": "image/png", "size": 10, "title": "007", "sizes": [1, 2]}
    assert result(hub, "describe", f"photo=@{picture}", "title=@@me") == {**shown, "title": "@me", "sizes": []}
    backwards = hub.polywire("call", "reverse", f"data=@{tmp_path / 'ascii'}", code=2)
    assert "cannot be read" in last_line(backwards.stderr)
    (tmp_path / "ascii").write_text("abc")
    assert hub.polywire("call", "reverse", f"data=@{tmp_path / 'ascii'}").stdout == "cba"
    assert result(hub, "reverse", f"data=@{tmp_path / 'ascii'}") == "Y2Jh"


# --- what is printed -------------------------------------------------------------------------------------------------


def test_results(hub: Hub) -> None:
    assert hub.polywire("call", "greet", "name=Ann", "times=2").stdout == "hello Ann Ann\n"
    assert hub.polywire("call", "greet", "name=Ann", "--json").stdout == '"hello Ann"\n'
    assert hub.polywire("call", "nothing").stdout == ""


def test_a_stream_is_a_line_an_item(hub: Hub) -> None:
    assert hub.polywire("call", "countdown", "start=3").stdout == "3 …\n2 …\n1 …\n"
    assert hub.polywire("call", "countdown", "start=1", "--json").stdout == '"1 …"\n'
    assert hub.polywire("call", "countdown", "start=0").stdout == ""
    broken = hub.polywire("call", "countdown", "start=1", "fail=true", code=1)
    assert (broken.stdout, last_line(broken.stderr)) == ("1 …\n", "error: not today")


def test_items_come_as_they_are_made(start, tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(APP)
    hub = start("calls.py")
    with Process(POLYWIRE, "call", "numbers", "--url", hub.url) as following:
        assert following.line() == "0"
        hub.end()
        assert following.wait() == 1
        assert following.err[-1].startswith("error: ")


def test_operations_are_listed(hub: Hub) -> None:
    listed = {one["name"]: one for one in hub.json("operations")}
    assert listed["greet"]["method"] == "GET"
    assert listed["greet"]["path"] == "/greetings/{name}"
    heading, *rows = hub.polywire("operations").stdout.splitlines()
    assert heading.split() == ["NAME", "METHOD", "PATH", "SAFE", "STREAMS", "SUMMARY"]
    assert len(rows) == len(listed)
    assert next(row for row in rows if row.startswith("add ")).split(maxsplit=5) == [
        "add", "POST", "/operations/add", "no", "no", "Add two numbers.",
    ]  # fmt: skip


def test_a_job(hub: Hub) -> None:
    told = hub.polywire("call", "add", "a=1", "b=2", "--async")
    assert "GET /jobs/ID" in told.stderr
    job = json.loads(told.stdout)
    assert job["operation"] == "add"
    ended = requests.get(f"{hub.url}/jobs/{job['id']}", params={"wait": "10s"}, timeout=20).json()
    assert (ended["status"], ended["result"]) == ("succeeded", 3)
    delayed = json.loads(hub.polywire("call", "add", "a=1", "--delay", "1h").stdout)
    assert delayed["due"] > delayed["submitted"]
    assert "--timeout" in last_line(hub.polywire("call", "add", "a=1", "--async", "--timeout", "1s", code=2).stderr)


def test_once(hub: Hub) -> None:
    first = hub.polywire("call", "next_number", "--id", "one").stdout
    assert hub.polywire("call", "next_number", "--id", "one").stdout == first
    assert hub.polywire("call", "next_number", "--id", "two").stdout != first


# --- how it fails ----------------------------------------------------------------------------------------------------


def test_all_wrong_fields_are_told(hub: Hub) -> None:
    told = hub.polywire("call", "greet", "name=x", "times=0", code=1)
    *fields, reason = told.stderr.splitlines()
    assert sorted(field.partition(":")[0] for field in fields) == ["$.name", "$.times"]
    assert reason.startswith("error: ")
    assert "$.customer" in hub.polywire("call", "order", "number=1", code=1).stderr
    assert "$.c" in hub.polywire("call", "add", "a=1", "c=2", code=1).stderr
    assert "$.a" in hub.polywire("call", "add", "a=one", code=1).stderr


def test_what_the_operation_raises(hub: Hub) -> None:
    assert last_line(hub.polywire("call", "refuse", "why=taken", code=1).stderr) == "error: taken (try another)"
    assert "no operation" in last_line(hub.polywire("call", "unknown", code=1).stderr)


def test_usage(hub: Hub) -> None:
    assert "NAME=VALUE" in last_line(hub.polywire("call", "add", "1", code=2).stderr)
    assert "NAME=VALUE" in last_line(hub.polywire("call", "add", "a=1", "=2", code=2).stderr)
    assert "duration" in last_line(hub.polywire("call", "add", "--timeout", "soon", code=2).stderr)
    assert "whole request" in last_line(hub.polywire("call", "add", "a=1", "--content-type", "x/y", code=2).stderr)
    assert "OPERATION" in hub.polywire("call", code=2).stderr


def test_a_timeout(hub: Hub) -> None:
    assert hub.polywire("call", "wait", "seconds=0", "--timeout", "10s").stdout == "waited\n"
    begun = time.monotonic()
    told = hub.polywire("call", "wait", "seconds=30", "--timeout", "100ms", code=1)
    assert time.monotonic() - begun < 10
    assert "in the time it was given" in last_line(told.stderr)


def test_who_leaves_cancels_the_call(hub: Hub) -> None:
    with Process(POLYWIRE, "call", "wait", "seconds=60", "--url", hub.url) as waiting:
        assert hub.polywire("call", "was_begun").stdout == "true\n"
        waiting.signal(signal.SIGINT)
        assert waiting.wait() == 130
    assert hub.polywire("call", "was_left").stdout == "true\n"
