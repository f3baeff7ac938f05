"""The subprotocol ``cloudevents.json``: each text frame is one event in the JSON format (CloudEvents WebSockets
binding 1.0.2, §1.5, §3)."""

from __future__ import annotations

from typing import Final

from polywire.core.errors import FieldError, Invalid, PolywireError, Unsupported
from polywire.core.message import Batch, Origin, Record
from polywire.formats.cloudevents import deduplicate, read_structured, write_structured
from polywire.server.frames import TEXT, encode, encode_deflated
from polywire.server.websocket import Frames

__all__ = ["SUBPROTOCOL", "frame_of_event", "records_of_events"]

SUBPROTOCOL: Final = "cloudevents.json"


def records_of_events(
    messages: Frames, key: bytes | None, origin: Origin, *, once: bool
) -> tuple[list[Record], PolywireError | None]:
    """The records up to the first frame that holds no event, and what is wrong with that one.

    ``once``: an event's source and id make it one that is stored once.
    """
    records: list[Record] = []
    for is_text, payload in messages:
        try:
            records.append(_record(is_text, payload, key, origin))
        except PolywireError as error:
            return records, error
    if once:
        for record in records:
            deduplicate(record)
    return records, None


def _record(is_text: bool, payload: bytes, key: bytes | None, origin: Origin) -> Record:
    if not is_text:
        raise Unsupported("an event in JSON is sent as a text frame")
    record = read_structured(payload)
    if key is not None and record.key not in (None, key):
        wrong = FieldError("$.partitionkey", "is not the key that the path says")
        raise Invalid(f"{wrong.path} {wrong.message}", fields=[wrong])
    record.key = record.key if key is None else key
    record.origin = origin
    return record


def frame_of_event(batch: Batch, index: int, deflate_from: int | None) -> bytes:
    """One record as a frame; compressed if its text has ``deflate_from`` bytes or more (None: never)."""
    text = write_structured(batch.message(index))
    if deflate_from is not None and len(text) >= deflate_from:
        return encode_deflated(TEXT, text)
    return encode(TEXT, text)
