"""Addresses in paths, and encodings that are made once and not kept for ever."""

from __future__ import annotations

import pytest

from polywire.core.errors import NotFound, PolywireError, Unavailable
from polywire.core.message import Batch, Origin, Record
from polywire.core.streams import StaleCursor
from polywire.server.encodings import Encodings
from polywire.server.frames import TEXT, encode
from polywire.server.problems import STATUS
from polywire.wires.websocket.binding import CLOSE_CODES, Encoder, address_of, close_code, records_of


def batch_of(*payloads: bytes, content_type: str | None = "text/plain") -> Batch:
    records = [Record(payload, content_type=content_type) for payload in payloads]
    batch = Batch(topic="t", topic_id=1, epoch=1, seq=0, offset=0, appended=0, records=records)
    batch.size = sum(record.size() for record in records)
    return batch


@pytest.mark.parametrize(
    ("path", "query_key", "topic", "reads", "key"),
    [
        ("/", None, "default", "default.#", None),
        ("", None, "default", "default.#", None),
        ("/chat", None, "chat", "chat.#", None),
        ("/chat/", None, "chat", "chat.#", None),
        ("/ws/chat", None, "chat", "chat.#", None),
        ("/wsx", None, "wsx", "wsx.#", None),
        ("/chat/a/b", None, "chat", "chat.a.b", b"a.b"),
        ("/ws/chat/a", "ignored", "chat", "chat.a", b"a"),
        ("/chat", "a", "chat", "chat.a", b"a"),
        ("/chat", "a.*", "chat", "chat.a.*", None),
        ("/chat", "", "chat", "chat.", b""),
        ("/my:chat/room1", None, "_other", "_other.my:chat.room1", b"my:chat.room1"),
        ("/ws/my:chat", None, "_other", "_other.my:chat", b"my:chat"),
        ("/chat/ü", None, "chat", "chat.ü", "ü".encode()),
    ],
)
def test_addresses(path: str, query_key: str | None, topic: str, reads: str, key: bytes | None) -> None:
    address = address_of(path, query_key)
    assert (address.topic, address.reads_from, address.key) == (topic, reads, key)
    assert address.publishes_to == (topic if key is None else reads)


@pytest.mark.parametrize("path", ["/ws", "/ws/"])
def test_ws_alone_is_no_topic(path: str) -> None:
    with pytest.raises(NotFound):
        address_of(path, None)


def test_every_error_has_a_close_code() -> None:
    assert CLOSE_CODES.keys() == STATUS.keys()
    assert close_code(Unavailable("x")) == 1013
    assert close_code(PolywireError("x")) == 1011
    assert StaleCursor.code not in CLOSE_CODES, "told as a reset, never as an error"


def test_a_batch_is_encoded_once_per_format() -> None:
    encoder = Encoder(Encodings(10_000), deflate_from=1_000)
    batch = batch_of(b"a", b"b" * 2_000)
    whole = encoder.whole(batch, deflates=False)
    assert whole == encode(TEXT, b"a") + encode(TEXT, b"b" * 2_000)
    assert encoder.whole(batch, deflates=False) is whole
    assert len(encoder.whole(batch, deflates=True)) < 200
    assert encoder.some(batch, [1], deflates=False) == encode(TEXT, b"b" * 2_000)
    assert encoder.some(batch, [0], deflates=True) == encode(TEXT, b"a")


def test_encodings_are_kept_up_to_a_size() -> None:
    encoder = Encoder(Encodings(50_000), deflate_from=None)
    batches = [batch_of(b"x" * 1_000, content_type=None) for _ in range(500)]
    for batch in batches:
        encoder.whole(batch, deflates=False)
        encoder.some(batch, [0], deflates=True)
    assert sum(len(batch.encoded) for batch in batches) <= 50
    assert batches[-1].encoded
    assert encoder.whole(batches[0], deflates=False) == encode(TEXT, b"x" * 1_000)


def test_records_of() -> None:
    text, binary = records_of([(True, b"a"), (False, b"b")], b"k", Origin("p", "websocket", "c"))
    assert (text.payload, text.key, text.content_type) == (b"a", b"k", "text/plain; charset=utf-8")
    assert (binary.payload, binary.key, binary.content_type) == (b"b", b"k", "application/octet-stream")
