"""Messages in listings."""

from __future__ import annotations

import base64
import json
from typing import Any

from polywire.cli.output import note, show_json, show_table

__all__ = ["show_pending", "shown_data"]

LONGEST = 80


def show_pending(found: dict[str, Any], *, as_json: bool, empty: str) -> None:
    """What `peek` answers: ``{"messages": [{"seq", "state", "attempts", "due", "message"}], "next"}``."""
    if as_json:
        show_json(found)
        return
    columns = (">seq", "state", ">attempts", "topic", "key", "time", "reason", "data")
    show_table(columns, [_row(one) for one in found["messages"]], empty=empty)
    if found["next"] is not None:
        note(f"there may be more: --after {found['next']}")


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    message = one["message"]
    headers = message["headers"]
    return (
        one["seq"],
        f"due {one['due']}" if one["due"] else one["state"],
        headers.get("polywire-attempts", one["attempts"]),
        headers.get("polywire-topic", message["topic"]),
        _text(headers.get("polywire-key")) if "polywire-topic" in headers else message["key"],
        message["time"],
        headers.get("polywire-reason"),
        shown_data(message),
    )


def _text(value: Any) -> str | None:
    """Of a header: bytes are shown as ``{"base64": …}``."""
    if isinstance(value, dict):
        return base64.b64decode(value["base64"]).decode("utf-8", "replace")
    return None if value is None else str(value)


def shown_data(message: dict[str, Any]) -> str:
    """The payload on one line of a table, cut where it is long."""
    if "data_base64" in message:
        encoded = message["data_base64"]
        return f"{len(encoded) * 3 // 4 - encoded.count('=')} bytes"
    data = message.get("data")
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
