"""Who may do what (docs/promises.md, "Access"): the one gate that every action of every wire passes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum
from typing import NoReturn

import msgspec

from polywire.core.address import begins, covers, is_own, is_pattern, is_private, is_reserved
from polywire.core.clock import Clock
from polywire.core.engine import StateChange
from polywire.core.errors import (
    Conflict,
    Denied,
    FieldError,
    Invalid,
    LimitExceeded,
    NotFound,
    TooLarge,
    Unauthenticated,
)

__all__ = ["Access", "Action", "ApiKeyInfo", "Permission", "Principal"]

KEY_STATE = "api_key"
_CACHED_DECISIONS = 4_096
_CACHED_OF_CLIENT = 256  # there may be many clients
_CACHED_NAME = 2_048  # characters: a peer may ask about a name as long as its frame
_SHOWN_NAME = 250
_PERMISSIONS = 1_000
_PLACEHOLDER = re.compile(r"\{user\}|\{client\}")
_PLAIN_ID = re.compile(r"[^./*#+]+")  # what has a meaning in an address, on whatever protocol, is not plain


class Action(StrEnum):
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    CALL = "call"
    MANAGE = "manage"
    ADMIN = "admin"


_OF_TOPICS = (Action.PUBLISH, Action.SUBSCRIBE)


class Permission(msgspec.Struct, frozen=True):
    """An action (or ``*``) on a pattern of dotted addresses or names: ``publish:readings.#``.

    ``{user}`` in the pattern is the principal's name, ``{client}`` the id of the client that it comes by.
    """

    action: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> Permission:
        """Raises `Invalid`."""
        action, colon, pattern = text.partition(":")
        if not colon or not pattern or (action != "*" and action not in Action.__members__.values()):
            raise Invalid(
                f"not a permission: {text[:80]!r}",
                hint=f"write ACTION:PATTERN with one of {', '.join(Action)} or *, e.g. publish:readings.#",
            )
        return cls(action, pattern)

    @property
    def of_clients(self) -> bool:
        return "{client}" in self.pattern

    def filled(self, user: str, client: str | None) -> str | None:
        """The pattern for this user and client. None: it means nothing for them.

        A client chooses its id, and must not choose its rights: an id is filled in only where it is one plain word,
        and never makes a pattern of an own or reserved topic.
        """
        if "{" not in self.pattern:
            return self.pattern
        if self.of_clients and (client is None or not _PLAIN_ID.fullmatch(client)):
            return None
        names = {"{user}": user, "{client}": client or ""}
        pattern = _PLACEHOLDER.sub(lambda found: names[found[0]], self.pattern)
        first = pattern.partition(".")[0]
        return None if is_reserved(first) and first != self.pattern.partition(".")[0] else pattern


class _Rights:
    """What a principal may do, by whatever clients it comes. ``version`` grows with each change."""

    __slots__ = ("active", "everything", "permissions", "version", "watched")

    def __init__(self, permissions: Sequence[Permission], everything: bool) -> None:
        self.active = True
        self.everything = everything
        self.permissions = tuple(permissions)
        self.version = 0
        self.watched = 0


class Principal:
    """Who is asking, whatever wire they came by."""

    def __init__(
        self, name: str, kind: str, permissions: Sequence[Permission] = (), *, everything: bool = False
    ) -> None:
        self.name = name
        self.kind = kind
        self._client: str | None = None
        self._rights = _Rights(permissions, everything)
        self._watchers: dict[int, Callable[[], None]] = {}
        self._cached = _CACHED_DECISIONS
        self._decisions: dict[tuple[str, str], bool] = {}
        self._decided = 0  # the version of the rights that the decisions were made by

    def of_client(self, client_id: str) -> Principal:
        """The same principal as it comes by this client: ``{client}`` in its permissions is the client's id.

        An id that is not one plain word (empty, or with one of ``. / * # +``) has none of the rights that ask for one.
        """
        if not any(permission.of_clients for permission in self._rights.permissions):
            return self
        seen = Principal(self.name, self.kind)
        seen._client = client_id
        seen._rights, seen._watchers = self._rights, self._watchers
        seen._cached = _CACHED_OF_CLIENT
        return seen

    @property
    def active(self) -> bool:
        return self._rights.active

    @property
    def everything(self) -> bool:
        return self._rights.everything

    def __repr__(self) -> str:
        return f"<Principal {self.kind} {self.name}>"

    @property
    def powerless(self) -> bool:
        """Whether there is nothing that it may do."""
        return not self.active or not (self.everything or self._rights.permissions)

    def allows(self, action: Action, name: str) -> bool:
        rights = self._rights
        if rights.everything:
            return rights.active and not (name[:1] == "_" and self._is_shut(action, name))
        if self._decided != rights.version:
            self._decided = rights.version
            self._decisions.clear()
        decided = self._decisions.get((action, name))
        if decided is None:
            decided = rights.active and self._decide(action, name)
            if len(name) > _CACHED_NAME:
                return decided
            if len(self._decisions) >= self._cached:
                self._decisions.clear()
            self._decisions[action, name] = decided
        return decided

    def _decide(self, action: Action, name: str) -> bool:
        if self._is_shut(action, name):
            return False
        topic = name.partition(".")[0]
        by_name = action in _OF_TOPICS and is_own(topic) and not self.allows(Action.ADMIN, "#")
        return any(
            covers(pattern, name) and not (by_name and pattern.partition(".")[0] != topic)
            for pattern in self._patterns(action)
        )

    def _is_shut(self, action: Action, name: str) -> bool:
        """Whether it is a topic for nobody but the hub itself."""
        return action in _OF_TOPICS and self.kind != "hub" and is_private(name.partition(".")[0])

    def allows_some_of(self, action: Action, topic: str) -> bool:
        """Whether it may do so with a key of the topic at least."""
        if self.everything or not self.active:
            return self.active
        return any(begins(topic, pattern) for pattern in self._patterns(action))

    def _patterns(self, action: Action) -> Iterator[str]:
        for permission in self._rights.permissions:
            if permission.action in (action, "*"):
                pattern = permission.filled(self.name, self._client)
                if pattern is not None:
                    yield pattern

    def on_revoked(self, callback: Callable[[], None]) -> Callable[[], None]:
        """``callback`` runs when permissions are taken away; call what is returned to be forgotten."""
        watchers, rights = self._watchers, self._rights
        rights.watched += 1
        number = rights.watched
        watchers[number] = callback
        return lambda: watchers.pop(number, None) and None

    def narrow(self, permissions: Sequence[Permission], *, active: bool = True) -> None:
        """Replace the permissions and tell everything that was opened under the old ones."""
        rights = self._rights
        rights.permissions = tuple(permissions)
        rights.everything = False
        rights.active = active
        rights.version += 1
        for number, callback in list(self._watchers.items()):
            if number in self._watchers:  # and was not forgotten by one before it
                callback()


class StoredKey(msgspec.Struct, frozen=True):
    id: str
    name: str
    hash: bytes
    allow: list[str]
    created: int


class ApiKeyInfo(msgspec.Struct, frozen=True):
    id: str
    name: str
    allow: list[str]
    created: int


Store = Callable[[Sequence[StateChange]], Awaitable[None]]


class Access:
    """API keys and decisions. While no key exists, everybody is ``anonymous`` and may do everything."""

    def __init__(self, clock: Clock, *, anonymous_allow: Sequence[str] = (), keys: int = 10_000) -> None:
        self._clock = clock
        self._most = keys
        self._store: Store | None = None
        self._keys: dict[str, tuple[StoredKey, Principal]] = {}
        self._names: dict[str, Principal] = {}  # of keys
        self._making: set[str] = set()  # names of keys that are being stored
        self._anonymous_allow = [Permission.parse(text) for text in anonymous_allow]
        self.anonymous = Principal("anonymous", "anonymous", everything=True)
        self.system = Principal("hub", "hub", everything=True)

    @property
    def open(self) -> bool:
        return self.anonymous.everything

    def load(self, stored: Sequence[bytes], store: Store) -> None:
        self._store = store
        for value in stored:
            self._add(msgspec.msgpack.decode(value, type=StoredKey))

    def authenticate(self, secret: str | None) -> Principal:
        """The principal of an API key; `anonymous` without one.

        Raises `Unauthenticated` for a key that is not known.
        """
        if secret is None:
            return self.anonymous
        _, _, rest = secret.partition("_")
        entry = self._keys.get(rest.partition("_")[0])
        given = _hash(secret)
        # Unknown ids are compared too, so that time does not tell which ids exist.
        if not hmac.compare_digest(entry[0].hash if entry else bytes(32), given) or entry is None:
            raise Unauthenticated("the API key is not known", hint="it may have been revoked; ask for a new one")
        return entry[1]

    def named(self, name: str) -> Principal | None:
        """Who has that name now; None for an API key that was revoked."""
        if name in (self.anonymous.name, self.system.name):
            return self.anonymous if name == self.anonymous.name else self.system
        return self._names.get(name)

    def allows(self, principal: Principal, action: Action, name: str) -> bool:
        return principal.allows(action, name)

    def require(self, principal: Principal, action: Action, name: str) -> None:
        """Raises `Denied`, or `Unauthenticated` for a principal without credentials."""
        if not principal.allows(action, name):
            self._refuse(principal, action, name)

    def require_some_of(self, principal: Principal, action: Action, topic: str) -> None:
        """Raises as `require` for who may not do so with any key of the topic: to be asked before a body is read."""
        if not principal.allows_some_of(action, topic):
            self._refuse(principal, action, topic)

    def _refuse(self, principal: Principal, action: Action, name: str) -> NoReturn:
        private = action in _OF_TOPICS and is_private(name.partition(".")[0])
        if len(name) > _SHOWN_NAME:
            name = f"{name[:_SHOWN_NAME]}…"
        if principal.kind == "anonymous" and not principal.everything:
            raise Unauthenticated(
                f"{action} on {name!r} needs an API key", hint="send Authorization: Bearer KEY, or X-API-Key"
            )
        if private:
            raise Denied(
                f"nobody may {action} {name!r}: it holds what others asked of the hub",
                hint="who submitted a job reads it by its id",
            )
        raise Denied(f"{principal.name!r} may not {action} {name!r}", hint=f"grant it {action}:{name}")

    def keys(self, principal: Principal) -> list[ApiKeyInfo]:
        self.require(principal, Action.ADMIN, "#")
        return [_info(key) for key, _ in self._keys.values()]

    async def create_key(self, principal: Principal, name: str, allow: Sequence[str]) -> tuple[ApiKeyInfo, str]:
        """Make a key; its secret is in the answer and nowhere else.

        Raises `Invalid`, `Conflict`, `LimitExceeded`, `TooLarge`.
        """
        self.require(principal, Action.ADMIN, "#")
        if not name or len(name) > 100 or not name.isprintable():
            raise Invalid("a key's name has 1 to 100 printable characters", fields=[FieldError("$.name", "required")])
        if is_pattern(name) or name in (self.anonymous.name, self.system.name):
            raise Invalid(f"no key may be named {name!r}", fields=[FieldError("$.name", "reserved, or a wildcard")])
        if name in self._making or any(key.name == name for key, _ in self._keys.values()):
            raise Conflict(f"an API key named {name!r} exists", hint="revoke it first, or take another name")
        if len(self._keys) + len(self._making) >= self._most:
            raise LimitExceeded(f"the hub has its limit of {self._most} API keys", hint="revoke some")
        if len(allow) > _PERMISSIONS:
            raise TooLarge(f"a key has at most {_PERMISSIONS} permissions, not {len(allow)}")
        for text in allow:
            Permission.parse(text)
        identity = secrets.token_hex(6)
        secret = f"pw_{identity}_{secrets.token_urlsafe(32)}"
        key = StoredKey(identity, name, _hash(secret), list(allow), self._clock.now())
        self._making.add(name)
        try:
            await self._save(StateChange(KEY_STATE, key.id, msgspec.msgpack.encode(key)))
        finally:
            self._making.discard(name)
        self._add(key)
        return _info(key), secret

    async def revoke_key(self, principal: Principal, id_or_name: str) -> None:
        """Open connections of the key lose their rights before this returns. Raises `NotFound`."""
        self.require(principal, Action.ADMIN, "#")
        for key, owner in self._keys.values():
            if id_or_name in (key.id, key.name):
                await self._save(StateChange(KEY_STATE, key.id, None))
                # The last key's removal does not open the hub again: that takes a restart.
                owner.narrow((), active=False)
                self._keys.pop(key.id, None)
                self._names.pop(key.name, None)
                return
        raise NotFound(f"no API key {id_or_name!r}")

    async def _save(self, change: StateChange) -> None:
        if self._store is None:
            raise RuntimeError("the hub has not started")
        await self._store([change])

    def _add(self, key: StoredKey) -> None:
        if not self._keys:
            self.anonymous.narrow(self._anonymous_allow)
        principal = Principal(key.name, "key", [Permission.parse(text) for text in key.allow])
        self._keys[key.id] = (key, principal)
        self._names[key.name] = principal


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _info(key: StoredKey) -> ApiKeyInfo:
    return ApiKeyInfo(key.id, key.name, key.allow, key.created)
