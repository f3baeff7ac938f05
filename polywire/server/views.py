"""Receipts and topics as JSON: one shape for every wire that tells of them in text (as `envelope` is for messages)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from polywire.core.durations import format_duration
from polywire.core.message import Receipt
from polywire.core.position import Cursor
from polywire.core.topics import TopicInfo
from polywire.server.envelope import format_time

__all__ = ["ReceiptView", "receipt_view", "topic_view"]


class ReceiptView(msgspec.Struct, gc=False):
    """``{"id", "position", "topic", "key", "time"}``; ``position`` is null while a publish waits for its ``due``
    time."""

    id: str
    position: str | None
    topic: str
    key: str | None
    time: str
    key_base64: bytes | UnsetType = UNSET
    due: str | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET


def receipt_view(receipt: Receipt) -> ReceiptView:
    position = receipt.position
    time = format_time(receipt.time)
    view = ReceiptView(receipt.id, None if position is None else str(position), receipt.topic, None, time)
    if receipt.key is not None:
        try:
            view.key = receipt.key.decode()
        except UnicodeDecodeError:
            view.key_base64 = receipt.key
    if position is None:
        view.due = time
    if receipt.duplicate:
        view.duplicate = True
    return view


def topic_view(info: TopicInfo) -> dict[str, Any]:
    """Durations as text, as they are given; ``oldest`` and ``newest`` are cursors to read from."""
    shown = msgspec.structs.asdict(info)
    settings = msgspec.structs.asdict(info.settings)
    del settings["name"]
    if settings["retention"] is not None:
        settings["retention"] = format_duration(settings["retention"])
    shown["settings"] = settings
    shown["cursors"] = {
        "oldest": str(Cursor(info.epoch, info.oldest - 1)),
        "newest": str(Cursor(info.epoch, info.next - 1)),
    }
    return shown
