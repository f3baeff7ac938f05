"""A request's path, query and body → the arguments of an operation, with all that is wrong with them in one error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from polywire.contract.files import File
from polywire.contract.operations import Arguments, Route
from polywire.core.errors import FieldError, Invalid, Unsupported
from polywire.formats.forms import FormLimits, read_fields
from polywire.formats.reading import checked
from polywire.server.envelope import is_json_type
from polywire.server.query import CREDENTIALS
from polywire.wires.rest.bodies import Form, read_by_tree
from polywire.wires.rest.settings import RestSettings

__all__ = ["Body", "Pairs", "Sources", "query_pairs"]

Pairs = Sequence[tuple[str, str]]

JSON, XML = "application/json", "application/xml"
FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
OCTETS = "application/octet-stream"
JSON_BEGINS = (b"{", b"[")
LONG = 64 << 10
"""Bytes above which a body that is not JSON is read in a thread."""
_FORMS: dict[str, Form] = {XML: "xml", FORM: "form", MULTIPART: "multipart"}
_FILE_NAME = re.compile(r"""[;\s]filename\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^;\s"]+))""", re.IGNORECASE)
_EXTENDED_NAME = re.compile(r"[;\s]filename\*\s*=\s*UTF-8'[^']*'(?P<encoded>[^;\s]+)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class Body(NamedTuple):
    payload: bytes
    content_type: str | None
    disposition: str | None = None
    """Content-Disposition, which may name a file."""


class Sources:
    """Where the arguments of an operation come from on one of its paths."""

    def __init__(self, path: Arguments | None, query: Arguments | None, body: Arguments | None) -> None:
        self.path = path
        self.query = query
        self.body = body

    @classmethod
    def of(cls, route: Route) -> Sources:
        return cls(route.in_path, route.in_query, route.in_body)

    async def read(self, path: Pairs, query: Pairs, body: Body | None, settings: RestSettings) -> dict[str, Any]:
        """Raises `Invalid` that names all that is wrong, in path, query and body; `Unsupported`, `TooLarge`
        of the body."""
        if self.body is not None and body is not None and len(body.payload) > LONG and kind_of(body, self.body) != JSON:
            return await asyncio.to_thread(self.read_at_once, path, query, body, settings)
        return self.read_at_once(path, query, body, settings)

    def read_at_once(self, path: Pairs, query: Pairs, body: Body | None, settings: RestSettings) -> dict[str, Any]:
        """As `read`, in any thread."""
        found = _Found()
        if self.path is not None:
            found.add(_from_text, path, self.path, "path", settings.form)
        if self.query is not None:
            found.add(_from_text, query, self.query, "query", settings.form)
        elif query:
            found.add(_refuse, query)
        if self.body is not None and body is not None:
            found.add(read_body, body, self.body, settings)
        return found.result()


class _Found:
    """Arguments by name, and what was wrong so far."""

    def __init__(self) -> None:
        self._arguments: dict[str, Any] = {}
        self._errors: list[Invalid] = []

    def add(self, read: Callable[..., dict[str, Any]], *given: Any) -> None:
        try:
            self._arguments.update(read(*given))
        except Invalid as error:
            self._errors.append(error)

    def result(self) -> dict[str, Any]:
        errors = self._errors
        if not errors:
            return self._arguments
        if len(errors) == 1:
            raise errors[0]
        fields = [field for error in errors for field in error.fields or (FieldError("$", error.detail),)]
        hint = next((error.hint for error in errors if error.hint), None)
        raise Invalid(f"{fields[0].path}: {fields[0].message} (and {len(fields) - 1} more)", hint=hint, fields=fields)


# --- path and query --------------------------------------------------------------------------------------------------


def query_pairs(raw: bytes, most: int) -> list[tuple[str, str]]:
    """Names and values, in their order. Raises `Invalid` for what is not UTF-8, and for more than ``most``."""
    if raw.count(b"&") >= most:
        raise Invalid(f"more than {most} query parameters")
    pairs = []
    for part in raw.split(b"&"):
        name, _, value = part.partition(b"=")
        if part and name != CREDENTIALS.encode():
            pairs.append((_decoded(name), _decoded(value)))
    return pairs


def _decoded(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        shown = raw[:64].decode("latin-1")
        raise Invalid(f"the query is not UTF-8 at {shown!r}", hint="percent-encode the bytes of UTF-8") from None


def _from_text(pairs: Pairs, arguments: Arguments, at: str, limits: FormLimits) -> dict[str, Any]:
    tree = arguments.codec.tree
    return checked(lambda: read_fields(pairs, tree, limits=limits, at=at), arguments.from_builtins, at=at)


def _refuse(query: Pairs) -> dict[str, Any]:
    fields = [FieldError(f"query.{name[:64]}", "unknown field") for name, _ in query[:100]]
    raise Invalid(f"{fields[0].path}: unknown field", hint="nothing is taken from the query here", fields=fields)


# --- body ------------------------------------------------------------------------------------------------------------


def kind_of(body: Body, arguments: Arguments) -> str:
    """How a body is read: as `JSON`, `XML`, `FORM`, `MULTIPART`, or whole (`OCTETS`). Raises `Unsupported`.

    A body without a content type is JSON, as many clients send it; and so is one under the name of a form that begins
    as JSON does (``curl -d``): in a form such a character is percent-encoded.
    """
    if not body.content_type:
        return JSON if arguments.raw is None else OCTETS
    media = body.content_type.partition(";")[0].strip().lower()
    if is_json_type(media):
        return JSON
    if media == FORM:
        return JSON if body.payload.lstrip()[:1] in JSON_BEGINS else FORM
    if media == MULTIPART:
        return MULTIPART
    if media in (XML, "text/xml") or media.endswith("+xml"):
        return XML
    if arguments.raw is not None:
        return OCTETS
    hint = f"send {JSON}, {XML}, {FORM} or {MULTIPART}"
    raise Unsupported(f"Content-Type {media[:80]!r} is not taken here", hint=hint)


def read_body(body: Body, arguments: Arguments, settings: RestSettings) -> dict[str, Any]:
    """Raises `Invalid`, `Unsupported`, `TooLarge`."""
    payload, tree, said = body.payload, arguments.codec.tree, body.content_type or ""
    kind = kind_of(body, arguments)
    if kind == OCTETS and (payload or not arguments.optional):
        return {arguments.parameters[0].name: _whole(body, arguments)}
    if kind == JSON or not payload:
        return arguments.decode(payload)
    return checked(lambda: read_by_tree(payload, _FORMS[kind], said, tree, settings), arguments.from_builtins)


def _whole(body: Body, arguments: Arguments) -> bytes | File:
    if arguments.raw is bytes:
        return body.payload
    return File(body.payload, _file_name(body.disposition), body.content_type or OCTETS)


def _file_name(disposition: str | None) -> str | None:
    """Of a Content-Disposition (RFC 6266), without folders."""
    extended = _EXTENDED_NAME.search(disposition or "")
    found = _FILE_NAME.search(disposition or "")
    if extended is not None:
        name = unquote(extended["encoded"])
    elif found is not None:
        name = found["plain"] or _ESCAPED.sub(r"\1", found["quoted"])
    else:
        return None
    last = _CONTROLS.sub("", name).replace("\\", "/").rpartition("/")[2].strip()
    return None if last in ("", ".", "..") else last
