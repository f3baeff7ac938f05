"""Operations that stream: lines of JSON, server-sent events, and readers that are slow, or leave."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from polywire.serving import ServeSettings
from polywire.wires.rest import RestSettings
from tests.wires.rest import calling
from tests.wires.served_hub import ServedHub, serving_hub

SSE = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHub]:
    settings = ServeSettings(rest=RestSettings(heartbeat=20))
    with serving_hub(calling.hub, tmp_path_factory.mktemp("data"), settings) as served:
        yield served


@pytest.fixture
def hub(running: ServedHub) -> ServedHub:
    calling.events.clear()
    return running


def lines(answer: requests.Response) -> list[Any]:
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.iter_lines()]


def events(answer: requests.Response) -> list[tuple[str, Any]]:
    """Name and data of each, as an EventSource would have them."""
    assert answer.headers["Content-Type"] == "text/event-stream"
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def test_lines(hub: ServedHub) -> None:
    assert lines(hub.post("/operations/count", json={"to": 3}, stream=True)) == [0, 1, 2]
    assert calling.events == ["opened", "yield 0", "yield 1", "yield 2", "generator closed", "closed"]
    assert lines(hub.post("/operations/lines", json={"text": "a b"})) == ["a", "b"]
    assert lines(hub.get("/operations/count?to=2")) == [0, 1]
    assert lines(hub.get("/ticks")) == [1, 2]
    assert lines(hub.post("/operations/count", json={"to": 0})) == []


def test_events(hub: ServedHub) -> None:
    answer = hub.get("/operations/count?to=2", headers=SSE)
    assert events(answer) == [("message", 0), ("message", 1), ("end", {})]
    assert answer.headers["Cache-Control"] == "no-store"


def test_an_item_is_sent_when_it_is_there(hub: ServedHub) -> None:
    with hub.post("/operations/slow_stream", stream=True) as answer:
        assert json.loads(next(answer.iter_lines(chunk_size=1)))["name"] == "ada"
    hub.until(lambda: calling.events == ["stream left"])


def test_an_error_before_the_first_item_is_a_refusal(hub: ServedHub) -> None:
    for headers in ({}, SSE):
        answer = hub.post("/operations/count", json={"to": 2, "fail_at": 0}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    answer = hub.post("/operations/count", json={"to": "x"})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "$.to")


def test_an_error_after_it_is_the_last_piece(hub: ServedHub) -> None:
    *items, last = lines(hub.post("/operations/count", json={"to": 5, "fail_at": 2}))
    assert items == [0, 1]
    assert (last["error"]["code"], last["error"]["status"], last["error"]["detail"]) == ("conflict", 409, "not 2")
    told = events(hub.post("/operations/count", json={"to": 5, "fail_at": 1}, headers=SSE))
    assert told[0] == ("message", 0)
    assert (told[1][0], told[1][1]["code"]) == ("error", "conflict")
    assert len(told) == 2
    assert lines(hub.post("/operations/broken_stream"))[1]["error"]["code"] == "internal"
    assert calling.events.count("closed") == 2


def test_what_streams_has_two_forms(hub: ServedHub) -> None:
    answer = hub.post("/operations/count", json={"to": 1}, headers={"Accept": "application/json"})
    assert answer.status_code == 406
    assert "application/x-ndjson" in answer.json()["hint"]
    assert calling.events == []
    assert hub.request("HEAD", "/ticks").headers["Content-Type"] == "application/x-ndjson"


def test_signs_of_life(hub: ServedHub) -> None:
    with hub.post("/operations/slow_stream", headers=SSE, stream=True) as answer:
        beats = 0
        for line in answer.iter_lines(chunk_size=1):
            beats += line == b":"
            if beats == 3:
                break
    hub.until(lambda: calling.events == ["stream left"])


def test_a_reader_that_leaves_before_the_first_item(hub: ServedHub) -> None:
    with pytest.raises(requests.exceptions.ReadTimeout):
        hub.post("/operations/slow_stream", json={"first": False}, timeout=0.2)
    hub.until(lambda: calling.events == ["stream left"])
    assert hub.call(lambda: hub.core.calls.running) == 0


def test_a_deadline_ends_a_stream(hub: ServedHub) -> None:
    last = lines(hub.post("/operations/slow_stream", headers={"Polywire-Timeout": "100ms"}))[-1]
    assert last["error"]["code"] == "deadline_exceeded"
    answer = hub.post("/operations/slow_stream", json={"first": False}, headers={"Polywire-Timeout": "100ms"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_an_operation_is_no_faster_than_its_reader(hub: ServedHub) -> None:
    size = 64 << 10
    with socket.create_connection(("127.0.0.1", hub.port)) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        body = b'{"size": %d}' % size
        head = b"POST /operations/flood HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        reader.sendall(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        assert reader.recv(10)
        hub.until(lambda: calling.events)
        before = -1
        while before != (before := hub.call(lambda: len(calling.events))):
            hub.run(_a_moment())
        assert before * size < 16 << 20  # what the system's buffers hold, not what a second could make
        while hub.call(lambda: len(calling.events)) <= before:  # it goes on when the reader does
            assert reader.recv(1 << 20)
    hub.until(lambda: hub.core.calls.running == 0)


async def _a_moment() -> None:
    """Long enough for an unchecked generator to make megabytes."""
    import asyncio

    await asyncio.sleep(0.2)
