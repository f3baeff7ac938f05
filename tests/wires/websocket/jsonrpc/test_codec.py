"""Texts to requests and back: every shape a peer can send, whole, cut and mutated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.wires.websocket.jsonrpc.codec import (
    Fault,
    InvalidRequest,
    ParseError,
    Request,
    answer,
    batch,
    error_answer,
    id_key,
    notification,
    read,
)

PING = b'{"jsonrpc":"2.0","method":"ping","id":1}'


def one(payload: bytes) -> Request | Fault:
    received = read(payload, 10)
    assert not received.batch
    (item,) = received.items
    return item


def fault(payload: bytes) -> Fault:
    item = one(payload)
    assert isinstance(item, Fault)
    return item


@pytest.mark.parametrize(
    ("text", "method", "params", "id"),
    [
        ('{"jsonrpc":"2.0","method":"ping","id":1}', "ping", b"", b"1"),
        ('{"jsonrpc": "2.0", "method": "ping"}', "ping", b"", None),
        ('{"jsonrpc":"2.0","method":"a","params":null,"id":null}', "a", b"", b"null"),
        ('{"jsonrpc":"2.0","method":"a","params":[1, 2],"id":"x"}', "a", b"[1, 2]", b'"x"'),
        ('{"jsonrpc":"2.0","method":"a","params":{ "b":1.50 },"id":1.0}', "a", b'{ "b":1.50 }', b"1.0"),
        ('\n{"id":-7,"method":"ü","jsonrpc":"2.0","more":[{}]}\n', "ü", b"", b"-7"),
        ('{"jsonrpc":"2.0","method":"a","id":1,"id":2}', "a", b"", b"2"),
    ],
)
def test_requests(text: str, method: str, params: bytes, id: bytes | None) -> None:
    request = one(text.encode())
    assert isinstance(request, Request)
    assert (request.method, bytes(request.params), request.id) == (method, params, id)


@pytest.mark.parametrize(
    "payload",
    [b"", b" ", b"{", b"nonsense", b'{"a":}', b"[1", b"\xff", b'{"method":"\xc3"}', b'{"jsonrpc":"2.0","method":NaN}',
     b"[" * 100_000, b'{"a":' * 100_000, b'{"a":1}{"a":1}', b"'single'", b'\xef\xbb\xbf{"jsonrpc":"2.0"}'],
)  # fmt: skip
def test_what_is_not_json(payload: bytes) -> None:
    found = fault(payload)
    assert isinstance(found.error, ParseError)
    assert found.id == b"null"


@pytest.mark.parametrize(
    ("text", "wrong", "id"),
    [
        ("1", [], b"null"),
        ('"ping"', [], b"null"),
        ("null", [], b"null"),
        ("[]", [], b"null"),
        ("{}", ["$.jsonrpc", "$.method"], b"null"),
        ('{"jsonrpc":"1.0","method":"a","id":1}', ["$.jsonrpc"], b"1"),
        ('{"jsonrpc":2.0,"method":"a","id":1}', ["$.jsonrpc"], b"1"),
        ('{"jsonrpc":"2.0","method":1,"params":"bar","id":"3"}', ["$.method", "$.params"], b'"3"'),
        ('{"jsonrpc":"2.0","method":"a","params":1}', ["$.params"], b"null"),
        ('{"jsonrpc":"2.0","method":"a","id":true}', ["$.id"], b"null"),
        ('{"jsonrpc":"2.0","method":"a","id":[1]}', ["$.id"], b"null"),
        ('{"jsonrpc":"2.0","method":"a","id":1e400}', ["$.id"], b"null"),
        ('{"jsonrpc":"2.0","method":"a","id":"' + "x" * 300 + '"}', ["$.id"], b"null"),
        ('{"jsonrpc":"2.0","result":5,"id":1}', ["$.method"], b"1"),
    ],
)
def test_what_is_no_request(text: str, wrong: list[str], id: bytes) -> None:
    found = fault(text.encode())
    assert isinstance(found.error, InvalidRequest)
    assert [field.path for field in found.error.fields] == wrong
    assert found.id == id


def test_batches() -> None:
    received = read(b'[%b, 1, {"jsonrpc":"2.0","method":"b"}]' % PING, 3)
    assert received.batch
    first, second, third = received.items
    assert isinstance(first, Request)
    assert isinstance(second, Fault)
    assert isinstance(third, Request)
    assert third.id is None


def test_a_batch_that_is_too_long_is_one_error() -> None:
    received = read(b"[%b]" % b",".join([PING] * 100), 10)
    assert not received.batch
    (found,) = received.items
    assert isinstance(found, Fault)
    assert (found.error.code, found.error.extra) == ("too_large", {"limit": 10})


def test_broken_json_within_a_batch_fails_all_of_it() -> None:
    found = fault(b"[%b, {]" % PING)
    assert isinstance(found.error, ParseError)


@pytest.mark.parametrize(
    ("spelled", "same"),
    [(b"1", b"1.0"), (b'"a"', b'"\\u0061"'), (b"null", b"null"), (b"100", b"1e2"), (b"9" * 30, b"9" * 30)],
)
def test_ids_that_mean_the_same(spelled: bytes, same: bytes) -> None:
    assert id_key(spelled) == id_key(same)
    assert id_key(spelled) is not None


def test_ids_that_differ() -> None:
    keys = [id_key(text) for text in (b"1", b'"1"', b"null", b'"null"', b"0", b"-1", b'""')]
    assert len(set(keys)) == len(keys)
    assert None not in keys


def test_writing() -> None:
    assert json.loads(answer(b"1", b'"pong"')) == {"jsonrpc": "2.0", "id": 1, "result": "pong"}
    assert json.loads(error_answer(b"null", b'{"code":1}')) == {"jsonrpc": "2.0", "id": None, "error": {"code": 1}}
    assert json.loads(batch([answer(b"1", b"2"), answer(b"2", b"3")]))[1]["id"] == 2
    said = json.loads(notification("message", b"{}"))
    assert said == {"jsonrpc": "2.0", "method": "message", "params": {}}


# any bytes ------------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
members = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "1.0", 2]) | json_values,
        "method": st.text() | json_values,
        "params": json_values,
        "id": st.integers() | st.text() | st.none() | json_values,
        "result": json_values,
    },
)


def assert_documented(payload: bytes) -> list[Request | Fault]:
    """Whatever comes in, out come requests and faults that can be answered."""
    received = read(payload, 10)
    for item in received.items:
        if isinstance(item, Fault):
            assert item.error.code in ("parse_error", "invalid_request", "too_large")
            json.loads(error_answer(item.id, b"{}"))
        else:
            assert item.id is None or item.key == id_key(item.id)
            assert not item.params or json.loads(bytes(item.params)) is not None
    return list(received.items)


@given(st.binary(max_size=200))
def test_any_bytes(payload: bytes) -> None:
    assert_documented(payload)


@settings(max_examples=50)
@given(members | st.lists(members, max_size=4) | json_values)
def test_any_json(value: Any) -> None:
    items = assert_documented(json.dumps(value).encode())
    objects = value if isinstance(value, list) else [value]
    for item, given_one in zip(items, objects, strict=False):
        if isinstance(item, Request):
            assert item.method == given_one["method"]
            assert ("id" in given_one) == (item.id is not None)
            assert item.id is None or json.loads(item.id) == given_one["id"]


@given(st.data())
def test_mutated_requests(data: st.DataObject) -> None:
    """Cut, doubled and changed bytes of a real conversation."""
    samples = [
        PING,
        b'{"jsonrpc":"2.0","method":"publish","params":{"topic":"t","data":{"a":[1,2,{"b":null}]}},"id":"k-1"}',
        b'[{"jsonrpc":"2.0","method":"add","params":[1,2],"id":7},{"jsonrpc":"2.0","method":"ack"}]',
    ]
    mutated = bytearray(data.draw(st.sampled_from(samples)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        match data.draw(st.sampled_from(["cut", "set", "insert", "end"])):
            case "cut":
                del mutated[at : at + data.draw(st.integers(1, 8))]
            case "set" if mutated:
                mutated[at] = data.draw(st.integers(0, 255))
            case "insert":
                mutated[at:at] = data.draw(st.binary(max_size=4))
            case _:
                del mutated[at:]
    assert_documented(bytes(mutated))
