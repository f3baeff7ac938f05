"""Names with texts → JSON-like builtins by the tree: ``application/x-www-form-urlencoded``, query strings, paths.

- A field of a field is named as errors name it, ``address.city=Oslo``, or in brackets, ``address[city]=Oslo``; so is
  a member of a map, ``scores.ada=3``. A declared field whose own name has dots or brackets is that field, and of a
  map without objects, or of an untyped value, dots are part of the member's name: ``scores.a.b=3``.
- An array is its name repeated, ``tags=a&tags=b``, or ``tags[]=a``. Items that have fields are numbered:
  ``readings[0].celsius=21.5``; the numbers only say the order. Any other name given twice is wrong.
- Text becomes what the type says: numbers; ``true``, ``1``, ``on`` and ``false``, ``0``, ``off`` in any case (a
  checkbox sends ``on``, and Python's ``str(True)`` is ``True``). What does not fit stays text, for the codec to name.
- An empty text, as browsers send for a field that was left empty, is null where null is allowed and text is not
  meant, and else as if the field was not sent; for text it is the empty text.
- An object or array may also be one JSON text: ``address={"city":"Oslo"}``, ``tags=["a","b"]``. What is no array in
  JSON is an item.
- Unknown names are wrong, whether or not the object is closed: a name in a form or a query was written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from polywire.contract.duplicates import colons, count_members, duplicates
from polywire.contract.paths import ROOT
from polywire.contract.tree import Tree
from polywire.core.errors import FieldError, Invalid, TooLarge, Unsupported
from polywire.core.units import count, size
from polywire.formats.outline import (
    ANYTHING,
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
    sequence_in,
)
from polywire.formats.reading import Complaints, Misread, Path, refused

__all__ = ["ABSENT", "Entry", "FieldReader", "FormLimits", "read_fields", "read_form"]


class FormLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fields: Annotated[int, count("fields of a form or query")] = 1_000
    name_size: Annotated[int, size("of a field's name")] = 1_024
    depth: Annotated[int, count("names within each other, as in a.b.c")] = 32


LIMITS: Final = FormLimits()
ABSENT: Final = msgspec.UNSET
"""What an empty text is where it stands for a field that was not sent."""

Entry = tuple[str, Any]
"""What is left of the name, from here on, and the value that was sent."""

_BOOLEANS: Final = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
_SEPARATOR = re.compile(r"[.\[]")


def read_form(body: bytes, tree: Tree, *, limits: FormLimits = LIMITS, at: str = ROOT) -> Any:
    """``application/x-www-form-urlencoded`` (WHATWG URL §5.1), in UTF-8.

    Raises `Misread` naming what has no place, `Invalid`, `TooLarge`, and `Unsupported` where the tree is no object.
    """
    return read_fields(_pairs(body, limits, at), tree, limits=limits, at=at)


def read_fields(pairs: Iterable[tuple[str, str]], tree: Tree, *, limits: FormLimits = LIMITS, at: str = ROOT) -> Any:
    """Names and texts that are decoded already. ``at`` stands before the names in errors: ``query`` in ``query.limit``.

    Raises as `read_form`.
    """
    return FieldReader(limits, at).read(list(pairs), outline_of(tree))


def _pairs(body: bytes, limits: FormLimits, at: str) -> list[tuple[str, str]]:
    _check_count(body.count(b"&"), limits)
    try:
        text = body.replace(b"+", b" ").decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"the form is not UTF-8 at byte {error.start}", fields=[FieldError(at, "is not UTF-8")]) from None
    parts = [part.partition("=") for part in text.split("&") if part]
    if "%" not in text:
        return [(name, value) for name, _, value in parts]
    complaints = Complaints(at)
    pairs = [_unquoted(name, value, complaints) for name, _, value in parts]
    if complaints.fields:
        raise refused(complaints.fields)
    return pairs


def _unquoted(name: str, value: str, complaints: Complaints) -> tuple[str, str]:
    try:
        if "%" in name:
            name = unquote_to_bytes(name).decode()
        return name, unquote_to_bytes(value).decode() if "%" in value else value
    except UnicodeDecodeError:
        complaints.add((None, name), "is not UTF-8")
        return name, ""


def _check_count(number: int, limits: FormLimits) -> None:
    if number > limits.fields:
        raise TooLarge(f"the form has more than {limits.fields} fields")


class FieldReader:
    """Reads entries by an outline. Where values are something else than `str`, a subclass says what they mean: `leaf`,
    `text_of`, `array`."""

    def __init__(self, limits: FormLimits, at: str) -> None:
        self.complaints = Complaints(at)
        self.wrong = self.complaints.add
        self._limits = limits

    def read(self, entries: Sequence[Entry], outline: Outline) -> Any:
        _check_count(len(entries), self._limits)
        if not (objects_in(outline) or isinstance(outline, Anything)):
            raise Unsupported("a form has fields, and what is taken here has none", hint="send JSON")
        short = min(self._limits.name_size, self._limits.depth)
        usable = [entry for entry in entries if len(entry[0]) <= short or self._is_usable(entry[0])]
        value = self._object(usable, outline, None)
        if self.complaints.fields:
            raise Misread(self.complaints.fields, value)
        return value

    def _is_usable(self, name: str) -> bool:
        if len(name) > self._limits.name_size:
            self.wrong((None, name), f"the name is longer than {self._limits.name_size}")
        elif name.count(".") + name.count("[") > self._limits.depth:
            self.wrong((None, name), f"names are nested more than {self._limits.depth} deep")
        else:
            return True
        return False

    # --- objects -------------------------------------------------------------------------------------------------

    def _object(self, entries: Sequence[Entry], outline: Outline, path: Path) -> dict[str, Any]:
        fields = self._chosen(entries, outline)
        value: dict[str, Any] = {}
        for name, found in _grouped(entries, fields).items():
            if isinstance(fields, Fields) and name not in fields.fields:
                self.wrong((path, name), self._unknown(name, fields))
                continue
            member = self._value(found, fields.member(name), (path, name))
            if member is not ABSENT:
                value[name] = member
        return value

    def _chosen(self, entries: Sequence[Entry], outline: Outline) -> Fields | Members:
        outline = plain(outline)
        if isinstance(outline, Choice):
            names = {_split(name)[0] for name, _ in entries}
            tag = next((value for name, value in entries if name == outline.discriminator), None)
            return outline.object(names, None if tag is None else self.text_of(tag))
        return outline if isinstance(outline, (Fields, Members)) else _ANY_MEMBERS

    def _unknown(self, name: str, fields: Fields) -> str:
        """With the nearest name, for the first few: looking for it takes time."""
        few = len(self.complaints.fields) < 10
        near = get_close_matches(name[:64], fields.fields, 1) if few else []
        return f"unknown field; did you mean {near[0]!r}?" if near else "unknown field"

    # --- values --------------------------------------------------------------------------------------------------

    def _value(self, entries: Sequence[Entry], outline: Outline, path: Path) -> Any:
        whole = [value for rest, value in entries if not rest]
        if len(whole) == len(entries) == 1:
            if sequence_in(outline) is None or _scalar_in(outline):
                return self._leaf(whole[0], outline, path)
            if _is_json_array(text := self.array_text(whole[0])):
                return self.json(text.encode(), ABSENT, path)
        items = _items_in(outline, entries)
        if items is not None:
            return self.array(entries, items, path)
        if len(whole) == len(entries):
            self.wrong(path, "is given twice")
            return self._leaf(whole[0], outline, path)
        if whole:
            self.wrong(path, "is given both itself and by its fields")
        nested = [entry for entry in entries if entry[0]]
        if objects_in(outline) or isinstance(outline, Anything):
            return self._object(nested, outline, path)
        for rest, _ in nested:
            self.wrong((path, _split(rest)[0]), "unknown field")
        return self._leaf(whole[0], outline, path) if whole else ABSENT

    def _leaf(self, value: Any, outline: Outline, path: Path) -> Any:
        return self.text(value, outline, path) if isinstance(value, str) else self.leaf(value, outline, path)

    def leaf(self, value: Any, outline: Outline, path: Path) -> Any:
        """A value that is not a `str`."""
        raise NotImplementedError

    def text_of(self, value: Any) -> str | None:
        return value if isinstance(value, str) else None

    def array_text(self, value: Any) -> str:
        """What of a value may be an array in JSON; it is the only one of its name."""
        return value if isinstance(value, str) else ""

    def text(self, text: str, outline: Outline, path: Path) -> Any:
        if isinstance(outline, Scalar):
            return _scalar(text, outline)
        if isinstance(outline, Nullable):
            value = self.text(text, outline.outline, path)
            return None if value is ABSENT else value
        if isinstance(outline, Anything):
            return text
        if isinstance(outline, Choice) and outline.scalar is not None:
            return _scalar(text, outline.scalar)
        if not text:
            return ABSENT
        return self.json(text.encode("utf-8", "replace"), text, path) if text.lstrip()[:1] == "{" else text

    def json(self, payload: bytes, otherwise: Any, path: Path) -> Any:
        """A value that is a JSON text by itself; ``otherwise`` if it is none."""
        try:
            value = msgspec.json.decode(payload)
            doubled = [] if colons(payload) == count_members(value) else duplicates(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.wrong(path, "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}")
            return otherwise
        for field in doubled:
            self.wrong(path, f"{field.path} {field.message}")
        return value

    # --- arrays --------------------------------------------------------------------------------------------------

    def array(self, entries: Sequence[Entry], items: Items, path: Path) -> list[Any]:
        value: list[Any] = []
        for found in self._in_order(entries, path):
            place = len(value)
            item = self._value(found, items.item(place), (path, place))
            if item is not ABSENT:
                value.append(item)
        return value

    def _in_order(self, entries: Sequence[Entry], path: Path) -> list[list[Entry]]:
        """Items one after another: those without a number as they came, then the numbered ones."""
        plain: list[list[Entry]] = []
        numbered: dict[int, list[Entry]] = {}
        for rest, value in entries:
            head, left = _split(rest) if rest else ("", "")
            if not head and not left:
                plain.append([("", value)])
            elif head.isascii() and head.isdigit() and len(head) <= 9:
                numbered.setdefault(int(head), []).append((left, value))
            else:
                self.wrong((path, head), "is no item: write [0], [1] ...")
        return plain + [numbered[index] for index in sorted(numbered)]


_ANY_MEMBERS: Final = Members(ANYTHING)


def _scalar_in(outline: Outline) -> Scalar | None:
    outline = plain(outline)
    if isinstance(outline, Choice):
        return outline.scalar
    return outline if isinstance(outline, Scalar) else None


def _is_json_array(text: str) -> bool:
    if text.lstrip()[:1] != "[":
        return False
    try:
        msgspec.json.decode(text, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def _scalar(text: str, outline: Scalar) -> Any:
    if not text and not (outline.free or outline.binary or "" in outline.values):
        return ABSENT
    if outline.boolean:
        word = text.strip().lower()
        if word in _BOOLEANS and not (outline.number and word in ("0", "1")):
            return _BOOLEANS[word]
    return outline.read(text)


def _items_in(outline: Outline, entries: Sequence[Entry]) -> Items | None:
    """The array that these are, if they are one. Of an array and an object, names without a number are the latter."""
    if isinstance(outline, Anything):
        return Items() if all(rest in ("", "[]") for rest, _ in entries) else None
    items = sequence_in(outline)
    if items is None or not objects_in(outline):
        return items
    return items if all(not rest or not (head := _split(rest)[0]) or head.isdigit() for rest, _ in entries) else None


def _grouped(entries: Sequence[Entry], fields: Fields | Members) -> dict[str, list[Entry]]:
    known = fields.fields if isinstance(fields, Fields) else None
    whole = isinstance(fields, Members) and not _has_parts(fields.value)
    groups: dict[str, list[Entry]] = {}
    for name, value in entries:
        is_whole = name in known if known is not None else whole and not name.startswith("[")
        head, rest = (name, "") if is_whole else _split(name)
        groups.setdefault(head, []).append((rest, value))
    return groups


def _has_parts(outline: Outline) -> bool:
    return objects_in(outline) or sequence_in(outline) is not None


def _split(name: str) -> tuple[str, str]:
    """The first step of a name, and the rest: ``a.b``, ``a[b]`` and ``[a].b`` start with ``a``."""
    if name.startswith("["):
        end = name.find("]")
        if end > 0:
            return name[1:end], name[end + 1 :].removeprefix(".")
    found = _SEPARATOR.search(name, 1)
    if found is None:
        return name, ""
    place = found.start()
    return name[:place], name[place:].removeprefix(".")
