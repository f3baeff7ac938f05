"""A message that a declared topic takes, made from its type: for the commands that people are shown to try."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from polywire.contract.topics import TopicContract
from polywire.core.errors import PolywireError

__all__ = ["sample_of"]

_DEEPEST = 8
_TEXTS = {
    "date": "2026-01-31",
    "datetime": "2026-01-31T12:00:00Z",
    "time": "12:00:00",
    "uuid": "0" * 8 + "-0000" * 3 + "-" + "0" * 12,
}


def sample_of(contract: TopicContract[Any]) -> str | None:
    """JSON on one line that the topic would take, with words for texts and small numbers; None if none was found."""
    if contract.codec.raw or contract.codec.untyped:
        return '"hello"'
    try:
        payload = msgspec.json.encode(_value(inspect.type_info(contract.codec.type), "hello", 0))
        contract.codec.decode(payload)
    except (PolywireError, TypeError, ValueError):  # constraints that a guess does not meet
        return None
    return payload.decode()


def _value(info: inspect.Type, name: str, depth: int) -> Any:  # noqa: PLR0911 - one line for each kind of type
    if depth > _DEEPEST:
        return None
    if isinstance(info, inspect.Metadata):
        examples = (info.extra_json_schema or {}).get("examples")
        return examples[0] if examples else _value(info.type, name, depth)
    if isinstance(info, (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)):
        return _object(info, depth)
    if isinstance(info, inspect.UnionType):
        return _value(
            next((one for one in info.types if not isinstance(one, inspect.NoneType)), info.types[0]), name, depth
        )
    if isinstance(info, inspect.LiteralType):
        return info.values[0]
    if isinstance(info, inspect.EnumType):
        return next(iter(info.cls)).value
    if isinstance(info, (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType)):
        return [_value(info.item_type, name, depth + 1)]
    if isinstance(info, inspect.TupleType):
        return [_value(one, name, depth + 1) for one in info.item_types]
    if isinstance(info, inspect.DictType):
        return {}
    return _scalar(info, name)


def _object(info: Any, depth: int) -> Any:
    fields = [field for field in info.fields if field.required]
    values = {field.encode_name: _value(field.type, field.encode_name, depth + 1) for field in fields}
    if getattr(info, "tag_field", None) is not None:
        values = {info.tag_field: info.tag, **values}
    array = isinstance(info, inspect.NamedTupleType) or getattr(info, "array_like", False)
    return list(values.values()) if array else values


def _scalar(info: inspect.Type, name: str) -> Any:
    if isinstance(info, inspect.StrType):
        return name.ljust(info.min_length or 0, "-")[: info.max_length]
    if isinstance(info, (inspect.IntType, inspect.FloatType)):
        least = info.ge if info.ge is not None else None if info.gt is None else info.gt + 1
        most = info.le if info.le is not None else None if info.lt is None else info.lt - 1
        number = 21 if isinstance(info, inspect.IntType) else 21.5
        number = number if most is None else min(number, most)
        return number if least is None else max(number, least)
    if isinstance(info, inspect.BoolType):
        return True
    if isinstance(info, inspect.DecimalType):
        return "1.5"
    if isinstance(info, (inspect.BytesType, inspect.ByteArrayType)):
        return ""
    return _TEXTS.get(type(info).__name__.removesuffix("Type").lower())
