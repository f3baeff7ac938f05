"""The fields of a class, whatever family it is written in: dataclass, Struct, attrs, TypedDict or NamedTuple.

Models of pydantic are read in `polywire.contract.pydantic_models`, which is imported only for them.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, UNSET
from msgspec.inspect import is_struct_type

from polywire.contract.hints import class_hints, class_of

__all__ = ["Member", "Shape", "is_attrs", "is_named_tuple", "is_pydantic", "is_typed_dict", "shape_of"]


class Member(NamedTuple):
    """A field as its class declares it; ``default`` is `UNSET` where there is none, or a ``factory`` makes it."""

    name: str
    attribute: str
    hint: Any
    required: bool
    default: Any = UNSET
    description: str | None = None
    read_only: bool = False
    factory: Any = None


class Shape(NamedTuple):
    members: tuple[Member, ...]
    closed: bool = False
    tag_field: str | None = None
    tag: str | int | None = None


def shape_of(type: Any) -> Shape | None:
    """None for what has no fields by name. Raises `TypeError` for a class that no JSON object can stand for."""
    cls = class_of(type)
    for belongs, shape in _FAMILIES:
        if belongs(cls):
            return shape(type)
    return None


def is_pydantic(cls: Any) -> bool:
    """A model or dataclass of pydantic, known without importing it."""
    return isinstance(cls, type) and hasattr(cls, "__pydantic_fields__")


def is_attrs(cls: Any) -> bool:
    return hasattr(cls, "__attrs_attrs__")


def is_typed_dict(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, dict) and hasattr(cls, "__total__")


def is_named_tuple(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")


def _struct(type: Any) -> Shape:
    cls, config = class_of(type), class_of(type).__struct_config__
    if config.array_like:
        raise TypeError(f"{cls.__qualname__} is array_like: its fields have no names in JSON")
    hints = class_hints(type)
    members = [
        Member(
            field.encode_name,
            field.name,
            hints[field.name],
            field.required,
            UNSET if field.default is NODEFAULT else field.default,
            factory=field.default_factory,
        )
        for field in msgspec.structs.fields(cls)
    ]
    return Shape(tuple(members), config.forbid_unknown_fields, config.tag_field, config.tag)


def _pydantic(type: Any) -> Shape:
    from polywire.contract.pydantic_models import model_shape

    return model_shape(class_of(type))


def _dataclass(type: Any) -> Shape:
    hints = class_hints(type)
    members = [
        Member(
            field.name,
            field.name,
            hints[field.name],
            field.default is field.default_factory is dataclasses.MISSING,
            UNSET if field.default is dataclasses.MISSING else field.default,
            _stated(field.metadata),
            factory=field.default_factory,
        )
        for field in dataclasses.fields(class_of(type))
    ]
    return Shape(tuple(members))


def _attrs(type: Any) -> Shape:
    import attrs

    hints = class_hints(type)
    members = []
    for field in class_of(type).__attrs_attrs__:
        made = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
        default = UNSET if made or field.default is attrs.NOTHING else field.default
        required = field.default is attrs.NOTHING
        hint = hints.get(field.name, Any)
        factory = field.default.factory if made else None
        members.append(
            Member(field.name, field.name, hint, required, default, _stated(field.metadata), factory=factory)
        )
    return Shape(tuple(members))


def _typed_dict(type: Any) -> Shape:
    cls, hints = class_of(type), class_hints(type)
    required = frozenset(getattr(cls, "__required_keys__", hints))
    return Shape(tuple(Member(name, name, hint, _is_required(hint, name in required)) for name, hint in hints.items()))


def _is_required(hint: Any, otherwise: bool) -> bool:
    """``__required_keys__`` does not see through annotations that are text, so the hint has the last word."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_required(hint.__origin__, otherwise)
    name = getattr(origin, "_name", None)
    if name == "ReadOnly":
        return _is_required(hint.__args__[0], otherwise)
    return {"Required": True, "NotRequired": False}.get(name, otherwise) if name is not None else otherwise


def _stated(metadata: Mapping[Any, Any]) -> str | None:
    text = metadata.get("description")
    return text if isinstance(text, str) else None


_FAMILIES = (
    (is_struct_type, _struct),
    (is_pydantic, _pydantic),
    (is_attrs, _attrs),
    (lambda cls: isinstance(cls, type) and dataclasses.is_dataclass(cls), _dataclass),
    (is_typed_dict, _typed_dict),
)
