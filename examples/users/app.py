"""Users: a REST API with a front end, and a notification for every change.

Run it with ``polywire run examples/users/app.py`` and open http://127.0.0.1:8000/. The users are kept in memory: they
are gone when the hub stops.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from polywire import Conflict, FieldError, Hub, NotFound

hub = Hub("users")

# --- what there is ---------------------------------------------------------------------------------------------------

Name = Annotated[str, Meta(min_length=1, max_length=80)]
Email = Annotated[str, Meta(max_length=254, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
Age = Annotated[int, Meta(ge=0, le=150)]


@dataclass(kw_only=True)
class UserData:
    """A user as clients write it."""

    name: Name
    email: Email
    age: Age | None = None


@dataclass(kw_only=True)
class UserChanges:
    """What to change of a user. A field that is missing stays as it is; an age of null removes it."""

    name: Name | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    age: Age | UnsetType | None = UNSET


@dataclass(kw_only=True)
class User(UserData):
    """A user as clients read it."""

    id: int


What = Literal["added", "replaced", "changed", "deleted"]


@dataclass(kw_only=True)
class Notification:
    """Something happened to a user."""

    id: int
    user_id: int
    what: What
    time: datetime


notifications = hub.topic("notifications", Notification, key="user_id", durability="memory")

# --- where it is kept ------------------------------------------------------------------------------------------------

users: dict[int, User] = {}
recent: deque[Notification] = deque(maxlen=100)
user_ids, notification_ids = count(1), count(1)


def find(user_id: int) -> User:
    if user_id not in users:
        raise NotFound(f"there is no user {user_id}")
    return users[user_id]


async def store(user: User, what: What) -> User:
    """Keep a user and tell everybody. Two users cannot have the same e-mail address."""
    address = user.email.lower()
    if any(other.email.lower() == address for other in users.values() if other.id != user.id):
        raise Conflict("another user has this address", fields=[FieldError("$.email", "is taken")])
    users[user.id] = user
    await notify(user.id, what)
    return user


async def notify(user_id: int, what: What) -> None:
    notification = Notification(id=next(notification_ids), user_id=user_id, what=what, time=datetime.now(UTC))
    recent.append(notification)
    await notifications.publish(notification)


# --- what can be done with it ----------------------------------------------------------------------------------------


@hub.get("/users")
async def list_users(search: str = "", limit: Annotated[int, Meta(ge=1, le=1000)] = 100) -> list[User]:
    """The users whose name or e-mail address contains a text, the oldest first."""
    text = search.lower()
    return [user for user in users.values() if text in user.name.lower() or text in user.email.lower()][:limit]


@hub.get("/users/{user_id}")
async def get_user(user_id: int) -> User:
    """One user."""
    return find(user_id)


@hub.post("/users", status=201)
async def add_user(user: UserData) -> User:
    """Add a user."""
    return await store(User(id=next(user_ids), **vars(user)), "added")


@hub.put("/users/{user_id}")
async def replace_user(user_id: int, user: UserData) -> User:
    """Replace a user by another with the same id."""
    find(user_id)
    return await store(User(id=user_id, **vars(user)), "replaced")


@hub.patch("/users/{user_id}")
async def change_user(user_id: int, changes: UserChanges) -> User:
    """Change some fields of a user."""
    given = {name: value for name, value in vars(changes).items() if value is not UNSET}
    return await store(replace(find(user_id), **given), "changed")


@hub.delete("/users/{user_id}")
async def delete_user(user_id: int) -> None:
    """Delete a user."""
    del users[find(user_id).id]
    await notify(user_id, "deleted")


@hub.get("/notifications")
async def list_notifications(notification_id: int | None = None) -> Notification | list[Notification]:
    """The notification with this id; without one the last hundred, the newest first."""
    if notification_id is None:
        return list(reversed(recent))
    for notification in recent:
        if notification.id == notification_id:
            return notification
    raise NotFound(f"there is no notification {notification_id}", hint="only the last hundred are kept")


# The page: everything in the folder, at the path where no operation is.
hub.mount("/", Path(__file__).parent / "static")
