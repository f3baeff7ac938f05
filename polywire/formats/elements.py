"""XML 1.0 as elements, within bounds: what expat reads, without entities, namespaces or document types."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from xml.parsers import expat

import msgspec

from polywire.core.errors import Invalid, TooLarge, Unsupported
from polywire.core.units import count, size

__all__ = ["Element", "XmlLimits", "read_elements"]

MIB = 1 << 20


class XmlLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, size("of an XML body")] = 16 * MIB
    depth: Annotated[int, count("elements within each other")] = 100
    elements: Annotated[int, count("elements of a document")] = 100_000
    attributes: Annotated[int, count("attributes of an element")] = 100


class Element(msgspec.Struct, gc=False):
    """``name`` is without prefix; ``attributes`` are name, value, name, value ...; ``parts`` are its own text."""

    name: str
    attributes: list[str]
    parts: list[str]
    children: list[Element]

    def text(self) -> str:
        parts = self.parts
        if not parts:
            return ""
        return parts[0] if len(parts) == 1 else "".join(parts)


_ENCODINGS: Final = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "utf-16": "utf-16",
    "us-ascii": "us-ascii",
    "ascii": "us-ascii",
    "iso-8859-1": "iso-8859-1",
    "latin1": "iso-8859-1",
}
"""What expat reads by itself. Python's codecs are more than text encodings, and a name in a document picks none."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"<\x00", b"\x00<")


def read_elements(body: bytes, limits: XmlLimits, encoding: str | None = None) -> Element:
    """The root. ``encoding`` (of the Content-Type) goes before the document's own declaration, as RFC 7303 says.

    Raises `Invalid` with line and column for what is not well-formed, and for a document type; `TooLarge`,
    `Unsupported` for another encoding.
    """
    if len(body) > limits.size:
        raise TooLarge(f"the XML has {len(body)} bytes; the limit is {limits.size}")
    if encoding is not None:
        encoding = _known_encoding(encoding)
    if body.startswith(_UTF_16) or encoding == "utf-16":
        body, encoding = _from_utf_16(body), "utf-8"
    _check_attributes(body, limits)
    return _parse(body, limits, encoding)


def _known_encoding(name: str) -> str:
    known = _ENCODINGS.get(name.strip().lower())
    if known is None:
        raise Unsupported(f"XML in the encoding {name[:32]!r}", hint="write UTF-8")
    return known


def _from_utf_16(body: bytes) -> bytes:
    """In UTF-8, so that the checks below see characters."""
    try:
        if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return body.decode("utf-16").encode()
        return body.decode("utf-16-be" if body[:1] == b"\x00" else "utf-16-le").encode()
    except UnicodeDecodeError as error:
        raise Invalid(f"not well-formed XML: not UTF-16 at byte {error.start}") from None


_TAG_OF_MANY = rb"<[^\s<>/!?]++(?:\s++[^\s=<>/]++\s*+=\s*+(?:\"[^\"<]*+\"|'[^'<]*+')){%d}"


def _check_attributes(body: bytes, limits: XmlLimits) -> None:
    """Before expat, which keeps all attributes of a tag before it shows any."""
    most = limits.attributes
    if body.count(b"=") <= most:
        return
    if re.search(_TAG_OF_MANY % (most + 1), body):
        raise TooLarge(f"an element has more than {most} attributes")


def _parse(body: bytes, limits: XmlLimits, encoding: str | None) -> Element:
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    parser.ordered_attributes = True
    document = Element("", [], [], [])
    _connect(parser, document, limits)
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        what = expat.ErrorString(error.code)
        raise Invalid(f"not well-formed XML: {what} at {_place(error.lineno, error.offset)}") from None
    except UnicodeDecodeError:  # expat lets some pass that is no UTF-8
        raise Invalid(f"not well-formed XML: not UTF-8 near {_where(parser)}") from None
    return document.children[0]


def _connect(parser: Any, document: Element, limits: XmlLimits) -> None:
    stack = [document]
    push, pop = stack.append, stack.pop
    most, deepest = limits.elements, limits.depth
    seen = 0

    def start(name: str, attributes: list[str]) -> None:
        nonlocal seen
        seen += 1
        if seen > most:
            raise TooLarge(f"the XML has more than {most} elements")
        if len(stack) > deepest:
            raise Invalid(f"the XML is nested more than {deepest} deep at {_where(parser)}")
        element = Element(name.rpartition(":")[2] if ":" in name else name, attributes, [], [])
        stack[-1].children.append(element)
        push(element)

    def end(_: str) -> None:
        pop()

    def text(data: str) -> None:
        stack[-1].parts.append(data)

    def declaration(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None:
            _known_encoding(encoding)

    def document_type(*_: Any) -> None:
        raise Invalid(
            f"a document type (DOCTYPE) is not taken, at {_where(parser)}",
            hint="leave it out, and write characters themselves in place of entities",
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.XmlDeclHandler = declaration
    parser.StartDoctypeDeclHandler = document_type


def _where(parser: Any) -> str:
    return _place(parser.CurrentLineNumber, parser.CurrentColumnNumber)


def _place(line: int, column: int) -> str:
    return f"line {line}, column {column + 1}"
