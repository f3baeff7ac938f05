"""``multipart/form-data`` (RFC 7578): parts, and parts → JSON-like builtins by the tree.

- A part for a field of bytes is its content. One for a `File` (an object of ``content``, ``name``, ``content_type``)
  is all three; so is a file for an untyped field. A file field that the browser sends empty counts as not sent.
- A part of type ``application/json`` (or ``…+json``) is JSON.
- Any other part is text, in UTF-8, and read as in `polywire.formats.forms`: the same names, numbers, empty texts.
- Of a file's name only the last segment is kept, whichever way its slashes lean; it names no folder.
"""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser

from polywire.contract.paths import ROOT
from polywire.contract.tree import Tree
from polywire.core.errors import Invalid, TooLarge, Unsupported
from polywire.core.units import count, size
from polywire.formats.forms import ABSENT, Entry, FieldReader, FormLimits
from polywire.formats.outline import Anything, Choice, Fields, Items, Nullable, Outline, Scalar, outline_of, plain
from polywire.formats.reading import Complaints, Path, refused

__all__ = ["MultipartLimits", "Part", "part_fields", "read_multipart"]


class MultipartLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    parts: Annotated[int, count("parts of a multipart body")] = 100
    headers: Annotated[int, count("headers of a part")] = 16
    header_size: Annotated[int, size("of a part's header line")] = 4_096
    name_size: Annotated[int, size("of a field's name")] = 1_024
    depth: Annotated[int, count("names within each other, as in a.b.c")] = 32


LIMITS: Final = MultipartLimits()


class Part(msgspec.Struct, frozen=True):
    """``filename`` None: not a file; empty: a file without a name. ``headers`` are all, names in lower case."""

    name: str
    filename: str | None
    content_type: str | None
    headers: list[tuple[str, str]]
    content: bytes


def read_multipart(body: bytes, content_type: str, *, limits: MultipartLimits = LIMITS) -> list[Part]:
    """In the order they stand in the body. ``content_type`` is the request's, with its boundary.

    Raises `Invalid` (naming all bad parts), `TooLarge`, and `Unsupported` for other multipart types and charsets.
    """
    raw = _Splitter(_boundary(content_type), limits).split(body)
    complaints = Complaints()
    parts = [part for index, one in enumerate(raw) if (part := _part(one, index, complaints)) is not None]
    if complaints.fields:
        raise refused(complaints.fields)
    return [part for part in parts if not _says_charset(part)]


def part_fields(parts: Sequence[Part], tree: Tree, *, limits: MultipartLimits = LIMITS, at: str = ROOT) -> Any:
    """What `Codec.from_builtins` takes. Raises as `read_form`."""
    reader = _PartReader(FormLimits(fields=limits.parts, name_size=limits.name_size, depth=limits.depth), at)
    return reader.read([(part.name, part) for part in parts], outline_of(tree))


# --- the body --------------------------------------------------------------------------------------------------------

_PARAMETER = re.compile(r";[ \t]*+([^\s;=\"]++)[ \t]*+=[ \t]*+(\"(?:[^\"\\]|\\.)*+\"|[^;]*+)")
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
"""RFC 2046 §5.1.1."""
_silent = logging.getLogger(__name__)
_silent.setLevel(logging.CRITICAL)
"""The parser would log each malformed body; who sent it is told, and nobody else needs to know."""


def _boundary(content_type: str) -> str:
    media, parameters, doubled = _parsed(content_type)
    if media != "multipart/form-data":
        raise Unsupported(f"{media[:64]!r} is not multipart/form-data")
    boundary = parameters.get("boundary")
    if boundary is None or doubled:
        raise Invalid(
            "the Content-Type of a multipart body must have one boundary", hint="let the client library set it"
        )
    if _BOUNDARY.fullmatch(boundary) is None:
        raise Invalid("the boundary has 1 to 70 letters, digits or '()+_,-./:=? and does not end in a space")
    return boundary


def _parsed(value: str) -> tuple[str, dict[str, str], bool]:
    """What stands before the parameters, in lower case, the parameters, and whether one of them is given twice."""
    head, semicolon, _ = value.partition(";")
    parameters: dict[str, str] = {}
    doubled = False
    for match in _PARAMETER.finditer(value, len(head)) if semicolon else ():
        name, text = match[1].lower(), match[2].strip(" \t")
        if len(text) >= 2 and text[0] == text[-1] == '"':
            text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
        doubled = doubled or name in parameters
        parameters[name] = text
    return head.strip(" \t").lower(), parameters, doubled


class _Raw:
    __slots__ = ("content", "headers", "name", "value")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.content: list[bytes] = []
        self.name: list[bytes] = []
        self.value: list[bytes] = []


class _Splitter:
    """Collects what the parser calls out."""

    def __init__(self, boundary: str, limits: MultipartLimits) -> None:
        self._parts: list[_Raw] = []
        self._limits = limits
        self._ended = False
        self._delimiter = b"--" + boundary.encode()
        self._parser = MultipartParser(
            boundary.encode(),
            {
                "on_part_begin": self._begin,
                "on_part_data": lambda data, start, end: self._parts[-1].content.append(data[start:end]),
                "on_header_field": lambda data, start, end: self._parts[-1].name.append(data[start:end]),
                "on_header_value": lambda data, start, end: self._parts[-1].value.append(data[start:end]),
                "on_header_end": self._header_end,
                "on_end": self._end,
            },
            max_header_count=limits.headers,
            max_header_size=limits.header_size,
        )
        self._parser.logger = _silent

    def split(self, body: bytes) -> list[_Raw]:
        self._check_boundaries(body)
        try:
            self._parser.write(body)
        except MultipartParseError as error:
            self._refuse(error, body)
        except FormParserError as error:
            raise Invalid(f"not a multipart body: {error}") from None
        if not self._ended:
            self._check_delimiter(body)
            raise Invalid("the multipart body is cut off: its last boundary is missing")
        return self._parts

    def _check_boundaries(self, body: bytes) -> None:
        """The parser goes byte by byte where a line only begins as a boundary does (RFC 2046 §5.1.1 forbids it), and
        through the blanks after one."""
        line = b"\r\n" + self._delimiter
        if body.count(line) > self._limits.parts + 1:
            raise self._too_many()
        if re.search(re.escape(line) + rb"[ \t]{64}", body):
            raise Invalid("not a multipart body: a boundary with more than 64 blanks after it")

    def _check_delimiter(self, body: bytes) -> None:
        if self._delimiter not in body:
            raise Invalid("the multipart body has no boundary as the Content-Type names it") from None

    def _refuse(self, error: MultipartParseError, body: bytes) -> None:
        if str(error).startswith("Maximum"):
            raise TooLarge(
                f"part {len(self._parts)} has more than {self._limits.headers} headers, or one longer than "
                f"{self._limits.header_size} bytes"
            ) from None
        self._check_delimiter(body)
        raise Invalid(f"not a multipart body: malformed at byte {error.offset}") from None

    def _begin(self) -> None:
        if len(self._parts) >= self._limits.parts:
            raise self._too_many()
        self._parts.append(_Raw())

    def _too_many(self) -> TooLarge:
        return TooLarge(f"the multipart body has more than {self._limits.parts} parts")

    def _header_end(self) -> None:
        part = self._parts[-1]
        part.headers.append((b"".join(part.name), b"".join(part.value)))
        part.name.clear()
        part.value.clear()

    def _end(self) -> None:
        self._ended = True


# --- one part --------------------------------------------------------------------------------------------------------

_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_SLASHES = re.compile(r"[/\\]")
_AS_THEY_ARE = ("7bit", "8bit", "binary")


def _part(raw: _Raw, index: int, complaints: Complaints) -> Part | None:
    place: Path = (None, f"part {index + 1}")
    try:
        headers = [(name.decode().lower(), value.decode().strip(" \t")) for name, value in raw.headers]
    except UnicodeDecodeError:
        complaints.add(place, "a header is not UTF-8")
        return None
    said = dict(headers)
    disposition, parameters, doubled = _parsed(said.get("content-disposition", ""))
    name = parameters.get("name")
    if disposition != "form-data" or name is None:
        complaints.add(place, "its Content-Disposition is not form-data with a name")
        return None
    place = (None, name)
    before = len(complaints.fields)
    filename = _filename(parameters, place, complaints)
    if doubled or len(said) != len(headers):
        complaints.add(place, "a header or parameter of the part is given twice")
    if _CONTROLS.search(name):
        complaints.add(place, "the name has control characters")
    _check_content(said, place, complaints)
    if len(complaints.fields) > before:
        return None
    return Part(name, filename, said.get("content-type"), headers, b"".join(raw.content))


def _filename(parameters: dict[str, str], place: Path, complaints: Complaints) -> str | None:
    extended = parameters.get("filename*")
    name = parameters.get("filename") if extended is None else _extended(extended)
    if name is None:
        if extended is not None:
            complaints.add(place, "filename* is not as RFC 5987 has it")
        return None
    if _CONTROLS.search(name):
        complaints.add(place, "the file name has control characters")
    last = _SLASHES.split(name)[-1].strip()
    return "" if last in (".", "..") else last


def _extended(value: str) -> str | None:
    """``UTF-8'en'na%C3%AFve.txt`` (RFC 5987 §3.2)."""
    charset, quote, rest = value.partition("'")
    _, second, text = rest.partition("'")
    if not (quote and second) or charset.lower() not in ("utf-8", "iso-8859-1"):
        return None
    try:
        return unquote_to_bytes(text).decode(charset)
    except UnicodeDecodeError:
        return None


def _check_content(said: dict[str, str], place: Path, complaints: Complaints) -> None:
    if said.get("content-type", "").lower().startswith("multipart/"):
        complaints.add(place, "a multipart within a part is not taken (RFC 7578 §4.3): repeat the field")
    encoding = said.get("content-transfer-encoding", "binary").lower()
    if encoding not in _AS_THEY_ARE:
        complaints.add(place, f"Content-Transfer-Encoding {encoding[:32]!r} is not taken (RFC 7578 §4.7)")


def _says_charset(part: Part) -> bool:
    """The field ``_charset_`` (RFC 7578 §4.6) speaks of the others and is none itself."""
    if part.name != "_charset_":
        return False
    charset = part.content[:32].decode("latin-1").strip()
    if not _is_utf_8(charset):
        raise Unsupported(f"a form in the charset {charset!r}", hint="send UTF-8")
    return True


def _is_utf_8(charset: str) -> bool:
    return charset.lower() in ("utf-8", "utf8", "us-ascii", "ascii")


# --- fields ----------------------------------------------------------------------------------------------------------


class _PartReader(FieldReader):
    def leaf(self, value: Part, outline: Outline, path: Path) -> Any:
        if value.filename == "" and not value.content:
            return ABSENT
        if isinstance(outline, Nullable):
            found = self.leaf(value, outline.outline, path)
            return None if found is ABSENT else found
        if _takes_file(outline) or (isinstance(outline, Anything) and value.filename is not None):
            return _file(value)
        if _takes_bytes(outline):
            return b64encode(value.content).decode()
        return self._said(value, outline, path)

    def _said(self, value: Part, outline: Outline, path: Path) -> Any:
        if _is_json(value):
            return self.json(value.content, ABSENT, path)
        _, parameters, _ = _parsed(value.content_type or "")
        text = self.text_of(value)
        if text is None:
            self.wrong(path, "is not UTF-8")
        elif not _is_utf_8(parameters.get("charset", "utf-8")):
            self.wrong(path, f"the charset {parameters['charset'][:32]!r} is not taken: send UTF-8")
        else:
            return self.text(text, outline, path)
        return ABSENT

    def array(self, entries: Sequence[Entry], items: Items, path: Path) -> list[Any]:
        """One part of JSON may be all items, or one of them."""
        alone = entries[0][1] if len(entries) == 1 and not entries[0][0] else None
        if alone is None or not _is_json(alone) or _takes_bytes(items.item(0)) or _takes_file(items.item(0)):
            return super().array(entries, items, path)
        value = self.json(alone.content, [], path)
        return value if isinstance(value, list) else [value]

    def array_text(self, value: Part) -> str:
        """A file is an item, whatever it holds."""
        return "" if value.filename is not None else self.text_of(value) or ""

    def text_of(self, value: Part) -> str | None:
        try:
            return value.content.decode()
        except UnicodeDecodeError:
            return None


def _is_json(part: Part) -> bool:
    media = (part.content_type or "").partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def _takes_file(outline: Outline) -> bool:
    outline = plain(outline)
    if isinstance(outline, Choice):
        return any(_takes_file(one) for one in outline.objects)
    return isinstance(outline, Fields) and outline.name == "File" and {"content", "content_type"} <= set(outline.fields)


def _takes_bytes(outline: Outline) -> bool:
    outline = plain(outline)
    if isinstance(outline, Choice):
        return outline.scalar is not None and outline.scalar.binary
    return isinstance(outline, Scalar) and outline.binary


def _file(part: Part) -> dict[str, Any]:
    """A `File` in JSON's words. RFC 7578 §4.4: a part that says no type is text, unless it is a file."""
    default = "text/plain" if part.filename is None else "application/octet-stream"
    return {
        "content": b64encode(part.content).decode(),
        "name": part.filename or None,
        "content_type": part.content_type or default,
    }
