"""What the hub says about itself: an OpenAPI document, its types as JSON Schemas, and a page to read and try.

A reader is shown what it may call, publish and read, and nothing else. The page is the same for everybody: it holds
nothing, and asks for the document as the reader's API key.
"""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import re
from collections import OrderedDict
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from polywire.contract.contract import Contract
from polywire.contract.operations import Arguments, OperationContract
from polywire.core.access import Access, Action, Principal
from polywire.core.errors import NotFound, Unauthenticated
from polywire.documents.draft import Audience, Rules
from polywire.documents.openapi import openapi as describe
from polywire.documents.schemas import Schemas
from polywire.documents.topics import ANY_TOPIC
from polywire.wires.rest.arguments import FORM, JSON, MULTIPART, OCTETS, XML
from polywire.wires.rest.binding import Headers, Response, json_response
from polywire.wires.rest.replies import Replies, if_changed
from polywire.wires.rest.request import Request

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp

__all__ = ["RULES", "Documents", "openapi", "page", "page_file", "schema", "schemas"]

_BASE = "http://hub.invalid"
"""Stands in a cached document where the address belongs by which its reader reached the hub."""
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_PAGE = resources.files("polywire.documents") / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _takes(arguments: Arguments) -> tuple[str, ...]:
    """See `arguments.kind_of`."""
    written = (JSON, XML, FORM, MULTIPART)
    return written if arguments.raw is None else (OCTETS, *written)


def _offers(contract: OperationContract) -> tuple[str, ...]:
    return Replies(contract).offers


RULES = Rules(_takes, _offers)


class _Shown(NamedTuple):
    """What a document shows: pairs of action and name. ``anyone``: what of it needs no API key; None: all, as there
    are no keys."""

    allowed: frozenset[tuple[str, str]]
    anyone: frozenset[tuple[str, str]] | None

    def audience(self) -> Audience:
        allowed, anyone = self.allowed, self.anyone
        return Audience(
            lambda action, name: (action, name) in allowed,
            None if anyone is None else lambda action, name: (action, name) in anyone,
        )


class Documents:
    """Of one contract. Each set of permissions has its document, made when it is first asked for and kept.

    ``strict``: there are no other topics than those declared. ``most``: documents that are kept.
    """

    def __init__(self, contract: Contract, *, strict: bool, most: int) -> None:
        self._contract = contract
        self._most = most
        self._schemas: Schemas | None = None
        self._made: OrderedDict[_Shown, bytes] = OrderedDict()
        self._making = asyncio.Lock()
        self._asked = [
            *((Action.CALL, operation.name) for operation in contract.operations),
            *((Action.PUBLISH, topic.settings.name) for topic in contract.topics),
            *((Action.SUBSCRIBE, topic.settings.name) for topic in contract.topics),
            *([] if strict else [(Action.PUBLISH, ANY_TOPIC), (Action.SUBSCRIBE, ANY_TOPIC)]),
        ]

    def shown(self, access: Access, principal: Principal) -> _Shown:
        """Raises `Unauthenticated` for a caller without a key where nothing is for everybody."""
        allowed = self._allowed(access, principal)
        if not allowed and principal.kind == "anonymous" and not access.open:
            raise Unauthenticated(
                "the documentation needs an API key", hint="send Authorization: Bearer KEY, or X-API-Key"
            )
        return _Shown(allowed, None if access.open else self._allowed(access, access.anonymous))

    def _allowed(self, access: Access, principal: Principal) -> frozenset[tuple[str, str]]:
        return frozenset((str(action), name) for action, name in self._asked if _may(access, principal, action, name))

    async def openapi(self, shown: _Shown, base: str) -> bytes:
        """JSON. ``base``: the hub's URL as its reader has it."""
        async with self._making:  # of many who ask at once, one makes it
            body = self._made.get(shown)
            if body is None:
                body = await asyncio.to_thread(self._make, shown)
                self._made[shown] = body
                if len(self._made) > self._most:
                    self._made.popitem(last=False)
            else:
                self._made.move_to_end(shown)
        return body.replace(_BASE.encode(), base.encode())

    @property
    def kept(self) -> int:
        """How many documents."""
        return len(self._made)

    def _make(self, shown: _Shown) -> bytes:
        document = describe(self._contract, self.schemas, rules=RULES, audience=shown.audience(), base=_BASE)
        return msgspec.json.encode(document)

    @property
    def schemas(self) -> Schemas:
        if self._schemas is None:
            self._schemas = Schemas(self._contract)
        return self._schemas

    def visible(self, shown: _Shown) -> set[str]:
        """The names of the types in what is shown."""
        topics = {name for action, name in shown.allowed if action != Action.CALL}
        hints: list[Any] = [topic.codec.type for topic in self._contract.topics if topic.settings.name in topics]
        for operation in self._contract.operations:
            if (str(Action.CALL), operation.name) in shown.allowed:
                hints += [parameter.hint for parameter in operation.request.parameters]
                hints += [] if operation.reply is None else [operation.reply.type]
        return self.schemas.named_in(hints)


def _may(access: Access, principal: Principal, action: Action, name: str) -> bool:
    """Of a topic it is enough to have some of its keys."""
    if action is Action.CALL or name == ANY_TOPIC:
        return access.allows(principal, action, name)
    return principal.allows_some_of(action, name)


async def openapi(app: RestApp, request: Request) -> Response:
    shown = app.documents.shown(app.core.access, request.principal)
    body = await app.documents.openapi(shown, _base(request))
    return _unless_known(request, Response(200, body, [(b"content-type", b"application/json")]))


def _base(request: Request) -> str:
    """The URL by which the reader reached the hub, with what it is mounted on."""
    scope = request.scope
    host = request.headers.get(b"host", b"").decode("latin-1")
    if not _HOST.fullmatch(host):
        name, port = scope.get("server") or ("localhost", None)
        host = f"{name}:{port}" if port else str(name)
    root = quote(scope.get("root_path", ""), safe="/")
    return f"{scope.get('scheme', 'http')}://{host}{root}"


def _unless_known(request: Request, response: Response) -> Response:
    return if_changed(response, request.headers.get(b"if-none-match"))


async def schemas(app: RestApp, request: Request) -> Response:
    documents = app.documents
    visible = documents.visible(documents.shown(app.core.access, request.principal))
    found = [definition for name, definition in documents.schemas.definitions.items() if name in visible]
    return json_response(200, {"schemas": [{"name": one.name, "description": one.description or ""} for one in found]})


async def schema(app: RestApp, request: Request) -> Response:
    """What a reader may not see is not there."""
    name = request.text(0)
    documents = app.documents
    if name not in documents.visible(documents.shown(app.core.access, request.principal)):
        raise NotFound(f"there is no schema {name[:80]!r}", hint="GET /schemas lists those there are")
    body = msgspec.json.encode(documents.schemas.standalone(name))
    return _unless_known(request, Response(200, body, [(b"content-type", b"application/schema+json")]))


# --- the page --------------------------------------------------------------------------------------------------------


class _File(NamedTuple):
    body: bytes
    headers: Headers


def _read_page() -> dict[str, _File]:
    return {file.name: _page_file(file.name, file.read_bytes()) for file in _PAGE.iterdir() if file.is_file()}


def _page_file(name: str, body: bytes) -> _File:
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "application/octet-stream"
    text = "; charset=utf-8" if kind.startswith("text/") else ""
    headers = [
        (b"content-type", f"{kind}{text}".encode()),
        (b"etag", b'"%b"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()),
        (b"cache-control", b"no-cache"),
        (b"content-security-policy", _POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    return _File(body, headers)


_PAGE_FILES: dict[str, _File] = {}
INDEX = "index.html"


async def page(_app: RestApp, request: Request) -> Response:
    return await _file(request, INDEX)


async def page_file(_app: RestApp, request: Request) -> Response:
    return await _file(request, request.text(0))


async def _file(request: Request, name: str) -> Response:
    if not _PAGE_FILES:
        _PAGE_FILES.update(await asyncio.to_thread(_read_page))
    found = _PAGE_FILES.get(name)
    if found is None:
        raise NotFound(f"the documentation has no {name[:80]!r}")
    if request.headers.get(b"if-none-match") == dict(found.headers)[b"etag"]:
        return Response(304, b"", found.headers[1:])
    return Response(200, found.body, found.headers)
