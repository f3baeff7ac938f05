"""Operations called over REST, in JSON: by name and on paths of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from polywire import Hub
from tests.wires.rest import calling
from tests.wires.served_hub import ServedHub, serving_hub


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHub]:
    with serving_hub(calling.hub, tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.fixture
def hub(running: ServedHub) -> ServedHub:
    calling.events.clear()
    return running


def problem(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    told: dict[str, Any] = answer.json()
    assert (answer.status_code, told["code"], told["status"]) == (status, code, status), told
    return told


def paths(told: dict[str, Any]) -> list[str]:
    return [wrong["path"] for wrong in told["errors"]]


# --- by name ---------------------------------------------------------------------------------------------------------


def test_a_call(hub: ServedHub) -> None:
    answer = hub.post("/operations/add", json={"a": 2, "b": 3})
    assert (answer.status_code, answer.json()) == (200, 5)
    assert answer.headers["Content-Type"] == "application/json"


def test_a_call_with_curl(hub: ServedHub) -> None:
    """Which says that JSON is a form."""
    command = ["curl", "-sS", hub.url + "/operations/add", "-d", '{"a": 2, "b": 3}']
    assert subprocess.run(command, capture_output=True, timeout=20, check=True).stdout == b"5"


def test_a_body_without_a_content_type_is_json(hub: ServedHub) -> None:
    assert hub.post("/operations/add", data='{"a": 2, "b": 3}').json() == 5


def test_an_ordinary_function_runs_in_a_thread(hub: ServedHub) -> None:
    assert hub.post("/operations/blocking", json={"text": "a"}).json() == "A"


def test_a_structured_parameter_is_the_request_itself(hub: ServedHub) -> None:
    ada = {"name": "ada", "age": 36, "tags": ["x"], "address": {"city": "Oslo", "zip": None}}
    assert hub.post("/operations/echo", json=ada).json() == ada


def test_an_operation_that_answers_nothing(hub: ServedHub) -> None:
    for given in ({"json": {"note": "a"}}, {"json": {}}, {}):
        answer = hub.post("/operations/nothing", **given)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "Content-Length" not in answer.headers
    assert calling.events == ["a", "", ""]


def test_a_result_of_no_declared_type(hub: ServedHub) -> None:
    for value in (None, 1, "a", [1, {"a": None}]):
        assert hub.post("/operations/anything", json={"value": value}).json() == value


def test_all_wrong_fields_are_named(hub: ServedHub) -> None:
    wrong = {"name": 1, "age": 151, "tags": ["a", 2], "address": {"city": None}}
    told = problem(hub.post("/operations/echo", json=wrong), 400, "invalid")
    assert paths(told) == ["$.name", "$.age", "$.tags[1]", "$.address.city"]


def test_unknown_and_missing_fields_are_named(hub: ServedHub) -> None:
    told = problem(hub.post("/operations/add", json={"a": 1, "c": 2}), 400, "invalid")
    assert sorted(paths(told)) == ["$.b", "$.c"]
    told = problem(hub.post("/operations/add"), 400, "invalid")
    assert sorted(paths(told)) == ["$.a", "$.b"]


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("not_found", 404, "not_found"),
        ("conflict", 409, "conflict"),
        ("denied", 403, "denied"),
        ("invalid", 400, "invalid"),
        ("other", 500, "internal"),
    ],
)
def test_what_an_operation_raises(hub: ServedHub, how: str, status: int, code: str) -> None:
    for chunked in (False, True):
        body = b'{"how": "%b"}' % how.encode()
        told = problem(hub.post("/operations/fail", data=iter([body]) if chunked else body), status, code)
        assert "ZeroDivision" not in str(told)


def test_an_operation_that_breaks_its_word(hub: ServedHub) -> None:
    for given in ({"data": b"{}"}, {"data": iter([b"{}"])}):
        problem(hub.post("/operations/lie", **given), 500, "internal")
    for given in ({"data": b"{}"}, {"data": iter([b"{}"])}):
        problem(hub.post("/operations/cancels_itself", **given), 500, "internal")


def test_an_unknown_operation(hub: ServedHub) -> None:
    problem(hub.post("/operations/ad", json={}), 404, "not_found")
    problem(hub.get("/operations/ad"), 404, "not_found")


def test_a_safe_operation_may_be_asked_with_get(hub: ServedHub) -> None:
    assert hub.get("/operations/greet?name=ada&times=2").json() == "hello ada hello ada"
    assert hub.post("/operations/greet", json={"name": "ada"}).json() == "hello ada"
    told = problem(hub.get("/operations/greet?name=ada&times=x&zzz=1"), 400, "invalid")
    assert sorted(paths(told)) == ["query.times", "query.zzz"]


def test_others_may_not(hub: ServedHub) -> None:
    answer = hub.get("/operations/add?a=1&b=2")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "OPTIONS, POST"
    assert hub.request("OPTIONS", "/operations/add").headers["Allow"] == "OPTIONS, POST"
    assert hub.request("OPTIONS", "/operations/greet").headers["Allow"] == "GET, HEAD, OPTIONS, POST"


def test_what_the_headers_of_a_call_say(hub: ServedHub) -> None:
    headers = {"Polywire-Header-Trace": "abc", "Polywire-Timeout": "5s"}
    told = hub.post("/operations/who", headers=headers).json()
    assert told == {"principal": "anonymous", "wire": "rest", "headers": [["trace", "abc"]], "deadline": True}
    for name, value in (("Polywire-Key", "a"), ("Polywire-Timeout", "soon"), ("Polywire-Timeout", "0")):
        answer = hub.post("/operations/who", headers={name: value})
        assert paths(problem(answer, 400, "invalid")) == [f"header.{name.lower()}"]


def test_the_list_of_operations(hub: ServedHub) -> None:
    shown = {one["name"]: one for one in hub.get("/operations").json()["operations"]}
    assert shown["add"] == {
        "name": "add",
        "summary": "Add two numbers.",
        "method": "POST",
        "path": "/operations/add",
        "safe": False,
        "streams": False,
    }
    assert (shown["user"]["method"], shown["user"]["path"]) == ("GET", "/users/{user_id}")
    assert shown["count"]["streams"]
    assert shown["greet"]["safe"]


def test_calls_are_counted(hub: ServedHub) -> None:
    def figures() -> dict[str, float]:
        lines = hub.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}

    before = figures()
    hub.post("/operations/add", json={"a": 1, "b": 2})
    hub.post("/operations/add", json={"a": 1})
    hub.post("/operations/fail", json={"how": "conflict"})
    after = figures()

    def grown(name: str, operation: str, more: str = "") -> float:
        name = f'polywire_operation_{name}{{{more}operation="{operation}"}}'
        return after[name] - before[name]

    # What is refused before it runs is no call.
    assert (grown("calls_total", "add"), grown("errors_total", "add")) == (1, 0)
    assert (grown("calls_total", "fail"), grown("errors_total", "fail")) == (1, 1)
    assert grown("seconds_count", "add") == 1
    assert 0 < grown("seconds_sum", "add") < 1
    assert after['polywire_operation_seconds_bucket{le="+Inf",operation="add"}'] >= 1
    assert after['polywire_operation_running{operation="add"}'] == 0


# --- own paths -------------------------------------------------------------------------------------------------------


def test_every_verb(hub: ServedHub) -> None:
    ada = {"name": "ada", "age": 36, "tags": ["x"], "address": None}
    assert hub.get("/users/1?fields=a&fields=b&deep=true").json() == {"user": "ada", "fields": ["a", "b"], "deep": True}
    created = hub.post("/users", json=ada)
    assert (created.status_code, created.json()) == (201, ada)
    assert hub.request("PUT", "/users/7?notify=1", json=ada).json() == {"id": 7, "name": "ada", "notify": True}
    assert hub.request("PATCH", "/users/7", json={"age": 3}).json() == {"id": 7, "name": None, "age": 3}
    assert hub.request("DELETE", "/users/7").status_code == 204
    assert calling.events == ["deleted 7"]
    assert [one["name"] for one in hub.get("/users?limit=1").json()] == ["ada"]


def test_head_and_options(hub: ServedHub) -> None:
    answer = hub.request("HEAD", "/users/1")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(hub.get("/users/1").content)
    assert hub.request("OPTIONS", "/users/1").headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
    answer = hub.post("/users/1", json={})
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"


def test_an_operation_with_a_path_has_its_name_too(hub: ServedHub) -> None:
    assert hub.get("/operations/user?user_id=2").json()["user"] == "bob"
    assert hub.post("/operations/replace_user", json={"user_id": 1, "user": {"name": "a", "age": 1}}).json()["id"] == 1


def test_what_is_wrong_in_path_query_and_body_is_one_error(hub: ServedHub) -> None:
    answer = hub.request("PUT", "/users/x?notify=perhaps&zzz=1", json={"name": 1})
    told = problem(answer, 400, "invalid")
    assert paths(told) == ["path.user_id", "query.zzz", "query.notify", "$.name", "$.age"]


def test_a_query_where_none_is_taken(hub: ServedHub) -> None:
    assert paths(problem(hub.request("PATCH", "/users/1?age=3", json={}), 400, "invalid")) == ["query.age"]
    assert paths(problem(hub.post("/operations/nothing?note=a"), 400, "invalid")) == ["query.note"]


def test_literal_segments_come_before_parameters(hub: ServedHub) -> None:
    assert hub.get("/users/me").json() == "me"
    # which has no DELETE; the path with the parameter has
    assert paths(problem(hub.request("DELETE", "/users/me"), 400, "invalid")) == ["path.user_id"]
    assert hub.post("/users/3/rename", json={"name": "eve"}).json() == "3 is eve"
    assert paths(problem(hub.post("/users/me/rename", json={"name": "eve"}), 400, "invalid")) == ["path.user_id"]


@pytest.mark.parametrize("name", ["a%2Fb", "a%20b", "%C3%A9", "..%2f..", "a+b", "a;b=c", "%25"])
def test_an_encoded_segment_stays_one(hub: ServedHub, name: str) -> None:
    assert hub.get(f"/files/{name}").json() == requests.utils.unquote(name)


def test_a_path_that_is_not_utf_8(hub: ServedHub) -> None:
    problem(hub.get("/files/%FF"), 400, "invalid")


def test_a_literal_segment_may_be_encoded(hub: ServedHub) -> None:
    assert hub.get("/us%65rs/1").json()["user"] == "ada"


def test_a_slash_too_many_or_too_few_is_redirected(hub: ServedHub) -> None:
    answer = hub.get("/users/?limit=1", allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (307, "/users?limit=1")
    assert hub.get("/slashed", allow_redirects=False).headers["Location"] == "/slashed/"
    assert hub.get("/slashed").json() == "slashed"
    assert hub.get("/health/").json() == {"status": "mine"}
    posted = hub.post("/users/", json={"name": "a", "age": 1})
    assert (posted.status_code, posted.json()["name"]) == (201, "a")
    problem(hub.get("/users//"), 404, "not_found")


def test_what_is_on_no_path(hub: ServedHub) -> None:
    problem(hub.get("/users/1/nothing"), 404, "not_found")
    problem(hub.get("/userz"), 404, "not_found")


def test_an_operation_may_take_the_place_of_health(hub: ServedHub) -> None:
    assert hub.get("/health").json() == {"status": "mine"}


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    def refused(method: str, path: str) -> str:
        hub = Hub("x")

        @getattr(hub, method)(path)
        async def first(a: int = 1) -> None: ...

        with pytest.raises((ValueError, TypeError)) as caught, serving_hub(hub, tmp_path / "data"):
            pass
        return str(caught.value)

    for method, path in (
        ("get", "/topics/mine"),
        ("post", "/health"),
        ("get", "/ws"),
        ("get", "/operations/add"),
        ("get", "/openapi.json"),
        ("get", "users"),
        ("get", "/a//b"),
        ("get", "/x-{a}"),
        ("get", "/{b}"),
        ("get", "/{a}/{a}"),
        ("get", "/a?b"),
        ("get", "/1/2/3/4/5/6/7/8/9"),
    ):
        said = refused(method, path)
        assert "test_operations.py:" in said, said
        assert "'first'" in said


def test_two_operations_on_one_path(tmp_path: Path) -> None:
    hub = Hub("x")

    @hub.get("/a/{b}")
    async def first(b: int) -> None: ...

    @hub.get("/a/{c}")
    async def second(c: int) -> None: ...

    said = r"test_operations\.py:\d+: operation 'second'.*'first'"
    with pytest.raises(ValueError, match=said), serving_hub(hub, tmp_path / "data"):
        pass


def test_a_path_that_is_only_a_parameter(tmp_path: Path) -> None:
    hub = Hub("x")

    @hub.get("/{name}")
    async def page(name: str) -> str:
        return name

    with serving_hub(hub, tmp_path / "data") as served:
        assert served.get("/about").json() == "about"
        assert served.get("/topics").json() == {"topics": []}
        problem(served.get("/a/b"), 404, "not_found")
