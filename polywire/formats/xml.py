"""XML ↔ JSON-like builtins. The mapping (docs/xml.md tells it with examples):

- An object is an element with one element per field: ``<Reading><sensor>a</sensor><celsius>21.5</celsius></Reading>``.
  A name that is no XML name stands in an attribute: ``<entry key="@id">7</entry>``.
- An array is ``<tags><item>a</item><item>b</item></tags>``: so an empty one, one of one item and an array of arrays
  are told apart. Read as well: the field's element repeated, ``<tags>a</tags><tags>b</tags>``.
- A map is ``<scores><entry key="ada">3</entry></scores>``: its names are data, and any text may be one.
- Null is ``xsi:nil="true"``; a missing field has no element; an empty element is the empty text, object or array.
- Where the type leaves it open which JSON value a text is, ``xsi:type`` says so (``xs:string``, ``xs:integer``,
  ``xs:double``, ``xs:boolean``, ``array``, ``object``). Text that XML cannot hold (control characters) is its UTF-8 in
  base64, with ``xsi:type="base64"``; such a name stands in ``key-base64``.

`read_xml` of what `write_xml` wrote is the same value, whatever the value and the tree: what does not fit its type is
marked with ``xsi:type`` like what has none. So reading never judges, and the codec names all that is wrong.

Read besides: an attribute without prefix as a field; ``nil`` and ``type`` without prefix where they are no field;
any element's prefix and any root's name are left aside, and so are comments, processing instructions and other
attributes with a prefix.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from typing import Any, Final

from polywire.contract.tree import Tree
from polywire.core.errors import Invalid
from polywire.formats.elements import Element, XmlLimits, read_elements
from polywire.formats.outline import (
    BLANK,
    Anything,
    Choice,
    Fields,
    Items,
    Members,
    Nullable,
    Outline,
    Scalar,
    objects_in,
    outline_of,
    plain,
    read_boolean,
    sequence_in,
    spell,
)
from polywire.formats.reading import Complaints, Misread, Path

__all__ = ["XmlLimits", "read_xml", "write_xml"]

XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
XS: Final = "http://www.w3.org/2001/XMLSchema"
ITEM, ENTRY, KEY, KEY_BASE64 = "item", "entry", "key", "key-base64"

LIMITS: Final = XmlLimits()

NULL, ARRAY, OBJECT, TEXT, NUMBER, BOOLEAN, BASE64 = "null", "array", "object", "text", "number", "boolean", "base64"
_KINDS: Final = {
    "array": ARRAY,
    "object": OBJECT,
    "boolean": BOOLEAN,
    "base64": BASE64,
    **dict.fromkeys(("string", "normalizedString", "token"), TEXT),
    **dict.fromkeys(("integer", "int", "long", "short", "byte", "decimal", "double", "float"), NUMBER),
}

_AS: Final = {
    TEXT: Scalar(free=True).read,
    NUMBER: Scalar(number=True).read,
    BOOLEAN: Scalar(boolean=True).read,
}

_ANY_ITEMS: Final = Items()
_ANY_FIELDS: Final = Fields("object", closed=False)

Named = list[tuple[str, str]]


def read_xml(body: bytes, tree: Tree, *, limits: XmlLimits = LIMITS, encoding: str | None = None) -> Any:
    """Raises `Misread` naming what has no place in a value, `Invalid` with line and column for what is not
    well-formed, `TooLarge`, and `Unsupported` for another encoding than UTF-8, UTF-16, ASCII and Latin-1.

    ``encoding`` is the ``charset`` of the Content-Type, if it has one.
    """
    root = read_elements(body, limits, encoding)
    reader = _Reader()
    try:
        value = reader.value(root, outline_of(tree), None)
    except RecursionError:
        raise Invalid("the XML is nested too deeply") from None
    if reader.complaints.fields:
        raise Misread(reader.complaints.fields, value)
    return value


def write_xml(value: Any, tree: Tree, name: str) -> bytes:
    """A document in UTF-8 whose root is called ``name`` (``value`` if that is no XML name). Raises `Invalid` for what
    is not JSON: lone surrogates, NaN, infinity."""
    writer = _Writer()
    try:
        return writer.document(value, outline_of(tree), name)
    except RecursionError:
        raise Invalid("the value is nested too deeply for XML") from None
    except UnicodeEncodeError:
        raise Invalid("the value has a lone surrogate, which is no character") from None


# --- what both sides go by -------------------------------------------------------------------------------------------


def _leaf(outline: Outline, text: str) -> Any:
    """What an element without elements and without ``xsi:type`` is."""
    if isinstance(outline, Scalar):
        return outline.read(text)
    if isinstance(outline, Nullable):
        return _leaf(outline.outline, text)
    if isinstance(outline, Choice):
        return _chosen_leaf(outline, text)
    blank = not text.strip(BLANK)
    if isinstance(outline, Items):
        return [] if blank else [_leaf(outline.item(0), text)]
    return {} if blank and isinstance(outline, (Fields, Members)) else text


def _chosen_leaf(outline: Choice, text: str) -> Any:
    scalar = outline.scalar
    if not text.strip(BLANK) and (scalar is None or not (scalar.free or text in scalar.values)):
        if outline.objects:
            return {}
        if outline.sequence:
            return []
    if scalar is not None:
        return scalar.read(text)
    return [_leaf(outline.sequence.item(0), text)] if outline.sequence else text


def _kind(outline: Outline, *, all_items: bool) -> str:
    """Whether an element with elements is an array or an object."""
    outline = plain(outline)
    if isinstance(outline, Items):
        return ARRAY
    if isinstance(outline, (Fields, Members)):
        return OBJECT
    if isinstance(outline, Choice):
        if outline.sequence and (all_items or not outline.objects):
            return ARRAY
        if outline.objects:
            return OBJECT
    return ARRAY if all_items else OBJECT


def _object_outline(outline: Outline, names: Collection[str], tag: str | None) -> Fields | Members:
    outline = plain(outline)
    if isinstance(outline, Choice) and outline.objects:
        return outline.object(names, tag)
    return outline if isinstance(outline, (Fields, Members)) else _ANY_FIELDS


def _discriminator(outline: Outline) -> str | None:
    outline = plain(outline)
    return outline.discriminator if isinstance(outline, Choice) else None


# --- reading ---------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self) -> None:
        self.complaints = Complaints()
        self._wrong = self.complaints.add
        self._xsi = {"xsi"}

    def value(self, element: Element, outline: Outline, path: Path) -> Any:
        kind: str | None = None
        members: Named = []
        if element.attributes:
            kind, members = self._attributes(element, outline)
            if kind == NULL:
                return None
        if element.children:
            return self._parent(element, outline, path, kind, members)
        text = element.text()
        if kind is None and not members:
            return outline.read(text) if isinstance(outline, Scalar) else _leaf(outline, text)
        return self._marked(element, text, outline, path, kind, members)

    def _parent(self, element: Element, outline: Outline, path: Path, kind: str | None, members: Named) -> Any:
        all_items = all(child.name == ITEM for child in element.children)
        if kind not in (ARRAY, OBJECT):
            kind = _kind(outline, all_items=all_items)
            items = sequence_in(outline)
            if kind == ARRAY and not all_items and items is not None:
                return [self.value(element, items.item(0), (path, 0))]
        if element.parts and element.text().strip(BLANK):
            self._wrong(path, "text beside elements")
        if kind == ARRAY:
            return self._array(element, outline, path, members)
        return self._object(element, outline, path, members)

    def _marked(
        self, element: Element, text: str, outline: Outline, path: Path, kind: str | None, members: Named
    ) -> Any:
        """An element without elements that has attributes."""
        blank = not text.strip(BLANK)
        if blank and (kind == OBJECT or (members and (objects_in(outline) or isinstance(outline, Anything)))):
            return self._object(element, outline, path, members)
        items = sequence_in(outline)
        if members and kind is None and items is not None:
            return [self.value(element, items.item(0), (path, 0))]
        self._no_place(members, path)
        if kind in _AS:
            return _AS[kind](text)
        if kind == BASE64:
            return self._decoded(text, path)
        return [] if blank and kind == ARRAY else _leaf(outline, text)

    def _decoded(self, text: str, path: Path) -> str:
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode()
        except (binascii.Error, ValueError):
            self._wrong(path, "not base64 of UTF-8 text")
            return text

    def _array(self, element: Element, outline: Outline, path: Path, members: Named) -> list[Any]:
        self._no_place(members, path)
        items = sequence_in(outline) or _ANY_ITEMS
        return [self.value(child, items.item(index), (path, index)) for index, child in enumerate(element.children)]

    def _object(self, element: Element, outline: Outline, path: Path, members: Named) -> dict[str, Any]:
        groups: dict[str, Element | list[Element]] = {}
        for child in element.children:
            name = child.name
            if name == ENTRY and child.attributes:
                name = self._key(child, path)
            earlier = groups.get(name)
            if earlier is None:
                groups[name] = child
            elif isinstance(earlier, list):
                earlier.append(child)
            else:
                groups[name] = [earlier, child]
        fields = self._fields(outline, groups, members)
        value: dict[str, Any] = {}
        for name, text in members:
            if name in groups:
                self._wrong((path, name), "is given twice, as attribute and as element")
            value[name] = _leaf(fields.member(name), text)
        for name, found in groups.items():
            if isinstance(found, list):
                value[name] = self._repeated(found, fields.member(name), (path, name))
            else:
                value[name] = self.value(found, fields.member(name), (path, name))
        return value

    def _fields(self, outline: Outline, groups: dict[str, Element | list[Element]], members: Named) -> Fields | Members:
        if isinstance(outline, (Fields, Members)):
            return outline
        names = {*groups, *(name for name, _ in members)}
        return _object_outline(outline, names, self._tag(outline, groups, members))

    def _tag(self, outline: Outline, groups: dict[str, Element | list[Element]], members: Named) -> str | None:
        discriminator = _discriminator(outline)
        if discriminator is None:
            return None
        found = groups.get(discriminator)
        if isinstance(found, Element):
            return found.text().strip(BLANK)
        return next((text.strip(BLANK) for name, text in members if name == discriminator), None)

    def _repeated(self, found: list[Element], outline: Outline, path: Path) -> Any:
        items = _ANY_ITEMS if isinstance(outline, Anything) else sequence_in(outline)
        if items is None:
            self._wrong(path, "is given twice")
            return self.value(found[0], outline, path)
        return [self.value(child, items.item(index), (path, index)) for index, child in enumerate(found)]

    def _key(self, child: Element, path: Path) -> str:
        given = child.attributes
        for index in range(0, len(given), 2):
            if given[index] == KEY:
                return given[index + 1]
            if given[index] == KEY_BASE64:
                return self._decoded(given[index + 1], path)
        return ENTRY

    def _attributes(self, element: Element, outline: Outline) -> tuple[str | None, Named]:
        """What they say of the value, and those that are members of it."""
        given = element.attributes
        pairs = list(zip(given[::2], given[1::2], strict=True))
        for name, text in pairs:
            if text == XSI and name.startswith("xmlns:"):
                self._xsi.add(name[6:])
        kind: str | None = None
        members: Named = []
        for name, text in pairs:
            prefix, colon, local = name.rpartition(":")
            if prefix in self._xsi if colon else _speaks(local, text, outline):
                said = _said(local, text.strip(BLANK))
                kind = NULL if NULL in (kind, said) else said or kind
            elif not colon and not _is_apart(element, name):
                members.append((name, text))
        return kind, members

    def _no_place(self, members: Named, path: Path) -> None:
        for name, _ in members:
            self._wrong(path, f"the attribute {name[:64]!r} has no place here")


def _speaks(name: str, text: str, outline: Outline) -> bool:
    """Whether ``nil`` or ``type`` without a prefix is said of the value, and is not a field of it."""
    if name not in ("nil", "type"):
        return False
    outline = plain(outline)
    if isinstance(outline, Choice):
        return not any(isinstance(one, Fields) and name in one.fields for one in outline.objects)
    if isinstance(outline, Fields):
        return name not in outline.fields
    return name == "nil" or text in _KINDS or isinstance(outline, Scalar)


def _said(name: str, text: str) -> str | None:
    if name == "nil":
        return NULL if read_boolean(text) else None
    return _KINDS.get(text.rpartition(":")[2]) if name == "type" else None


def _is_apart(element: Element, name: str) -> bool:
    """The name of an entry is its object's business, not its value's."""
    return name == "xmlns" or (element.name == ENTRY and name in (KEY, KEY_BASE64))


# --- writing ---------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"(?![xX][mM][lL])[A-Za-z_][A-Za-z0-9_.-]*")
"""Names that every XML processor takes; others go into an attribute."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL = re.compile(r"[&<>\r]")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
_SPECIAL_IN_ATTRIBUTE = re.compile(r"[&<>\"\t\n\r]")
_TYPES: Final = {str: "xs:string", bool: "xs:boolean", int: "xs:integer", float: "xs:double"}


class _Writer:
    def __init__(self) -> None:
        self._parts: list[str] = []
        self._write = self._parts.append
        self._uses_xsi = False
        self._uses_xs = False

    def document(self, value: Any, outline: Outline, name: str) -> bytes:
        name = name if _NAME.fullmatch(name) else "value"
        self._value(value, outline, name, name)
        head = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}'
        if self._uses_xs:
            head += f' xmlns:xs="{XS}"'
        if self._uses_xsi:
            head += f' xmlns:xsi="{XSI}"'
        self._parts[0] = head + self._parts[0][len(name) + 1 :]
        return "".join(self._parts).encode()

    def _value(self, value: Any, outline: Outline, start: str, name: str) -> None:
        """``start`` is the tag with its attributes so far."""
        if value is None:
            self._uses_xsi = True
            self._write(f'<{start} xsi:nil="true"/>')
        elif isinstance(value, dict):
            self._object(value, outline, start, name)
        elif isinstance(value, (list, tuple)):
            self._array(value, outline, start, name)
        else:
            self._scalar(value, outline, start, name)

    def _scalar(self, value: Any, outline: Outline, start: str, name: str) -> None:
        if isinstance(value, str):
            text = value
            if _NOT_XML.search(text):
                text = base64.b64encode(value.encode()).decode()
                self._write(f"<{start}{self._type(BASE64)}>{text}</{name}>")
                return
        elif isinstance(value, float) and value - value != 0:
            raise Invalid(f"{value} is no number of JSON")
        elif isinstance(value, (int, float)):
            text = spell(value)
        else:
            raise Invalid(f"{type(value).__qualname__} is not a JSON value")
        read = outline.read(text) if isinstance(outline, Scalar) else _leaf(outline, text)
        if type(read) is not type(value) or read != value:
            start += self._type(_TYPES[type(value)])
        if _SPECIAL.search(text):
            text = _SPECIAL.sub(_escaped, text)
        self._write(f"<{start}>{text}</{name}>" if text else f"<{start}/>")

    def _array(self, value: Any, outline: Outline, start: str, name: str) -> None:
        expected = (_kind(outline, all_items=True) == ARRAY) if value else _leaf(outline, "") == []
        if not expected:
            start += self._type(ARRAY)
        if not value:
            self._write(f"<{start}/>")
            return
        items = sequence_in(outline) or _ANY_ITEMS
        self._write(f"<{start}>")
        for index, item in enumerate(value):
            self._value(item, items.item(index), ITEM, ITEM)
        self._write(f"</{name}>")

    def _object(self, value: dict[str, Any], outline: Outline, start: str, name: str) -> None:
        discriminator = _discriminator(outline)
        tag = value.get(discriminator) if discriminator is not None else None
        fields = _object_outline(outline, value, None if isinstance(tag, (dict, list, type(None))) else spell(tag))
        is_map = isinstance(fields, Members)
        all_items = not is_map and all(key == ITEM for key in value)
        expected = (_kind(outline, all_items=all_items) == OBJECT) if value else _leaf(outline, "") == {}
        if not expected:
            start += self._type(OBJECT)
        if not value:
            self._write(f"<{start}/>")
            return
        self._write(f"<{start}>")
        for key, member in value.items():
            inner = fields.member(key)
            if not is_map and _NAME.fullmatch(key):
                self._value(member, inner, key, key)
            else:
                self._value(member, inner, self._entry(key), ENTRY)
        self._write(f"</{name}>")

    def _entry(self, key: str) -> str:
        if _NOT_XML.search(key):
            return f'{ENTRY} {KEY_BASE64}="{base64.b64encode(key.encode()).decode()}"'
        return f'{ENTRY} {KEY}="{_SPECIAL_IN_ATTRIBUTE.sub(_escaped, key)}"'

    def _type(self, name: str) -> str:
        self._uses_xsi = True
        self._uses_xs = self._uses_xs or name.startswith("xs:")
        return f' xsi:type="{name}"'


def _escaped(match: re.Match[str]) -> str:
    return _ESCAPES[match[0]]
