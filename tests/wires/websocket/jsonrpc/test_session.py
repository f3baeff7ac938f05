"""The state machine alone: ids, batches, bounds, credit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from polywire.core.errors import Conflict, LimitExceeded, NotFound, Unavailable
from polywire.wires.websocket.jsonrpc.binding import error_body
from polywire.wires.websocket.jsonrpc.codec import Request
from polywire.wires.websocket.jsonrpc.session import Credit, Handles, Session


def made(**bounds: int) -> Session:
    return Session(**{"batch": 10, "in_flight": 10, **bounds}, error_body=error_body)


def asked(*requests: Any) -> bytes:
    """Requests as one frame: one by itself, several as a batch."""
    said = [{"jsonrpc": "2.0", **one} if isinstance(one, dict) else one for one in requests]
    return json.dumps(said if len(said) > 1 else said[0]).encode()


def told(session: Session) -> list[Any]:
    return [json.loads(text) for text in session.take()]


def test_a_request_is_open_until_it_is_answered() -> None:
    session = made()
    (request,) = session.receive(asked({"method": "a", "id": "x"}))
    assert session.open == 1
    assert session.find(("text", "x")) is request
    session.answer(request, b"5")
    assert session.open == 0
    assert told(session) == [{"jsonrpc": "2.0", "id": "x", "result": 5}]
    assert told(session) == []


def test_a_notification_is_never_answered_and_its_errors_count() -> None:
    session = made()
    (request,) = session.receive(asked({"method": "a"}))
    session.fail(request, Unavailable("no"))
    session.answer(request, b"1")
    assert (told(session), session.errors, session.open) == ([], 1, 0)


def test_an_id_that_is_open_is_refused_without_naming_it_in_the_answer() -> None:
    session = made()
    (first,) = session.receive(asked({"method": "a", "id": 1}))
    assert session.receive(asked({"method": "b", "id": 1.0})) == []
    (error,) = told(session)
    assert error["id"] is None
    assert error["error"]["code"] == -32600
    assert error["error"]["data"]["id"] == "1.0"
    session.answer(first, b"1")
    (again,) = session.receive(asked({"method": "b", "id": 1}))
    session.answer(again, b"2")
    assert [one["result"] for one in told(session)] == [1, 2]


def test_null_is_an_id_of_many() -> None:
    session = made()
    (first,) = session.receive(asked({"method": "a", "id": None}))
    (second,) = session.receive(asked({"method": "a", "id": None}))
    assert session.open == 2
    session.answer(first, b"1")
    session.fail(second, Unavailable("no"))
    assert session.open == 0
    assert [one["id"] for one in told(session)] == [None, None]


def test_ten_times_too_many_in_flight() -> None:
    session = made(in_flight=5)
    open_ones = [request for n in range(50) for request in session.receive(asked({"method": "a", "id": n}))]
    assert [request.id for request in open_ones] == [b"0", b"1", b"2", b"3", b"4"]
    refused = told(session)
    assert [one["id"] for one in refused] == list(range(5, 50))
    assert {one["error"]["code"] for one in refused} == {-32029}
    assert refused[0]["error"]["data"]["limit"] == 5
    session.answer(open_ones[0], b"1")
    assert len(session.receive(asked({"method": "a", "id": "next"}))) == 1


def test_answers_of_a_batch_go_together_once_all_are_there() -> None:
    session = made()
    requests = session.receive(
        asked({"method": "a", "id": 1}, {"method": "b"}, 7, {"method": "c", "id": 2}, {"method": "d", "id": 1})
    )
    assert [request.method for request in requests] == ["a", "b", "c"]
    session.answer(requests[2], b"2")
    session.answer(requests[1], b"0")
    assert told(session) == []
    session.answer(requests[0], b"1")
    (answers,) = told(session)
    assert sorted((one["id"] or 0, one.get("result"), "error" in one) for one in answers) == [
        (0, None, True),
        (0, None, True),
        (1, 1, False),
        (2, 2, False),
    ]


def test_a_batch_of_notifications_is_not_answered() -> None:
    session = made()
    for request in session.receive(asked({"method": "a"}, {"method": "b"})):
        session.fail(request, Unavailable("no"))
    assert told(session) == []


def test_a_batch_of_faults_is_answered_at_once() -> None:
    session = made()
    assert session.receive(asked(1, 2)) == []
    (answers,) = told(session)
    assert [one["error"]["code"] for one in answers] == [-32600, -32600]


def test_ten_times_too_many_subscriptions() -> None:
    handles: Handles[str] = Handles(5)
    refused = 0
    for _ in range(50):
        try:
            handles.put(handles.next(), "x")
        except LimitExceeded:
            refused += 1
    assert (len(handles), refused) == (5, 45)
    handles.remove(2)
    assert handles.next() == 6, "a number comes once"
    with pytest.raises(NotFound):
        handles.require(2)


def test_credit() -> None:
    credit = Credit(3)
    assert credit.allows(10) == 3
    credit.spend(3)
    assert credit.allows(10) == 0
    assert credit.grant(2) == 2
    assert Credit(None).allows(10) == 10
    with pytest.raises(Conflict):
        Credit(None).grant(1)


class Conversation(RuleBasedStateMachine):
    """Any requests, answered in any order: each id gets one answer, each batch is one text, nothing stays open."""

    def __init__(self) -> None:
        super().__init__()
        self.session = made(batch=4, in_flight=6)
        self.open: list[Request] = []
        self.asked = 0
        self.answers = 0
        self.next = 0

    def _request(self, nameless: bool) -> dict[str, Any]:
        self.next += 1
        return {"method": "a"} if nameless else {"method": "a", "id": self.next}

    @rule(nameless=st.lists(st.booleans(), min_size=1, max_size=4))
    def ask(self, nameless: list[bool]) -> None:
        requests = self.session.receive(asked(*[self._request(one) for one in nameless]))
        self.open += requests
        self.asked += nameless.count(False)

    @rule(at=st.integers(0, 20), fails=st.booleans())
    def settle(self, at: int, fails: bool) -> None:
        if self.open:
            request = self.open.pop(at % len(self.open))
            if fails:
                self.session.fail(request, Unavailable("no"))
            else:
                self.session.answer(request, b"1")

    @invariant()
    def open_ones_are_bounded(self) -> None:
        assert self.session.open == sum(1 for request in self.open if request.id is not None) <= 6
        for text in told(self.session):
            self.answers += len(text) if isinstance(text, list) else 1

    def teardown(self) -> None:
        while self.open:
            self.settle(0, False)
        self.open_ones_are_bounded()
        assert self.answers == self.asked
        assert self.session.open == 0


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_conversations = Conversation.TestCase
