"""A type made of fields that stand nowhere as a class: the parameters of an operation."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from polywire.contract.libraries import for_struct

__all__ = ["Parameter", "object_type"]


class Parameter(NamedTuple):
    """A field, or a parameter that a caller gives. ``default`` is `inspect.Parameter.empty` if it must be given."""

    name: str
    hint: Any
    default: Any


def object_type(name: str, fields: Iterable[tuple[str, Any, Any]], *, closed: bool = False) -> type[msgspec.Struct]:
    """A Struct of ``(name, hint, default)``; a default of `inspect.Parameter.empty` means that the field is required.

    ``closed``: unknown fields are refused. Raises `TypeError` for a field that no Struct can have.
    """
    made = [_field(name, for_struct(hint), default) for name, hint, default in fields]
    return msgspec.defstruct(name, made, kw_only=True, forbid_unknown_fields=closed)


def _field(name: str, hint: Any, default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return name, hint
    if isinstance(default, (list, dict, set, bytearray)) or type(default).__hash__ is None:
        return name, hint, msgspec.field(default_factory=lambda: copy.deepcopy(default))
    return name, hint, default
