"""Pull, settle, look inside and redrive with `requests`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests

from polywire.core.routing import Source
from polywire.core.subscription import SubscriptionSettings
from tests.wires.http_hub import HttpHub

SOURCES = {"sources": [{"topic": "orders"}]}


@pytest.fixture
def work(hub: HttpHub) -> HttpHub:
    """A hub with a subscription ``work`` on ``orders``."""
    assert hub.put("/subscriptions/work", json=SOURCES).status_code == 201
    return hub


def pull(hub: HttpHub, **asked: Any) -> list[dict[str, Any]]:
    answer = hub.post("/subscriptions/work/pull", json={"max": 10, **asked})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["deliveries"]
    return found


def tokens(deliveries: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {"tokens": [delivery["token"] for delivery in deliveries]}


def pending(hub: HttpHub) -> int:
    count: int = hub.get("/subscriptions/work").json()["pending"]
    return count


def test_pull_and_ack(work: HttpHub) -> None:
    receipt = work.post("/topics/orders", params={"key": "k"}, json={"n": 1}).json()
    [delivery] = pull(work)
    assert delivery["attempt"] == 1
    assert delivery["redelivered"] is False
    message = delivery["message"]
    assert (message["topic"], message["id"], message["key"], message["data"]) == (
        "orders",
        receipt["id"],
        "k",
        {"n": 1},
    )
    assert pull(work) == []
    assert work.post("/subscriptions/work/ack", json=tokens([delivery])).json() == {"settled": 1}
    assert pending(work) == 0


def test_nack_brings_it_back_and_reject_makes_a_dead_letter(work: HttpHub) -> None:
    work.post("/topics/orders", json=1)
    work.post("/subscriptions/work/nack", json={**tokens(pull(work)), "delay": 0})
    [again] = pull(work, wait="10s")
    assert (again["attempt"], again["redelivered"]) == (2, True)
    work.post("/subscriptions/work/reject", json={**tokens([again]), "reason": "no such customer"})
    [dead] = work.get("/subscriptions/work/dead-letters").json()["messages"]
    assert dead["message"]["headers"]["polywire-reason"] == "no such customer"
    assert work.post("/subscriptions/work/redrive", json={}).json() == {"redriven": 1}
    assert pull(work, wait="10s")[0]["message"]["data"] == 1


def test_dead_letters_are_deleted_one_by_one_or_all(work: HttpHub) -> None:
    for number in range(3):
        work.post("/topics/orders", json=number)
    work.post("/subscriptions/work/reject", json=tokens(pull(work)))
    dead = work.get("/subscriptions/work/dead-letters").json()["messages"]
    assert len(dead) == 3
    assert work.delete(f"/subscriptions/work/dead-letters/{dead[0]['seq']}").status_code == 204
    assert work.delete("/subscriptions/work/dead-letters").json() == {"purged": 2}
    assert work.get("/subscriptions/work/dead-letters").json()["messages"] == []


def test_a_lease_ends_and_can_be_extended(work: HttpHub) -> None:
    work.post("/topics/orders", json=1)
    held = pull(work, lease="1m")
    answer = work.post("/subscriptions/work/extend", json={**tokens(held), "lease": "10m"})
    assert answer.json() == {"settled": 1}
    work.call(work.clock.advance, 120_000)
    assert pull(work) == []
    work.call(work.clock.advance, 600_000)
    assert len(pull(work, wait="10s")) == 1
    assert work.post("/subscriptions/work/ack", json=tokens(held)).status_code == 404


def test_a_pull_waits_for_a_message(work: HttpHub) -> None:
    found: list[Any] = []
    url = work.url + "/subscriptions/work/pull"
    waiting = threading.Thread(target=lambda: found.append(requests.post(url, json={"wait": "20s"}, timeout=30).json()))
    waiting.start()
    work.until(lambda: work.core.subscriptions.info(work.core.access.system, "work").consumers == 1)
    work.post("/topics/orders", json="news")
    waiting.join(10)
    assert found[0]["deliveries"][0]["message"]["data"] == "news"


def test_a_client_that_leaves_takes_nothing_with_it(work: HttpHub) -> None:
    url = work.url + "/subscriptions/work/pull"
    with pytest.raises(requests.ReadTimeout):
        requests.post(url, json={"wait": "30s"}, timeout=0.2)
    work.until(lambda: work.core.subscriptions.info(work.core.access.system, "work").consumers == 0)
    work.post("/topics/orders", json=1)
    assert len(pull(work)) == 1


def test_settings_are_kept_and_shown(hub: HttpHub) -> None:
    asked = {
        "sources": [{"topic": "orders", "key": "eu.#", "headers": {"kind": "new"}}],
        "start": "earliest",
        "ordered": True,
        "attempts": 3,
        "backoff": {"first": "2s", "factor": 3, "max": "1m", "jitter": 0},
        "ack_timeout": "30s",
        "expires": "7d",
    }
    made = hub.put("/subscriptions/work", json=asked)
    assert made.status_code == 201, made.text
    shown = made.json()
    assert shown["sources"] == asked["sources"]
    assert shown["settings"]["backoff"] == {"first": "2s", "factor": 3.0, "max": "1m", "jitter": 0.0}
    assert (shown["settings"]["ack_timeout"], shown["settings"]["expires"]) == ("30s", "7d")
    assert hub.put("/subscriptions/work", json=asked).status_code == 200
    assert hub.put("/subscriptions/work", json={**asked, "attempts": 4}).status_code == 409
    assert [info["name"] for info in hub.get("/subscriptions").json()["subscriptions"]] == ["work"]
    assert hub.delete("/subscriptions/work").status_code == 204
    assert hub.get("/subscriptions/work").status_code == 404


def test_what_other_protocols_made_is_looked_after_by_its_kind(work: HttpHub) -> None:
    """A share, named like the queue and with a name as MQTT gives it, and a session."""
    subscriptions, system = work.core.subscriptions, work.core.access.system
    for name, kind in (("work", "share"), ("group/orders/#", "share"), ("client", "session")):
        source = Source("orders", keyless=True, skip_volatile=True)
        work.call(subscriptions.make, system, SubscriptionSettings(name, [source], kind=kind, offline_limit=3))
    for number in range(5):
        work.post("/topics/orders", json=number)
    listed = work.get("/subscriptions").json()["subscriptions"]
    assert [(info["name"], info["kind"]) for info in listed] == [
        ("work", "queue"), ("group/orders/#", "share"), ("work", "share"),
    ]  # fmt: skip
    [session] = work.get("/subscriptions?kind=session").json()["subscriptions"]
    assert (session["name"], session["pending"], session["dropped"]) == ("client", 3, 2)
    assert session["sources"] == [
        {"topic": "orders", "key": None, "headers": {}, "keyless": True, "skip_volatile": True}
    ]
    assert session["settings"]["offline_limit"] == 3
    assert listed[0]["sources"] == [{"topic": "orders", "key": None, "headers": {}}]
    for path in ("/subscriptions/work", "/subscriptions/group%2Forders%2F%23"):
        assert work.get(f"{path}?kind=share").json()["pending"] == 3
        assert len(work.get(f"{path}/messages?kind=share").json()["messages"]) == 3
    assert work.post("/subscriptions/work/purge?kind=share").json() == {"purged": 3}
    assert (pending(work), work.get("/subscriptions/work?kind=share").json()["pending"]) == (5, 0)
    assert work.delete("/subscriptions/client?kind=session").status_code == 204
    assert work.get("/subscriptions/client?kind=session").status_code == 404
    assert work.get("/subscriptions/client").status_code == 404
    assert work.get("/subscriptions/work?kind=other").status_code == 400


def test_dead_letters_of_a_share(work: HttpHub) -> None:
    subscriptions, system = work.core.subscriptions, work.core.access.system
    work.call(subscriptions.make, system, SubscriptionSettings("work", [Source("orders")], kind="share"))
    work.post("/topics/orders", json="share's")

    async def reject() -> None:
        for delivery in await subscriptions.pull(system, "work", max=10, kind="share"):
            delivery.reject("unrepresentable")
        await work.core.log.published()

    for _ in range(2):
        work.run(reject())
        assert work.get("/subscriptions/work/dead-letters").json()["messages"] == []
        [letter] = work.get("/subscriptions/work/dead-letters?kind=share").json()["messages"]
        assert letter["message"]["headers"]["polywire-kind"] == "share"
        assert letter["message"]["headers"]["polywire-reason"] == "unrepresentable"
        assert work.get("/subscriptions/work?kind=share").json()["dead"] == 1
        assert work.post("/subscriptions/work/redrive", json={}).json() == {"redriven": 0}
        assert work.post("/subscriptions/work/redrive?kind=share", json={}).json() == {"redriven": 1}
    work.run(reject())
    [letter] = work.get("/subscriptions/work/dead-letters?kind=share").json()["messages"]
    assert work.delete(f"/subscriptions/work/dead-letters/{letter['seq']}").status_code == 404
    assert work.delete(f"/subscriptions/work/dead-letters/{letter['seq']}?kind=share").status_code == 204
    assert work.delete("/subscriptions/work/dead-letters?kind=share").json() == {"purged": 0}
    assert pending(work) == 1


def test_what_is_pending_can_be_seen_removed_moved_and_purged(work: HttpHub) -> None:
    for number in range(5):
        work.post("/topics/orders", json=number)
    first = work.get("/subscriptions/work/messages", params={"limit": 3}).json()
    rest = work.get("/subscriptions/work/messages", params={"after": first["next"]}).json()
    assert [one["message"]["data"] for one in first["messages"] + rest["messages"]] == [0, 1, 2, 3, 4]
    assert rest["next"] is None
    assert {one["state"] for one in first["messages"]} == {"ready"}
    seqs = [one["seq"] for one in first["messages"]]
    assert work.delete(f"/subscriptions/work/messages/{seqs[0]}").status_code == 204
    moved = work.post(f"/subscriptions/work/messages/{seqs[1]}/move", json={"topic": "elsewhere", "key": "k"})
    assert moved.json() == {"moved": 1}
    assert [(message["data"], message["key"]) for message in work.messages("elsewhere")] == [(1, "k")]
    assert pending(work) == 3
    assert work.post("/subscriptions/work/purge").json() == {"purged": 3}
    assert pending(work) == 0


def test_pause_resume_and_reset(work: HttpHub) -> None:
    for number in range(3):
        work.post("/topics/orders", json=number)
    assert work.post("/subscriptions/work/pause").status_code == 204
    assert work.get("/subscriptions/work").json()["paused"] is True
    assert pull(work) == []
    assert work.post("/subscriptions/work/resume").status_code == 204
    work.post("/subscriptions/work/ack", json=tokens(pull(work)))
    assert work.post("/subscriptions/work/reset", json={"to": "earliest"}).json() == {"pending": 3}
    assert [delivery["message"]["data"] for delivery in pull(work)] == [0, 1, 2]
    assert work.post("/subscriptions/work/reset", json={"to": "latest"}).json() == {"pending": 0}


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/work/pull", '{"max": "ten"}', (400, "$.max")),
        ("POST", "/work/pull", '{"max": 0}', (400, "$.max")),
        ("POST", "/work/pull", '{"max": 1000000}', (400, "$.max")),
        ("POST", "/work/pull", '{"wiat": 1}', (400, "$.wiat")),
        ("POST", "/work/pull", '{"wait": "soon"}', (400, "$.wait")),
        ("POST", "/work/pull", '{"wait": true}', (400, "$.wait")),
        ("POST", "/work/pull", "[1]", (400, "$")),
        ("POST", "/work/ack", "{}", (400, "$.tokens")),
        ("POST", "/work/ack", '{"tokens": []}', (400, "$.tokens")),
        ("POST", "/work/ack", '{"tokens": [1]}', (400, "$.tokens[0]")),
        ("POST", "/work/ack", '{"tokens": ["1-2"]}', (404, None)),
        ("POST", "/work/ack", '{"tokens": ["nonsense"]}', (404, None)),
        ("POST", "/work/ack", '{"tokens": ', (400, None)),
        ("POST", "/work/ack", b'{"tokens": ["\xff"]}', (400, None)),
        ("POST", "/work/ack", "[" * 100_000, (400, None)),
        ("POST", "/nobody/ack", '{"tokens": ["1-2"]}', (404, None)),
        ("POST", "/nobody/pull", "{}", (404, None)),
        ("POST", "/work/reset", '{"to": "whenever"}', (400, None)),
        ("POST", "/work/messages/x/move", '{"topic": "t"}', (400, None)),
        ("DELETE", "/work/messages/99999999", None, (404, None)),
        ("GET", "/work/messages?limit=0", None, (400, "query.limit")),
        ("PUT", "/other", '{"sources": [{"tpic": "x"}]}', (400, "$.sources[0].tpic")),
        ("PUT", "/other", '{"sources": [], "ordered": "yes"}', (400, "$.ordered")),
        ("PUT", "/other", '{"sources": [{"topic": "x"}], "expires": "-1s"}', (400, "$.expires")),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    work: HttpHub, method: str, path: str, body: str | bytes | None, expected: tuple[int, str | None]
) -> None:
    status, named = expected
    answer = work.request(method, "/subscriptions" + path, data=body)
    problem = answer.json()
    assert answer.status_code == status, problem
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["detail"]
    if named:
        assert named in [error["path"] for error in problem["errors"]]


def test_a_settlement_with_one_unknown_token_settles_nothing(work: HttpHub) -> None:
    work.post("/topics/orders", json=1)
    asked = tokens(pull(work))
    asked["tokens"].append("1-abc")
    answer = work.post("/subscriptions/work/ack", json=asked)
    assert answer.status_code == 404
    assert "1-abc" in answer.text
    assert pending(work) == 1
