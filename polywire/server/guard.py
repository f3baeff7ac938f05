"""The door of the HTTP listener: whose Host and Origin are welcome, and who is asking.

A page on any web site can make its visitor's browser send requests to a hub on the visitor's machine. Two things stop
it. *Origin*: a browser names the page's origin, and one that is neither the hub's own nor in ``origins`` is refused,
for plain requests, event streams and WebSockets alike (browsers do not apply CORS to WebSockets). *Host*: a name the
attacker owns can be made to point to 127.0.0.1 (DNS rebinding), which makes the page "same origin"; so while the hub is
open, the Host header must name a loopback address, the address the connection came in on, or a configured name.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from polywire.core.access import Access, Principal
from polywire.core.errors import Denied, Invalid, PolywireError
from polywire.server.problems import Header, send_problem
from polywire.server.settings import HttpSettings
from polywire.server.whole_response import WHOLE

__all__ = ["Guard", "credentials", "host_name"]

Scope = Any  # ASGI's own dictionaries
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(?:(?P<name>[a-z0-9._-]+)|\[(?P<address>[0-9a-f:.]+)\])(?::[0-9]*)?")
_CACHED_HOSTS = 256
_CACHED_LENGTH = 256  # of a Host: no name is longer (RFC 1035 §2.3.4)
_QUERY_FIELDS = 100
_EXPOSED = b"*"
_PREFLIGHT_AGE = b"600"


class Guard:
    """ASGI middleware around the router. Sets ``scope["principal"]``; WebSocket handshakes call `admit` themselves.

    ``has_own_credentials`` says which requests are for applications that have credentials of their own: what is not
    one of the hub's keys is none there, and no error.
    """

    def __init__(
        self,
        settings: HttpSettings,
        access: Access,
        app: App,
        has_own_credentials: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self._access = access
        self._app = app
        self._has_own_credentials = has_own_credentials
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.origins)
        self._all_origins = "*" in settings.origins
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._all_hosts = "*" in settings.allowed_hosts
        self._welcome: dict[tuple[bytes, str], bool] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers foreign requests, unknown credentials and CORS preflights; passes the rest on."""
        try:
            origin = self.admit(scope)
        except PolywireError as error:
            await send_problem(self._for_reader(scope, send), error)
            return
        if origin is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method") is not None:
            await _preflight(scope, send, origin)
        else:
            scope.pop(WHOLE, None)  # it would leave out the headers that are added here
            await self._app(scope, receive, _with_cors(send, origin))

    def admit(self, scope: Scope) -> bytes | None:
        """Check Host and Origin and find the principal (``scope["principal"]``).

        Returns the origin if it is another one than the hub's and may use it. Raises `Invalid` (no Host, or two),
        `Denied` (foreign Host or Origin), `Unauthenticated` (unknown key).
        """
        host = origin = authorization = api_key = None
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    raise Invalid("the request has more than one Host header")
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"authorization":
                authorization = value
            elif name == b"x-api-key":
                api_key = value
        self._check_host(host, scope)
        cross_origin = origin is not None and self._check_origin(origin, host)
        try:
            scope["principal"] = self._principal(scope, authorization, api_key)
        except PolywireError:
            if not self._has_own_credentials(scope):
                raise
            scope["principal"] = self._access.anonymous
        return origin if cross_origin else None

    def _for_reader(self, scope: Scope, send: Send) -> Send:
        """A page that may use the hub may read why it was refused, too: that its key is not known, say."""
        origin = _header(scope, b"origin")
        return send if origin is None or not self._may_use(origin) else _with_cors(send, origin)

    def admit_plain(self, headers: Sequence[Header], server: tuple[str, int | None] | None) -> Principal:
        """Who sends these headers, on a request of HTTP/1.1 without Origin and query. Raises as `admit`."""
        scope = {"http_version": "1.1", "headers": headers, "query_string": b"", "server": server}
        self.admit(scope)
        principal: Principal = scope["principal"]  # type: ignore[assignment]  # put there by `admit`
        return principal

    def still_admits(self, principal: Principal, opened: bool) -> bool:
        """Whether `admit_plain` would say the same again: nobody has revoked the key, nor made the first one."""
        return principal.active and self._access.open == opened

    @property
    def open(self) -> bool:
        """Whether the hub is open to all: no API key exists."""
        return self._access.open

    def _check_host(self, host: bytes | None, scope: Scope) -> None:
        if host is None:
            if scope["http_version"] == "1.1":
                raise Invalid("the request has no Host header", hint="RFC 9112 §3.2")
            return
        if self._all_hosts or not self._access.open:
            return
        server = scope.get("server")
        arrived_at = server[0] if server else ""
        known = self._welcome.get((host, arrived_at))
        if known is None:
            known = self._is_welcome(host_name(host), arrived_at)
            if len(host) <= _CACHED_LENGTH:
                if len(self._welcome) >= _CACHED_HOSTS:
                    self._welcome.clear()
                self._welcome[host, arrived_at] = known
        if not known:
            raise Denied(
                f"this hub is not {host[:100].decode('latin-1')!r}",
                hint="while no API key exists, only loopback names and those in allowed_hosts are answered",
            )

    def _is_welcome(self, name: str, arrived_at: str) -> bool:
        if name in self._hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address cannot be rebound as a name can: the one the connection came in on is the hub's own.
        return address.is_loopback or name == arrived_at

    def _check_origin(self, origin: bytes, host: bytes | None) -> bool:
        """Whether ``origin`` is another than the hub's own. Raises `Denied` if it may not use the hub."""
        if self._may_use(origin):
            return True
        text = origin.decode("latin-1").lower()
        # The scheme is not compared: a proxy in front may have ended TLS.
        scheme, _, authority = text.partition("://")
        if scheme in ("http", "https") and host is not None and authority == host.decode("latin-1").lower():
            return False
        raise Denied(
            f"pages of {text[:100]!r} may not use this hub", hint="allow them with origins=, as https://app.example.com"
        )

    def _may_use(self, origin: bytes) -> bool:
        """Whether ``origins`` names it."""
        return self._all_origins or origin.decode("latin-1").lower() in self._origins

    def _principal(self, scope: Scope, authorization: bytes | None, api_key: bytes | None) -> Principal:
        secret: str | None = None
        if api_key is not None:
            secret = api_key.decode("latin-1").strip()
        elif authorization is not None:
            secret = credentials(authorization)
        elif b"api_key=" in scope["query_string"] and _cannot_set_headers(scope):
            secret = _query_key(scope["query_string"])
        return self._access.authenticate(secret)


def _cannot_set_headers(scope: Scope) -> bool:
    """A browser's WebSocket and EventSource. Others have no excuse for a key in a URL, which ends up in logs."""
    upgrade, accept = _header(scope, b"upgrade"), _header(scope, b"accept")
    is_websocket = scope.get("type") == "websocket" or (upgrade or b"").lower() == b"websocket"
    return is_websocket or b"text/event-stream" in (accept or b"")


def credentials(authorization: bytes) -> str:
    """The API key in an Authorization header: ``Bearer KEY``, or ``Basic`` with the key as password.

    Raises `Invalid` for anything else.
    """
    scheme, _, rest = authorization.decode("latin-1").partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer" and rest:
        return rest
    if scheme.lower() == "basic":
        try:
            user, colon, password = base64.b64decode(rest, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = password = user = ""
        if colon:
            return password or user
    raise Invalid(
        "the Authorization header is not understood", hint="send Bearer KEY, or Basic with the key as password"
    )


def host_name(host: bytes) -> str:
    """The name or address in a Host header, lower case, without port and brackets; empty if it is not a Host."""
    found = _HOST.fullmatch(host.decode("latin-1").lower())
    return (found["name"] or found["address"] or "").rstrip(".") if found else ""


def _query_key(query: bytes) -> str | None:
    try:
        fields = parse_qsl(query.decode("latin-1"), max_num_fields=_QUERY_FIELDS)
    except ValueError:
        raise Invalid(f"the query has more than {_QUERY_FIELDS} fields") from None
    return dict(fields).get("api_key")


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    headers: Iterable[Header] = scope["headers"]
    return next((value for name, value in headers if name == wanted), None)


async def _preflight(scope: Scope, send: Send, origin: bytes) -> None:
    headers = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", _header(scope, b"access-control-request-headers") or b"*"),
        (b"access-control-max-age", _PREFLIGHT_AGE),
        (b"vary", b"origin, access-control-request-headers"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _with_cors(send: Send, origin: bytes) -> Send:
    shown = [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"origin"),
    ]

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            # A mounted application may have rules of its own; of two answers a browser believes none.
            if all(name.lower() != b"access-control-allow-origin" for name, _ in headers):
                message = {**message, "headers": [*headers, *shown]}
        await send(message)

    return sending
