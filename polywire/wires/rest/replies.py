"""The result of an operation → an HTTP answer in the form its caller accepts."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from typing import Any
from urllib.parse import quote

from polywire.contract.codec import Codec
from polywire.contract.files import File
from polywire.contract.operations import OperationContract
from polywire.contract.tree import Anything, Reference, Text
from polywire.core.errors import Internal, Invalid
from polywire.formats.xml import write_xml
from polywire.wires.rest import accept
from polywire.wires.rest.binding import JSON_HEADERS, Headers, Response
from polywire.wires.rest.streaming import EVENTS, LINES

__all__ = ["Replies", "if_changed"]

log = logging.getLogger("polywire.rest")

JSON, OCTETS = "application/json", "application/octet-stream"
XML, TEXT_XML, TEXT = "application/xml", "text/xml", "text/plain"
_LINES = (LINES, "application/jsonl", "application/ndjson")
_MEDIA_TYPE = re.compile(r"[!#$&^_.+A-Za-z0-9-]+/[!#$&^_.+A-Za-z0-9-]+(?:\s*;[ -~]*)?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9 ._()+-]+")
_UTF_8 = "; charset=utf-8"


class Replies:
    """Of one operation. ``offers`` are the forms that its result can have, the usual one first."""

    def __init__(self, contract: OperationContract) -> None:
        self._name = contract.name
        self._codec = contract.reply
        self._files = _has_files(contract.reply)
        self.offers = _offers(contract)

    def form(self, wanted: bytes | None) -> str:
        """The media type to answer with. Raises `NotAcceptable`: to be asked before the operation runs.

        What a file holds is known only afterwards, and then it is too late to refuse: a caller gets it as it is unless
        it asked for JSON or XML by name.
        """
        if self._codec is None:
            return JSON
        chosen = accept.choose(wanted, self.offers)
        if self._files and (chosen is None or not accept.accepts(wanted, chosen)):
            return OCTETS
        return chosen or accept.require(wanted, self.offers)

    def response(self, result: Any, form: str, status: int | None) -> Response:
        """``status`` None: 200, or 204 where the operation answers nothing. Raises `Internal` for a result that is not
        of the declared type."""
        if self._codec is None:
            return Response(204 if status is None else status, b"", [])
        status = status or 200
        if self._files and form == OCTETS and isinstance(result, (bytes, bytearray, File)):
            return _whole(result, status)
        try:
            return self._written(self._codec, result, form, status)
        except Invalid as error:
            log.error("operation %s returned what it does not declare: %s", self._name, error.detail)  # noqa: TRY400
            raise Internal(f"operation {self._name!r} failed", hint="the hub's log says why") from error

    def _written(self, codec: Codec[Any], result: Any, form: str, status: int) -> Response:
        if form in (XML, TEXT_XML):
            root = codec.tree.root
            name = root.name if isinstance(root, Reference) else "result"
            body = write_xml(codec.to_builtins(result), codec.tree, name)
            return Response(status, body, [(b"content-type", (form + _UTF_8).encode())])
        if form == TEXT and isinstance(result, str):
            return Response(status, result.encode(), [(b"content-type", (TEXT + _UTF_8).encode())])
        return Response(status, self.item(result), JSON_HEADERS)

    def item(self, result: Any) -> bytes:
        """As JSON text. Raises `Invalid`."""
        codec = self._codec
        if codec is None:
            return b"null"
        if codec.raw or isinstance(result, (bytes, bytearray)):
            return b'"%b"' % base64.b64encode(bytes(result))
        return codec.encode(result)


def _offers(contract: OperationContract) -> tuple[str, ...]:
    if contract.streams:
        return (*_LINES, EVENTS)
    codec = contract.reply
    if codec is not None and isinstance(codec.tree.root, Text):
        return JSON, TEXT, XML, TEXT_XML
    return (OCTETS, JSON, XML, TEXT_XML) if codec is not None and codec.raw else (JSON, XML, TEXT_XML)


def _has_files(codec: Codec[Any] | None) -> bool:
    """Whether a result may be bytes or a file."""
    if codec is None:
        return False
    return codec.raw or isinstance(codec.tree.root, Anything) or codec.type is File


# --- bytes and files -------------------------------------------------------------------------------------------------


def _whole(result: bytes | bytearray | File, status: int) -> Response:
    file = result if isinstance(result, File) else File(bytes(result))
    content_type = file.content_type if _MEDIA_TYPE.fullmatch(file.content_type) else OCTETS
    # It may be what somebody uploaded: as a page, it must not act in the hub's name.
    headers: Headers = [
        (b"content-type", content_type.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox"),
    ]
    if file.name:
        headers.append((b"content-disposition", _disposition(file.name)))
    return Response(status, file.content, headers)


def _disposition(name: str) -> bytes:
    """RFC 6266, with the name in UTF-8 (RFC 8187) where ASCII cannot say it."""
    if _PLAIN_NAME.fullmatch(name):
        return f'attachment; filename="{name}"'.encode()
    return f"attachment; filename*=UTF-8''{quote(name, safe='', errors='replace')}".encode()


# --- ETag ------------------------------------------------------------------------------------------------------------


def if_changed(response: Response, if_none_match: bytes | None) -> Response:
    """With a strong ETag of what it holds, and its form; 304 if the reader has it already (RFC 9110 §13.1.2)."""
    if response.status != 200:
        return response
    kind = response.headers[0][1]
    tag = b'"%b"' % hashlib.blake2b(kind + b"\0" + response.body, digest_size=12).hexdigest().encode()
    said: Headers = [(b"etag", tag), (b"vary", b"accept"), (b"cache-control", b"private, no-cache")]
    if if_none_match is not None and _matches(if_none_match, tag):
        return Response(304, b"", said)
    return response._replace(headers=[*response.headers, *said])


def _matches(if_none_match: bytes, tag: bytes) -> bool:
    known = [one.strip().removeprefix(b"W/") for one in if_none_match.split(b",")]
    return tag in known or known == [b"*"]
