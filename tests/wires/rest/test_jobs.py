"""Operations as jobs over REST: asked for, looked at, followed, cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.wires.rest import calling
from tests.wires.served_hub import ServedHub, serving_hub

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHub]:
    with serving_hub(calling.hub, tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.fixture
def hub(running: ServedHub) -> ServedHub:
    calling.events.clear()
    return running


def submitted(hub: ServedHub, name: str, given: Any = None, **headers: str) -> dict[str, Any]:
    answer = hub.post(f"/operations/{name}", json=given or {}, headers=ASYNC | headers)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert answer.headers["Preference-Applied"] == "respond-async"
    return job


def ended(hub: ServedHub, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = hub.get(f"/jobs/{job['id']}?wait=20s").json()
    return found


def test_a_job(hub: ServedHub) -> None:
    job = submitted(hub, "report", {"title": "x"})
    assert job["status"] in ("waiting", "running")
    found = ended(hub, job)
    assert (found["status"], found["result"], found["operation"]) == ("succeeded", {"title": "x"}, "report")
    assert hub.get(f"/jobs/{job['id']}").json() == found


def test_a_job_on_an_operations_own_path(hub: ServedHub) -> None:
    answer = hub.request("PUT", "/users/7", json={"name": "ada", "age": 1}, headers={"Prefer": "a=b, respond-async; x"})
    assert answer.status_code == 202
    assert ended(hub, answer.json())["result"] == {"id": 7, "name": "ada", "notify": False}


def test_a_job_that_fails(hub: ServedHub) -> None:
    found = ended(hub, submitted(hub, "report", {"title": "x", "fail": True}))
    assert (found["status"], found["error"]["code"], found["error"]["detail"]) == ("failed", "not_found", "no data")


def test_what_cannot_be_a_job(hub: ServedHub) -> None:
    def refused(answer: requests.Response, status: int, *paths: str) -> None:
        assert answer.status_code == status, answer.text
        assert [wrong["path"] for wrong in answer.json().get("errors", [])] == list(paths)

    def asked(name: str, given: Any, **headers: str) -> requests.Response:
        return hub.post(f"/operations/{name}", json=given, headers=headers)

    refused(asked("report", {"title": 1}, **ASYNC), 400, "$.title")
    refused(asked("count", {"to": 1}, **ASYNC), 415)
    timed = asked("report", {"title": "x"}, **ASYNC, **{"Polywire-Timeout": "1s"})
    refused(timed, 400, "header.polywire-timeout")
    refused(asked("report", {"title": "x"}, **{"Polywire-Delay": "1s"}), 400, "header.polywire-delay")
    refused(hub.get("/jobs/nothing"), 404)
    refused(hub.get("/jobs/nothing/events"), 404)
    refused(hub.request("DELETE", "/jobs/nothing"), 404)


def test_a_delayed_job_and_its_cancelling(hub: ServedHub) -> None:
    job = submitted(hub, "report", {"title": "x"}, **{"Polywire-Delay": "1h"})
    assert job["status"] == "waiting"
    assert job["due"]
    answer = hub.request("DELETE", f"/jobs/{job['id']}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    done = submitted(hub, "report", {"title": "y"})
    ended(hub, done)
    assert hub.request("DELETE", f"/jobs/{done['id']}").status_code == 409


def test_what_happens_to_it_is_a_stream(hub: ServedHub) -> None:
    job = submitted(hub, "report", {"title": "x", "steps": 3})
    ended(hub, job)
    with hub.get(f"/jobs/{job['id']}/events", stream=True) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        blocks = [
            dict(line.split(": ", 1) for line in block.split("\n")) for block in answer.text.strip().split("\n\n")
        ]
    names = [block["event"] for block in blocks]
    assert (names[0], names[-1]) == ("submitted", "succeeded")
    assert json.loads(blocks[-1]["data"])["result"] == {"title": "x"}
    assert json.loads(blocks[names.index("progress")]["data"])["progress"] == {"step": 2}
    # An EventSource that comes again goes on behind what it has seen, and stays away when there is no more.
    seen = {"Last-Event-ID": blocks[0]["id"]}
    assert "event: submitted" not in hub.get(f"/jobs/{job['id']}/events", headers=seen).text
    assert hub.get(f"/jobs/{job['id']}/events", headers={"Last-Event-ID": blocks[-1]["id"]}).status_code == 204
    lines = hub.get(f"/jobs/{job['id']}/events?after={blocks[0]['id']}", headers={"Accept": "application/x-ndjson"})
    rest = [json.loads(line) for line in lines.text.splitlines()]
    assert [one["event"] for one in rest] == names[1:]
    assert rest[-1]["cursor"] == blocks[-1]["id"]


def test_a_job_is_followed_while_it_runs(hub: ServedHub) -> None:
    job = submitted(hub, "wait", {"seconds": 60})
    with hub.get(f"/jobs/{job['id']}/events", stream=True) as answer:
        lines = answer.iter_lines(chunk_size=1)
        assert any(line == b"event: started" for line in lines)
        hub.until(lambda: "opened" in calling.events)
        assert hub.request("DELETE", f"/jobs/{job['id']}").json()["status"] == "cancelled"
        assert any(line == b"event: cancelled" for line in lines)
    hub.until(lambda: calling.events == ["opened", "cancelled", "closed"])


# --- once ------------------------------------------------------------------------------------------------------------


def test_a_repeated_call_gets_the_first_reply(hub: ServedHub) -> None:
    key = {"Idempotency-Key": '"k1"'}
    for _ in range(2):
        assert hub.post("/operations/nothing", json={"note": "once"}, headers=key).status_code == 204
        assert hub.post("/users", json={"name": "ada", "age": 1}, headers=key).status_code == 201
    assert calling.events == ["once"]
    other = hub.post("/operations/nothing", json={"note": "twice"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert hub.post("/operations/nothing", json={}, headers={"Idempotency-Key": ""}).status_code == 400
    assert hub.post("/operations/count", json={"to": 1}, headers=key).status_code == 415


def test_a_repeated_job_is_the_first_one(hub: ServedHub) -> None:
    first = submitted(hub, "report", {"title": "x"}, **{"Idempotency-Key": "j"})
    assert submitted(hub, "report", {"title": "x"}, **{"Idempotency-Key": "j"})["id"] == first["id"]
