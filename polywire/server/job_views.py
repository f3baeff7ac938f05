"""Jobs as JSON: one shape for every wire that tells of them in text."""

from __future__ import annotations

from typing import Any

import msgspec

from polywire.core.job import JobEvent, JobInfo
from polywire.server.envelope import format_time, is_json_type

__all__ = ["event_view", "job_view"]


def job_view(info: JobInfo) -> dict[str, Any]:
    """``{"id", "operation", "status", "submitted", "attempt"}``, and where they say something ``due``, ``started``,
    ``ended``, ``expires``, ``progress``, ``result`` (or ``result_base64``, for bytes) and ``error``."""
    shown: dict[str, Any] = {
        "id": info.id,
        "operation": info.operation,
        "status": info.status,
        "submitted": format_time(info.submitted),
        "attempt": info.attempt,
    }
    for name in ("due", "started", "ended", "expires"):
        time = getattr(info, name)
        if time is not None:
            shown[name] = format_time(time)
    if info.progress is not None:
        shown["progress"] = msgspec.Raw(info.progress)
    if info.status == "succeeded":
        _show(shown, "result", info.result, info.content_type)
    if info.error is not None:
        shown["error"] = info.error.as_dict()
    return shown


def event_view(event: JobEvent) -> dict[str, Any]:
    """``{"event", "time", "attempt"}``, and where they say something ``progress``, ``result`` (or ``result_base64``),
    ``error`` and ``due``."""
    shown: dict[str, Any] = {"event": event.type, "time": format_time(event.time), "attempt": event.attempt}
    if event.type == "progress" and event.data is not None:
        shown["progress"] = msgspec.Raw(event.data)
    if event.type == "succeeded":
        _show(shown, "result", event.data, event.content_type)
    if event.error is not None:
        shown["error"] = event.error.as_dict()
    if event.due is not None:
        shown["due"] = format_time(event.due)
    return shown


def _show(shown: dict[str, Any], name: str, payload: bytes | None, content_type: str | None) -> None:
    if payload is None:
        shown[name] = None
    elif content_type is None or is_json_type(content_type):
        shown[name] = msgspec.Raw(payload)
    else:
        shown[f"{name}_base64"] = payload
        shown["content_type"] = content_type
