"""Random types, made on the fly in every family, and values of them.

``types()`` gives ``(type, values)``: a type that a `Codec` takes, and the strategy of its values. ``samples()`` gives
``(type, value)``.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import itertools
import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import annotated_types
import attrs
import msgspec
import pydantic
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

__all__ = ["FAMILIES", "mutated", "objects", "samples", "scalars", "types"]

Sample = tuple[Any, SearchStrategy[Any]]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = ("a", "b", "name", "two_words", "camelCase", "x1", "count", "items_", "kind", "value")
_numbers = itertools.count()

_OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
_FINITE = st.floats(allow_nan=False, allow_infinity=False)


def _times(zones: SearchStrategy[Any]) -> SearchStrategy[dt.time]:
    return st.builds(lambda time, zone: time.replace(tzinfo=zone), st.times(), zones)


def _moments(zones: SearchStrategy[Any]) -> SearchStrategy[dt.datetime]:
    return st.builds(lambda moment, zone: moment.replace(tzinfo=zone), st.datetimes(), zones)


@st.composite
def _enums(draw: st.DrawFn) -> Sample:
    values: list[Any] = draw(
        st.one_of(
            st.lists(st.text("abcXYZ _-", min_size=1, max_size=5), min_size=1, max_size=4, unique=True),
            st.lists(st.integers(-5, 1000), min_size=1, max_size=4, unique=True),
        )
    )
    made = enum.Enum(f"Enum{next(_numbers)}", [(f"M{i}", value) for i, value in enumerate(values)])
    return made, st.sampled_from(list(made))


@st.composite
def _literals(draw: st.DrawFn) -> Sample:
    values = draw(
        st.lists(st.one_of(st.text("ab c", max_size=3), st.integers(-3, 3)), min_size=1, unique=True, max_size=4)
    )
    return Literal[tuple(values)], st.sampled_from(values)


@st.composite
def _bounded(draw: st.DrawFn) -> Sample:
    """With constraints, in msgspec's words or in those of annotated_types."""
    low = draw(st.integers(-100, 100))
    high = low + draw(st.integers(0, 50))
    size = draw(st.integers(0, 4))
    meta, types = msgspec.Meta, annotated_types
    choices: list[Sample] = [
        (Annotated[int, meta(ge=low, le=high)], st.integers(low, high)),
        (Annotated[int, types.Ge(low), types.Le(high)], st.integers(low, high)),
        (Annotated[int, types.Interval(gt=low - 1, lt=high + 1)], st.integers(low, high)),
        (Annotated[int, types.MultipleOf(3)], st.integers(-1000, 1000).map(lambda number: number * 3)),
        (Annotated[float, meta(ge=low, le=high)], st.floats(low, high)),
        (Annotated[float, types.Ge(low), types.Le(high)], st.floats(low, high)),
        (Annotated[decimal.Decimal, types.Ge(low), types.Le(high)], st.decimals(low, high, places=2)),
        (Annotated[str, meta(min_length=size, max_length=size + 3)], _texts(size, size + 3)),
        (Annotated[str, types.Len(size, size + 3)], _texts(size, size + 3)),
        (Annotated[bytes, types.MinLen(size)], st.binary(min_size=size, max_size=size + 20)),
        (Annotated[str, meta(pattern="^[a-c]+$")], st.text("abc", min_size=1, max_size=5)),
        (Annotated[list[int], types.Len(size, size + 2)], st.lists(st.integers(), min_size=size, max_size=size + 2)),
        (
            Annotated[dict[str, int], types.MaxLen(size)],
            st.dictionaries(TEXT, st.integers(-9, 9), max_size=size),
        ),
    ]
    return draw(st.sampled_from(choices))


def _texts(least: int, most: int) -> SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=least, max_size=most)


PLAIN: tuple[Sample, ...] = (
    (bool, st.booleans()),
    (int, st.integers()),
    (float, _FINITE),
    (str, TEXT),
    (bytes, st.binary(max_size=30)),
    (dt.datetime, _moments(st.one_of(st.none(), _OFFSETS))),
    (Annotated[dt.datetime, msgspec.Meta(tz=True)], _moments(_OFFSETS)),
    (Annotated[dt.datetime, msgspec.Meta(tz=False)], st.datetimes()),
    (dt.date, st.dates()),
    (dt.time, _times(st.one_of(st.none(), _OFFSETS))),
    (dt.timedelta, st.timedeltas()),
    (decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (uuid.UUID, st.uuids()),
)


def scalars() -> SearchStrategy[Sample]:
    return st.one_of(st.sampled_from(PLAIN), _bounded(), _enums(), _literals())


# --- classes ---------------------------------------------------------------------------------------------------------

Fields = Sequence[tuple[str, Any, Any]]
"""Name, type, and the default, or `MISSING`."""
MISSING = dataclasses.MISSING


def _name() -> str:
    return f"Made{next(_numbers)}"


def _dataclass(fields: Fields) -> Any:
    made = [
        (name, hint) if default is MISSING else (name, hint, dataclasses.field(default=default))
        for name, hint, default in fields
    ]
    return dataclasses.make_dataclass(_name(), made, kw_only=True)


def _struct(fields: Fields, **options: Any) -> Any:
    made = [(name, hint) if default is MISSING else (name, hint, default) for name, hint, default in fields]
    return msgspec.defstruct(_name(), made, kw_only=True, **options)


def _attrs(fields: Fields) -> Any:
    made = {
        name: attrs.field(type=hint, default=attrs.NOTHING if default is MISSING else default)
        for name, hint, default in fields
    }
    return attrs.make_class(_name(), made, kw_only=True)


def _typed_dict(fields: Fields) -> Any:
    made = {name: hint if default is MISSING else NotRequired[hint] for name, hint, default in fields}
    return TypedDict(_name(), made)  # type: ignore[operator]


def _model(fields: Fields) -> Any:
    made = {name: (hint, ... if default is MISSING else default) for name, hint, default in fields}
    return pydantic.create_model(_name(), **made)  # type: ignore[call-overload]


FAMILIES: dict[str, Callable[[Fields], Any]] = {
    "dataclass": _dataclass,
    "struct": _struct,
    "attrs": _attrs,
    "typed_dict": _typed_dict,
    "pydantic": _model,
}


@st.composite
def objects(draw: st.DrawFn, inner: SearchStrategy[Sample], family: str) -> Sample:
    """A class of a family with fields of ``inner`` types; some may be left out."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    parts = [(name, *draw(inner)) for name in names]
    optional = [name for name in names if draw(st.booleans())]
    fields = [
        (name, hint | None if name in optional else hint, None if name in optional else MISSING)
        for name, hint, _ in parts
    ]
    made = _struct(fields, **draw(_options())) if family == "struct" else FAMILIES[family](fields)
    given = st.fixed_dictionaries(
        {name: values for name, _, values in parts if name not in optional},
        optional={name: st.one_of(st.none(), values) for name, _, values in parts if name in optional},
    )
    return made, given.map(lambda values: made(**values))


def _options() -> SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {}, optional={"rename": st.sampled_from(["camel", "kebab"]), "forbid_unknown_fields": st.just(True)}
    )


@st.composite
def _tagged(draw: st.DrawFn, inner: SearchStrategy[Sample]) -> Sample:
    """A union of Structs that a field tells apart."""
    members = []
    for tag in draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=3, unique=True)):
        hint, values = draw(inner)
        made = msgspec.defstruct(_name(), [("v", hint)], tag=tag, tag_field="is")
        members.append((made, st.builds(made, values)))
    union = members[0][0]
    for made, _ in members[1:]:
        union |= made
    return union, st.one_of([values for _, values in members])


# --- containers ------------------------------------------------------------------------------------------------------


def _list(sample: Sample) -> Sample:
    return list[sample[0]], st.lists(sample[1], max_size=4)  # type: ignore[valid-type, misc]


def _tuple(sample: Sample) -> Sample:
    return tuple[sample[0], ...], st.lists(sample[1], max_size=4).map(tuple)  # type: ignore[name-defined, valid-type, misc]


def _map(sample: Sample) -> Sample:
    return dict[str, sample[0]], st.dictionaries(TEXT, sample[1], max_size=3)  # type: ignore[valid-type, misc]


_KEYS: tuple[Sample, ...] = (
    (int, st.integers()),
    (Annotated[int, annotated_types.Ge(0)], st.integers(0)),
    (float, _FINITE),
    (uuid.UUID, st.uuids()),
    (dt.date, st.dates()),
    (Annotated[str, msgspec.Meta(max_length=3)], TEXT.map(lambda text: text[:3])),
    (Literal["a", "b"], st.sampled_from("ab")),
    (Literal[1, 20], st.sampled_from([1, 20])),
)


@st.composite
def _keyed(draw: st.DrawFn, sample: Sample) -> Sample:
    """A map whose names are of another type than text."""
    hint, keys = draw(st.one_of(st.sampled_from(_KEYS), _enums()))
    return dict[hint, sample[0]], st.dictionaries(keys, sample[1], max_size=3)


def _named_tuple(two: tuple[Sample, Sample]) -> Sample:
    (one, values), (other, others) = two
    made = NamedTuple(_name(), [("one", one), ("other", other | None)])  # noqa: UP014 - its fields are not known before
    made.__new__.__defaults__ = (None,)  # type: ignore[attr-defined]
    made._field_defaults = {"other": None}  # type: ignore[attr-defined]
    return made, st.one_of(st.tuples(values), st.tuples(values, others)).map(lambda given: made(*given))


def _optional(sample: Sample) -> Sample:
    return sample[0] | None, st.one_of(st.none(), sample[1])


def _set(sample: Sample) -> Sample:
    return set[sample[0]], st.sets(sample[1], max_size=4)  # type: ignore[valid-type, misc]


_SETS = (int, str, bool, bytes, dt.date, uuid.UUID)
_UNIONS: tuple[Sample, ...] = (
    (int | str, st.one_of(st.integers(), TEXT)),
    (float | str | None, st.one_of(_FINITE, TEXT, st.none())),
    (bool | int | list[int], st.one_of(st.booleans(), st.integers(), st.lists(st.integers(), max_size=3))),
    (dt.date | int, st.one_of(st.dates(), st.integers())),
)


def _extended(inner: SearchStrategy[Sample], families: Sequence[str]) -> SearchStrategy[Sample]:
    return st.one_of(
        inner.map(_list),
        inner.map(_tuple),
        inner.map(_map),
        inner.flatmap(_keyed),
        st.tuples(inner, inner).map(_named_tuple),
        inner.map(_optional),
        st.tuples(inner, inner).map(lambda two: (tuple[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1]))),
        st.sampled_from([sample for sample in PLAIN if sample[0] in _SETS]).map(_set),
        st.sampled_from(_UNIONS),
        *(objects(inner, family) for family in families),
        *([_tagged(inner)] if "struct" in families else []),
    )


def types(*, families: Sequence[str] = ("dataclass", "struct", "attrs", "typed_dict")) -> SearchStrategy[Sample]:
    """Of the families; they are mixed as they come. ``pydantic`` mixes with itself and dataclasses only."""
    return st.recursive(scalars(), lambda inner: _extended(inner, families), max_leaves=8)


def samples(**options: Any) -> SearchStrategy[tuple[Any, Any]]:
    return types(**options).flatmap(lambda sample: st.tuples(st.just(sample[0]), sample[1]))


# --- wrong values ----------------------------------------------------------------------------------------------------

_ANY_JSON: SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    _FINITE,
    st.sampled_from(
        ["", "a", "1", "-1", "1.5", "NaN", "aGk=", "2026-01-31", "2026-01-31T12:00:00Z", "PT5S", "12:00:00"]
    ),
    TEXT,
    st.just([]),
    st.just({}),
    st.lists(st.integers(0, 2), max_size=2),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2), max_size=2),
)


@st.composite
def mutated(draw: st.DrawFn, builtins: Any) -> Any:
    """JSON-like builtins with one to three changes, which may make them wrong."""
    for _ in range(draw(st.integers(1, 3))):
        builtins = _changed(draw, builtins)
    return builtins


def _changed(draw: st.DrawFn, value: Any) -> Any:  # noqa: PLR0911 - one line for each change
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(value)))
        match draw(st.sampled_from(["deeper", "deeper", "drop", "rename", "add"])):
            case "deeper":
                return {**value, name: _changed(draw, value[name])}
            case "drop":
                return {key: one for key, one in value.items() if key != name}
            case "rename":
                other = draw(st.one_of(st.sampled_from(NAMES), TEXT))
                return {other if key == name else key: one for key, one in value.items()}
            case _:
                return {**value, draw(st.one_of(st.sampled_from(NAMES), TEXT)): draw(_ANY_JSON)}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        match draw(st.sampled_from(["deeper", "deeper", "drop", "repeat"])):
            case "deeper":
                return [*value[:at], _changed(draw, value[at]), *value[at + 1 :]]
            case "drop":
                return [*value[:at], *value[at + 1 :]]
            case _:
                return [*value, value[at]]
    if isinstance(value, str) and draw(st.booleans()):
        at = draw(st.integers(0, len(value)))
        edits = st.sampled_from(["", *"0159-:.+TZtzPeE_= \n/x\u0661\u00df"])
        return draw(
            st.sampled_from(
                [value.swapcase(), value * 2, value[:at] + draw(edits) + value[at + draw(st.integers(0, 1)) :]]
            )
        )
    if type(value) is int and draw(st.booleans()):
        return draw(st.sampled_from([value + 1, -value, value * 10, float(value % 1000), str(value)]))
    return draw(_ANY_JSON)
