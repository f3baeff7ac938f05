"""Jobs as JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from polywire.core.errors import Unavailable
from polywire.core.job import JobEvent, JobInfo
from polywire.server.job_views import event_view, job_view

TIME = 1_770_000_000_000
SHOWN = "2026-02-02T02:40:00.000Z"


def shown(view: dict[str, Any]) -> Any:
    return json.loads(msgspec.json.encode(view))


def test_a_job_shows_what_there_is_to_say() -> None:
    waiting = JobInfo("1", "add", "ann", "waiting", TIME, due=TIME, attempt=1, error=Unavailable("closed"))
    assert shown(job_view(waiting)) == {
        "id": "1",
        "operation": "add",
        "status": "waiting",
        "submitted": SHOWN,
        "attempt": 1,
        "due": SHOWN,
        "error": {"code": "unavailable", "title": "Unavailable", "detail": "closed", "retryable": True},
    }
    done = JobInfo(
        "1", "add", "ann", "succeeded", TIME, started=TIME, ended=TIME, expires=TIME, attempt=1,
        progress=b'{"page":3}', result=b"12345678901234567890123", content_type="application/json",
    )  # fmt: skip
    view = shown(job_view(done))
    assert (view["progress"], view["result"], view["ended"], view["expires"]) == (
        {"page": 3}, 12345678901234567890123, SHOWN, SHOWN,
    )  # fmt: skip
    assert "result" not in job_view(waiting)


def test_results_that_are_bytes_or_nothing() -> None:
    raw = JobInfo("1", "x", "ann", "succeeded", TIME, result=b"\xff", content_type="application/octet-stream")
    view = shown(job_view(raw))
    assert (view["result_base64"], view["content_type"]) == ("/w==", "application/octet-stream")
    assert shown(job_view(JobInfo("1", "x", "ann", "succeeded", TIME, result=b"null")))["result"] is None
    assert shown(job_view(JobInfo("1", "x", "ann", "succeeded", TIME)))["result"] is None


def test_events() -> None:
    assert shown(event_view(JobEvent("1", "submitted", TIME))) == {"event": "submitted", "time": SHOWN, "attempt": 0}
    progress = JobEvent("2", "progress", TIME, 1, b"[1]")
    assert shown(event_view(progress))["progress"] == [1]
    retrying = shown(event_view(JobEvent("3", "retrying", TIME, 1, error=Unavailable("closed"), due=TIME)))
    assert (retrying["due"], retrying["error"]["code"]) == (SHOWN, "unavailable")
    assert shown(event_view(JobEvent("4", "succeeded", TIME, 1, b"5", "application/json")))["result"] == 5
