"""One model, written in six families: `FAMILIES`, by name."""

# No `from __future__ import annotations`: these classes stand in functions, where their annotations must be objects.

import dataclasses
import datetime as dt
import inspect
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

import attrs
import msgspec
import pydantic
from annotated_types import Ge, Gt, Le, Len, MinLen
from typing_extensions import TypedDict

from polywire.contract.objects import object_type

__all__ = ["FAMILIES"]


class Status(Enum):
    SENT = "sent"
    NEW = "new"
    PAID = "paid"


Sku = Annotated[str, Len(2, 20)]
Count = Annotated[int, Ge(1), Le(1000)]
Weight = Annotated[float, Gt(0)]
REQUIRED = inspect.Parameter.empty


def _dataclass() -> Any:
    @dataclasses.dataclass
    class Line:
        sku: Sku
        count: Count
        price: Decimal
        colours: list[str] = dataclasses.field(default_factory=list)

    @dataclasses.dataclass
    class Order:
        id: UUID
        status: Status
        lines: Annotated[list[Line], MinLen(1)]
        named: dict[str, Line]
        placed: dt.datetime
        due: dt.date | None
        weight: Weight
        tags: set[str]
        size: Literal["s", "m", "l"]
        signature: bytes
        took: dt.timedelta
        at: dt.time
        place: tuple[float, float]
        first: Line | None
        extra: Any

    return Order


def _struct() -> Any:
    class Line(msgspec.Struct):
        sku: Sku
        count: Count
        price: Decimal
        colours: list[str] = []

    class Order(msgspec.Struct):
        id: UUID
        status: Status
        lines: Annotated[list[Line], MinLen(1)]
        named: dict[str, Line]
        placed: dt.datetime
        due: dt.date | None
        weight: Weight
        tags: set[str]
        size: Literal["s", "m", "l"]
        signature: bytes
        took: dt.timedelta
        at: dt.time
        place: tuple[float, float]
        first: Line | None
        extra: Any

    return Order


def _attrs() -> Any:
    @attrs.define
    class Line:
        sku: Sku
        count: Count
        price: Decimal
        colours: list[str] = attrs.Factory(list)

    @attrs.define
    class Order:
        id: UUID
        status: Status
        lines: Annotated[list[Line], MinLen(1)]
        named: dict[str, Line]
        placed: dt.datetime
        due: dt.date | None
        weight: Weight
        tags: set[str]
        size: Literal["s", "m", "l"]
        signature: bytes
        took: dt.timedelta
        at: dt.time
        place: tuple[float, float]
        first: Line | None
        extra: Any

    return Order


def _typed_dict() -> Any:
    class Line(TypedDict):
        sku: Sku
        count: Count
        price: Decimal
        colours: NotRequired[list[str]]

    class Order(TypedDict):
        id: UUID
        status: Status
        lines: Annotated[list[Line], MinLen(1)]
        named: dict[str, Line]
        placed: dt.datetime
        due: dt.date | None
        weight: Weight
        tags: set[str]
        size: Literal["s", "m", "l"]
        signature: bytes
        took: dt.timedelta
        at: dt.time
        place: tuple[float, float]
        first: Line | None
        extra: Any

    return Order


def _pydantic() -> Any:
    class Line(pydantic.BaseModel):
        sku: Sku
        count: Count
        price: Decimal
        colours: list[str] = []

    class Order(pydantic.BaseModel):
        id: UUID
        status: Status
        lines: Annotated[list[Line], MinLen(1)]
        named: dict[str, Line]
        placed: dt.datetime
        due: dt.date | None
        weight: Weight
        tags: set[str]
        size: Literal["s", "m", "l"]
        signature: bytes
        took: dt.timedelta
        at: dt.time
        place: tuple[float, float]
        first: Line | None
        extra: Any

    return Order


def _parameters() -> Any:
    """The parameters of an operation, which stand in no class."""
    line = [
        ("sku", Sku, REQUIRED),
        ("count", Count, REQUIRED),
        ("price", Decimal, REQUIRED),
        ("colours", list[str], []),
    ]
    Line: Any = object_type("Line", line)  # noqa: N806
    order = [
        ("id", UUID, REQUIRED),
        ("status", Status, REQUIRED),
        ("lines", Annotated[list[Line], MinLen(1)], REQUIRED),
        ("named", dict[str, Line], REQUIRED),
        ("placed", dt.datetime, REQUIRED),
        ("due", dt.date | None, REQUIRED),
        ("weight", Weight, REQUIRED),
        ("tags", set[str], REQUIRED),
        ("size", Literal["s", "m", "l"], REQUIRED),
        ("signature", bytes, REQUIRED),
        ("took", dt.timedelta, REQUIRED),
        ("at", dt.time, REQUIRED),
        ("place", tuple[float, float], REQUIRED),
        ("first", Line | None, REQUIRED),
        ("extra", Any, REQUIRED),
    ]
    return object_type("Order", order)


FAMILIES = {
    "dataclass": _dataclass(),
    "struct": _struct(),
    "attrs": _attrs(),
    "typed_dict": _typed_dict(),
    "pydantic": _pydantic(),
    "parameters": _parameters(),
}
