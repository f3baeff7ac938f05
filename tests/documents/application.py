"""An application with something of everything that can be declared: what the documents are tried on.

No valid request may make it fail: whatever goes wrong here is the hub's fault.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
from msgspec import Meta

from polywire import Call, Conflict, File, Hub, NotFound, Router

Count = Annotated[int, Meta(ge=1, le=100, description="How many; at most a hundred.")]
Tags = Annotated[list[Annotated[str, Meta(min_length=1, max_length=20)]], Meta(max_length=10)]
Code = Annotated[str, Meta(pattern=r"^[A-Z]{3}-[0-9]{4}$", description="Three letters and four digits.")]


class Kind(enum.Enum):
    """What sort of thing an item is."""

    TOOL = "tool"
    TOY = "toy"
    FOOD = "food"


@dataclass
class Size:
    """In centimetres."""

    width: Annotated[float, Meta(gt=0, le=1000)]
    height: Annotated[float, Meta(gt=0, le=1000)]
    depth: Annotated[float, Meta(ge=0, le=1000)] = 0.0


@dataclass
class NewItem:
    """An item, before it is stored."""

    code: Code
    name: Annotated[str, Meta(min_length=1, max_length=80)]
    kind: Kind
    price: Decimal = Decimal("9.90")
    size: Size | None = None
    tags: Tags = field(default_factory=list)


@dataclass
class Item(NewItem):
    """An item, as it is kept."""

    id: int = 0


class ItemChanges(TypedDict):
    """What is given is changed."""

    name: NotRequired[Annotated[str, Meta(min_length=1, max_length=80)]]
    price: NotRequired[Decimal]
    tags: NotRequired[Tags]


class Circle(msgspec.Struct, tag="circle", tag_field="shape"):
    """Round."""

    radius: Annotated[float, Meta(ge=0, le=1e6)]


class Rectangle(msgspec.Struct, tag="rectangle", tag_field="shape"):
    """With four right angles."""

    width: Annotated[float, Meta(ge=0, le=1e6)]
    height: Annotated[float, Meta(ge=0, le=1e6)]


class Folder(msgspec.Struct):
    """A folder, and those in it."""

    name: str
    inside: list[Folder] = []


@attrs.define
class Address:
    """Where somebody lives."""

    street: str
    city: str
    country: Annotated[str, Meta(min_length=2, max_length=2)] = "DE"


class Customer(pydantic.BaseModel):
    """Somebody who buys."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(min_length=1, max_length=60)
    age: int | None = pydantic.Field(default=None, ge=0, le=150)


class Everything(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One field of each kind."""

    text: str
    number: float
    whole: int
    truth: bool
    money: Decimal
    day: date
    moment: Annotated[datetime, Meta(tz=True)]
    clock: time
    lasting: timedelta
    data: bytes
    identity: UUID
    kind: Kind
    level: Literal["low", "high", 3]
    pair: tuple[int, str]
    several: set[int] = set()
    counts: dict[str, int] = {}
    shape: Circle | Rectangle | None = None
    even: Annotated[int, Meta(multiple_of=2, ge=-1000, le=1000)] = 0
    anything: Any = None
    optional: Annotated[str, Meta(max_length=5)] | None = None


class Reading(msgspec.Struct):
    """What a sensor said."""

    sensor: Annotated[str, Meta(min_length=1, max_length=40)]
    celsius: Annotated[float, Meta(ge=-273.15, le=1e4)]
    taken: datetime | None = None


hub = Hub("warehouse", version="2.1", description="Things, and what can be done with them.")
billing = Router(prefix="billing.")

readings = hub.topic("readings", Reading, key="sensor", latest=True)
notes = hub.topic("notes")
frames = hub.topic("frames", bytes)

_items: dict[int, Item] = {}
_MOST = 1_000


def _keep(item: NewItem, id: int) -> Item:
    if len(_items) >= _MOST:
        _items.clear()
    kept = Item(item.code, item.name, item.kind, item.price, item.size, item.tags, id)
    _items[id] = kept
    return kept


def _found(item_id: int) -> Item:
    if item_id not in _items:
        raise NotFound(f"there is no item {item_id}")
    return _items[item_id]


# --- paths of their own ----------------------------------------------------------------------------------------------


@hub.get("/items")
def list_items(
    kind: Kind | None = None, tags: list[str] | None = None, limit: Count = 20, newer_than: date | None = None
) -> list[Item]:
    """Items, the oldest first.

    Only those of a `kind`, or with one of some `tags`, where that is asked for.
    """
    wanted = [item for item in _items.values() if kind in (None, item.kind) and not {*(tags or ())} - {*item.tags}]
    return wanted[:limit] if newer_than is None else []


@hub.post("/items", status=201)
async def create_item(item: NewItem) -> Item:
    """Store an item, which gets a number."""
    return _keep(item, max(_items, default=0) + 1)


@hub.get("/items/{item_id}")
async def get_item(item_id: int) -> Item:
    """One item by its number."""
    return _found(item_id)


@hub.put("/items/{item_id}")
async def put_item(item_id: Annotated[int, Meta(ge=0, le=1_000_000)], item: NewItem, reason: str = "") -> Item:
    """Store an item under a number."""
    return _keep(item, item_id)


@hub.patch("/items/{item_id}")
async def change_item(item_id: int, changes: ItemChanges) -> Item:
    """Change some of an item."""
    kept = _found(item_id)
    for name, value in changes.items():
        setattr(kept, name, value)
    return kept


@hub.delete("/items/{item_id}")
async def delete_item(item_id: int) -> None:
    """Throw an item away."""
    _items.pop(_found(item_id).id, None)


@hub.get("/days/{day}/rooms/{room}")
async def visits(day: date, room: UUID, at: time | None = None, precise: bool = False) -> dict[str, int]:
    """How many came into a room on a day."""
    return {str(room): day.day, "precise": int(precise)}


@hub.get("/primes")
async def primes(most: Count = 10) -> AsyncIterator[int]:
    """Prime numbers, one after the other."""
    for number in range(2, most):
        if all(number % other for other in range(2, number)):
            yield number


@hub.get("/pictures/{name}")
async def picture(name: str) -> bytes:
    """A picture; not a pretty one."""
    return name.encode()


@hub.post("/photos", status=201)
async def add_photo(photo: File, caption: str = "") -> dict[str, Any]:
    """Take a photo in."""
    return {"bytes": len(photo.content), "name": photo.name, "type": photo.content_type, "caption": caption}


# --- by name ---------------------------------------------------------------------------------------------------------


@hub.operation
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@hub.operation(safe=True)
async def greet(name: Annotated[str, Meta(min_length=1, max_length=60)] = "world", loud: bool = False) -> str:
    """Say hello."""
    return f"hello {name}".upper() if loud else f"hello {name}"


@hub.operation
async def area(shape: Circle | Rectangle) -> float:
    """How large a shape is."""
    return shape.radius**2 * 3.14159 if isinstance(shape, Circle) else shape.width * shape.height


@hub.operation
async def depth(folder: Folder) -> int:
    """How many folders are in each other."""
    return 1 + max([await depth(inside) for inside in folder.inside], default=0)


@hub.operation
async def everything(value: Everything) -> Everything:
    """Give back what was given."""
    return value


@hub.operation
async def register(customer: Customer, address: Address, since: datetime | None = None) -> Customer:
    """Take a customer in."""
    return customer


@hub.operation
async def checksum(data: bytes) -> int:
    """The CRC-32 of some bytes."""
    return zlib.crc32(data)


@hub.operation
async def reset() -> None:
    """Forget every item."""
    _items.clear()


@hub.operation
async def now(call: Call) -> datetime:
    """What time it is."""
    return datetime.now(UTC)


@hub.operation
async def reserve(code: Code, count: Count = 1) -> int:
    """Put some aside.

    There is never enough of `ZZZ-9999`.
    """
    if code == "ZZZ-9999":
        raise Conflict("there is not enough of it")
    return count


@hub.operation
def words(text: Annotated[str, Meta(max_length=200)]) -> Iterator[Reading]:
    """A reading for each word of a text."""
    for word in text.split():
        yield Reading(word[:40], float(len(word)))


@billing.operation
async def highest(prices: list[Decimal]) -> Decimal:
    """The highest of some prices."""
    return max(prices, default=Decimal(0))


hub.include(billing)
