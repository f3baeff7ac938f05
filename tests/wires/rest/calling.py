"""The application whose operations the tests of REST call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from polywire import (
    Call,
    Conflict,
    Denied,
    Depends,
    File,
    Hub,
    Invalid,
    NotFound,
    Principal,
)

__all__ = ["Address", "User", "events", "hub"]

events: list[str] = []
"""What the operations saw, in order."""


@dataclass
class Address:
    city: str
    zip: str | None = None


@dataclass
class User:
    name: str
    age: Annotated[int, msgspec.Meta(ge=0, le=150)]
    tags: list[str] = field(default_factory=list)
    address: Address | None = None


hub = Hub("calling")


@hub.operation
async def add(a: int, b: int) -> int:
    """Add two numbers.

    They may be negative.
    """
    return a + b


@hub.operation
def blocking(text: str) -> str:
    return text.upper()


@hub.operation
async def echo(user: User) -> User:
    return user


@hub.operation(safe=True)
async def greet(name: str, times: int = 1) -> str:
    return " ".join([f"hello {name}"] * times)


@hub.operation
async def nothing(note: str = "") -> None:
    events.append(note)


@hub.operation
async def anything(value: Any) -> Any:
    return value


@hub.operation
async def swap(data: bytes) -> bytes:
    return data[::-1]


@hub.operation
async def look(file: File) -> dict[str, Any]:
    return {"name": file.name, "content_type": file.content_type, "size": len(file.content)}


@hub.operation
async def attach(title: str, files: list[File]) -> list[str]:
    return [f"{title}: {file.name} {file.content_type} {len(file.content)}" for file in files]


@hub.operation(safe=True)
async def picture(kind: Literal["png", "odd", "page"] = "png") -> File:
    if kind == "png":
        return File(b"\x89PNG", "größe 1.png", "image/png")
    return File(b"<b>hi</b>", None, "text/html" if kind == "page" else "image/png\r\nX-Evil: 1")


@hub.operation
async def fail(how: str) -> None:
    raise {
        "not_found": NotFound("no such thing", hint="look elsewhere"),
        "conflict": Conflict("twice"),
        "denied": Denied("not you"),
        "invalid": Invalid("bad"),
    }.get(how) or ZeroDivisionError(how)


@hub.operation
async def lie() -> int:
    return object()  # type: ignore[return-value]


@hub.operation
async def cancels_itself() -> None:
    raise asyncio.CancelledError


@hub.operation
async def who(call: Call, principal: Principal) -> dict[str, Any]:
    return {
        "principal": principal.name,
        "wire": call.origin.wire,
        "headers": [list(header) for header in call.headers],
        "deadline": call.deadline is not None,
    }


async def watched() -> AsyncIterator[str]:
    events.append("opened")
    try:
        yield "resource"
    finally:
        events.append("closed")


@hub.operation
async def wait(watch: Annotated[str, Depends(watched)], seconds: float = 60.0) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        events.append("cancelled")
        raise
    return watch


@hub.operation(safe=True)
async def count(to: int, watch: Annotated[str, Depends(watched)], fail_at: int = -1) -> AsyncIterator[int]:
    try:
        for number in range(to):
            if number == fail_at:
                raise Conflict(f"not {number}")
            events.append(f"yield {number}")
            yield number
    finally:
        events.append("generator closed")


@hub.operation
def lines(text: str) -> Iterator[str]:
    yield from text.split()


@hub.operation
async def slow_stream(first: bool = True) -> AsyncIterator[User]:
    if first:
        yield User("ada", 36)
    try:
        await asyncio.sleep(60)
    finally:
        events.append("stream left")


@hub.operation
async def flood(size: int) -> AsyncIterator[str]:
    while True:
        events.append("pulled")
        yield "x" * size


@hub.operation
async def broken_stream() -> AsyncIterator[int]:
    yield 1
    raise ZeroDivisionError


users = {1: User("ada", 36, ["x"]), 2: User("bob", 7)}


@hub.get("/users/{user_id}")
async def user(user_id: int, fields: list[str] | None = None, deep: bool = False) -> dict[str, Any]:
    if user_id not in users:
        raise NotFound(f"no user {user_id}")
    return {"user": users[user_id].name, "fields": fields, "deep": deep}


@hub.get("/users")
async def list_users(limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10, name: str | None = None) -> list[User]:
    return [one for one in users.values() if name in (None, one.name)][:limit]


@hub.post("/users", status=201)
async def create_user(user: User) -> User:
    return user


@hub.put("/users/{user_id}")
async def replace_user(user_id: int, user: User, notify: bool = False) -> dict[str, Any]:
    return {"id": user_id, "name": user.name, "notify": notify}


@hub.patch("/users/{user_id}")
async def change_user(user_id: int, name: str | None = None, age: int | None = None) -> dict[str, Any]:
    return {"id": user_id, "name": name, "age": age}


@hub.delete("/users/{user_id}")
async def delete_user(user_id: int) -> None:
    events.append(f"deleted {user_id}")


@hub.get("/users/me")
async def me() -> str:
    return "me"


@hub.post("/users/{user_id}/rename")
async def rename(user_id: int, name: str) -> str:
    return f"{user_id} is {name}"


@hub.get("/files/{name}")
async def file(name: str) -> str:
    return name


@hub.get("/slashed/")
async def slashed() -> str:
    return "slashed"


@hub.get("/health")
async def health() -> dict[str, str]:
    return {"status": "mine"}


@hub.get("/ticks")
async def ticks() -> AsyncIterator[int]:
    yield 1
    yield 2


@hub.operation
async def report(call: Call, title: str, steps: int = 0, fail: bool = False) -> dict[str, str]:
    for step in range(steps):
        call.progress({"step": step})
    if fail:
        raise NotFound("no data")
    return {"title": title}
