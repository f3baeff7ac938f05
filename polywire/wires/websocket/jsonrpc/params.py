"""The parameters of the built-in methods, as types, and reading them so that everything that is wrong is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta, Raw

from polywire.core.errors import FieldError, Invalid, PolywireError
from polywire.wires.websocket.jsonrpc.codec import NOTHING

__all__ = [
    "CallParams",
    "CancelParams",
    "ConsumeParams",
    "CreditParams",
    "Duration",
    "FollowParams",
    "JobParams",
    "MessageParams",
    "NackParams",
    "Nothing",
    "PublishParams",
    "RejectParams",
    "SettleParams",
    "SubmitParams",
    "SubscribeParams",
    "SubscriptionParams",
    "TopicsParams",
    "Wrong",
    "decode",
    "read",
]

T = TypeVar("T")

Duration = str | int | float
"""``"30s"`` or a number of seconds; see `polywire.core.durations`."""

MOST_WRONG = 100
"""Wrong fields that an error names."""
FEW = 5
MOST_DELIVERIES = 10_000

_Identity = Annotated[str, Meta(min_length=1, max_length=255)]
_Credit = Annotated[int, Meta(ge=1, le=1 << 53)]


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Nothing(_Params, kw_only=True):
    pass


class MessageParams(_Params, kw_only=True, gc=False):
    """``data`` is empty where none was given; null elsewhere says the same as nothing."""

    data: Raw = NOTHING
    data_base64: bytes | None = None
    content_type: str | None = None
    key: str | None = None
    key_base64: bytes | None = None
    headers: dict[str, Any] | None = None
    id: _Identity | None = None
    idempotency_key: _Identity | None = None
    retain: bool = False
    priority: Annotated[int, Meta(ge=0, le=255)] = 0
    time: str | None = None
    expires_in: Duration | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    correlation_id_base64: bytes | None = None


class PublishParams(MessageParams, kw_only=True, gc=False):
    topic: str
    delay: Duration | None = None
    messages: list[MessageParams] | None = None


class SubscribeParams(_Params, kw_only=True):
    topic: str
    start: str = msgspec.field(default="latest", name="from")
    key: str | None = None
    credit: _Credit | None = None


class ConsumeParams(_Params, kw_only=True):
    """With a ``topic`` the queue is made, or found as it is described; without one it must be there."""

    queue: str
    credit: _Credit | None = None
    topic: str | None = None
    key: str | None = None
    start: str | None = msgspec.field(default=None, name="from")
    ordered: bool | None = None
    attempts: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    ack_timeout: Duration | None = None
    expires: Duration | None = None
    durable: bool | None = None


class SubscriptionParams(_Params, kw_only=True):
    subscription: int


class CreditParams(SubscriptionParams, kw_only=True):
    credit: _Credit


class SettleParams(_Params, kw_only=True):
    delivery: str | None = None
    deliveries: Annotated[list[str], Meta(min_length=1, max_length=MOST_DELIVERIES)] | None = None


class NackParams(SettleParams, kw_only=True):
    after: Duration | None = None


class RejectParams(SettleParams, kw_only=True):
    reason: str = "rejected"


class TopicsParams(_Params, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    after: str | None = None


class CallParams(_Params, kw_only=True):
    operation: str
    arguments: Raw = NOTHING
    timeout: Duration | None = None
    idempotency_key: str | None = None


class CancelParams(_Params, kw_only=True):
    """The id of a request of this connection, or a job."""

    id: Raw = NOTHING
    job: str | None = None


class SubmitParams(_Params, kw_only=True):
    operation: str
    arguments: Raw = NOTHING
    delay: Duration | None = None
    idempotency_key: str | None = None


class JobParams(_Params, kw_only=True):
    job: str
    wait: Duration | None = None


class FollowParams(_Params, kw_only=True):
    job: str
    after: str | None = None


# --- reading ---------------------------------------------------------------------------------------------------------


class Wrong:
    """Collects what is wrong, to tell it all at once."""

    def __init__(self) -> None:
        self.fields: list[FieldError] = []

    @property
    def full(self) -> bool:
        return len(self.fields) >= MOST_WRONG

    def add(self, path: str, message: str) -> None:
        if not self.full:
            self.fields.append(FieldError(path, message))

    def read(self, path: str, reader: Callable[[Any], T], value: Any) -> T | None:
        """``reader(value)``; None for no value, and where the reader raises `Invalid`, which is noted."""
        if value is None:
            return None
        try:
            return reader(value)
        except PolywireError as error:
            self.add(path, error.detail)
            return None

    def check(self) -> None:
        """Raises `Invalid` if anything was noted."""
        if self.fields:
            said = "; ".join(f"{field.path}: {field.message}" for field in self.fields[:3])
            more = f" (and {len(self.fields) - 3} more)" if len(self.fields) > 3 else ""
            raise Invalid(f"{said}{more}", fields=self.fields)


def read(path: str, reader: Callable[[Any], T], value: Any) -> T:
    """``reader(value)``. What it raises as `Invalid` names ``path``."""
    try:
        return reader(value)
    except Invalid as error:
        raise Invalid(f"{path}: {error.detail}", hint=error.hint, fields=[FieldError(path, error.detail)]) from None


_decoders: dict[Any, Callable[[Any], Any]] = {}


def decode(params: Raw, type: type[T]) -> T:
    """No parameters are ``{}``. Raises `Invalid` naming every wrong field."""
    reader = _decoders.get(type)
    if reader is None:
        reader = _decoders[type] = msgspec.json.Decoder(type).decode
    try:
        value: T = reader(params or b"{}")
    except msgspec.ValidationError:
        wrong = Wrong()
        _explain(params or b"{}", type, "$", wrong)
        wrong.check()
        raise Invalid("the parameters are not valid", fields=[FieldError("$", "not valid")]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Invalid(f"$: {text}", fields=[FieldError("$", text)]) from None
    return value


_PLACED = re.compile(r"(?P<message>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)


def _explain(text: bytes | Raw, type: Any, path: str, wrong: Wrong) -> None:
    """A decoder stops at the first fault: so each field is tried by itself."""
    try:
        given = msgspec.json.decode(text, type=dict[str, Raw])
    except msgspec.ValidationError:
        wrong.add(path, "expected an object: parameters are given by name")
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(type)}
    for name in given:
        if wrong.full:
            return
        if name not in fields:
            # Looking for the nearest name is slow, and a hostile object has as many names as it likes.
            near = get_close_matches(name[:64], fields, 1) if len(wrong.fields) < FEW else []
            wrong.add(f"{path}.{name[:64]}", "unknown field" + (f": did you mean {near[0]!r}?" if near else ""))
    for name, field in fields.items():
        if name in given:
            _explain_field(given[name], field.type, f"{path}.{name}", wrong)
        elif field.required:
            wrong.add(f"{path}.{name}", "required")


def _explain_field(text: Raw, type: Any, path: str, wrong: Wrong) -> None:
    try:
        msgspec.json.decode(text, type=type)
    except msgspec.ValidationError as error:
        elements = _elements(text) if list[MessageParams] in get_args(type) else None
        if elements is None:
            match = _PLACED.fullmatch(str(error))
            message, below = (match["message"], match["path"] or "") if match else (str(error), "")
            wrong.add(path + below, message)
            return
        for index, element in enumerate(elements):
            if wrong.full:
                return
            _explain(element, MessageParams, f"{path}[{index}]", wrong)


def _elements(text: Raw) -> list[Raw] | None:
    try:
        return msgspec.json.decode(text, type=list[Raw])
    except msgspec.ValidationError:
        return None
