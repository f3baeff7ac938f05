"""Python types → the type tree.

One `Types` builds the trees of many types into one set of definitions; `tree_of` is the tree of one type alone.
"""

from __future__ import annotations

import collections
import collections.abc
import datetime as dt
import decimal
import enum
import re
import types
import typing
import uuid
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET
from msgspec.inspect import is_struct_type

from polywire.contract.ambiguity import refuse_costly
from polywire.contract.constraints import Rules
from polywire.contract.descriptions import class_description, field_descriptions
from polywire.contract.foreign import Foreign
from polywire.contract.hints import class_hints, class_of, unwrap
from polywire.contract.paths import ROOT
from polywire.contract.shapes import Member, Shape, is_attrs, is_named_tuple, is_pydantic, is_typed_dict, shape_of
from polywire.contract.tree import (
    Anything,
    Array,
    Binary,
    Boolean,
    Constant,
    Date,
    DateTime,
    Decimal,
    Definition,
    Duration,
    Enumeration,
    Field,
    Integer,
    Map,
    Null,
    Number,
    Object,
    Reference,
    Row,
    Text,
    Time,
    Tree,
    Type,
    Union,
    Uuid,
)

__all__ = ["Findings", "Types", "tree_of"]

_SCALARS: dict[Any, Type] = {
    Any: Anything(),
    object: Anything(),
    msgspec.Raw: Anything(),
    types.NoneType: Null(),
    bool: Boolean(),
    int: Integer(),
    float: Number(),
    str: Text(),
    bytes: Binary(),
    bytearray: Binary(),
    memoryview: Binary(),
    dt.datetime: DateTime(),
    dt.date: Date(),
    dt.time: Time(),
    dt.timedelta: Duration(),
    decimal.Decimal: Decimal(),
    uuid.UUID: Uuid(),
}
# What msgspec reads. pydantic has more of the kind (deque, defaultdict, Iterable ...).
_LISTS = {
    list,
    tuple,
    collections.abc.Collection,
    collections.abc.MutableSequence,
    collections.abc.Sequence,
}
_SETS = {set, frozenset, collections.abc.Set, collections.abc.MutableSet}
_MAPS = {dict, collections.abc.Mapping, collections.abc.MutableMapping}
_NO_KEYS = (Anything, Null, Boolean, Array, Row, Map, Binary)
_DEEPEST = 64  # a type that is nested deeper refers to itself, without a class that could have a name


class Findings(msgspec.Struct):
    """What reading the types showed, beyond the tree.

    ``inexact``: msgspec alone would take values that the tree refuses. ``models``, ``others``: whether there are
    classes of pydantic, and such that only msgspec can read. ``foreign``: the types at which pydantic takes over from
    msgspec. ``judged``: the definitions (name, None) and fields (name, field) whose own code, a validator, sees the
    value before its type does. ``hints``: all types that were read, by path, the innermost first.
    """

    inexact: bool = False
    models: bool = False
    others: bool = False
    foreign: list[Any] = msgspec.field(default_factory=list)
    judged: set[tuple[str, str | None]] = msgspec.field(default_factory=set)
    hints: list[tuple[str, Any]] = msgspec.field(default_factory=list)


class _Place(NamedTuple):
    """Where in a type we are. ``inside``: in a class that pydantic reads."""

    path: str
    inside: bool = False
    definition: str = ""
    field: str | None = None
    depth: int = 0

    def at(self, step: str) -> _Place:
        return self._replace(path=self.path + step, depth=self.depth + 1)


class Types:
    """The definitions of many types, each class with a name of its own.

    Of two classes with one name the later gets a number: ``Reading``, ``Reading2``.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, Definition] = {}
        self.findings = Findings()
        self._names: dict[Any, str] = {}
        self.sources: dict[str, tuple[Any, Shape]] = {}
        """By definition: the class it was made of, and its fields as they are declared there."""
        self._discriminators: dict[str, str] = {}  # by definition: the attribute that a union tells it by

    def add(self, type: Any) -> Type:
        """The type in the tree's words. Raises `TypeError`, with the path of what cannot be said."""
        try:
            root = self._read(type, _Place(ROOT))[0]
        except RecursionError:
            raise TypeError("the type is nested too deeply") from None
        if self.findings.models:  # nothing else can have such unions
            refuse_costly(Tree(root, self.definitions))
        return root

    def _read(self, hint: Any, place: _Place) -> tuple[Type, str | None]:
        """The node, and what the annotation says to people."""
        if isinstance(hint, Foreign):
            self._hand_over(hint)
            hint, place = hint.hint, place._replace(inside=True)
        plain, metadata = unwrap(hint)
        try:
            rules = Rules(metadata)
            node = rules.apply(self._node(plain, rules, place), all=not place.inside)
        except _Misplaced:
            raise
        except TypeError as error:
            raise _Misplaced(f"{error} (at {place.path})" if place.path != ROOT else str(error)) from None
        if rules.before and place.inside:
            self.findings.judged.add((place.definition, place.field))
        self.findings.hints.append((place.path, hint))
        self.findings.inexact |= rules.foreign or isinstance(node, (Decimal, Duration))
        return node, rules.description

    def _node(self, hint: Any, rules: Rules, place: _Place) -> Type:
        if place.depth > _DEEPEST:
            raise TypeError("the type contains itself, and is no class")
        cls = class_of(hint)
        if isinstance(cls, type) and issubclass(cls, enum.Enum):
            return self._enumeration(cls)
        return (
            _scalar(hint)
            or self._special(hint, rules, place)
            or self._container(hint, cls, place)
            or self._object(hint, place)
            or self._foreign(hint, place)
        )

    def _special(self, hint: Any, rules: Rules, place: _Place) -> Type | None:
        """What is written with a word of `typing`."""
        origin = typing.get_origin(hint)
        if origin in (typing.Union, types.UnionType):
            return self._union(hint, rules.discriminator, place)
        if origin is typing.Literal:
            return Constant(values=tuple(_literal(value) for value in typing.get_args(hint)))
        if isinstance(hint, typing.TypeVar):
            return Anything() if hint.__bound__ is None else self._read(hint.__bound__, place)[0]
        return None

    # --- several types in one ------------------------------------------------------------------------------------

    def _union(self, hint: Any, discriminator: str | None, place: _Place) -> Type:
        hints = [one for one in typing.get_args(hint) if one is not msgspec.UnsetType]
        members: list[Type] = []
        for one in hints:
            node = self._read(one, place)[0]
            for member in node.members if isinstance(node, Union) and node.discriminator is None else (node,):
                if member not in members:
                    members.append(member)
        members.sort(key=lambda member: isinstance(member, Null))  # null is told last, wherever it was written
        if len(members) == 1:
            return members[0]
        named = [member.name for member in members if isinstance(member, Reference) and member.name in self.sources]
        if discriminator is not None:
            return Union(members=tuple(members), discriminator=self._discriminate(named, discriminator))
        fields = {self.sources[name][1].tag_field for name in named}
        tagged = len(named) > 1 and len(fields) == 1
        self._refuse_ambiguous(members)
        return Union(members=tuple(members), discriminator=fields.pop() if tagged else None)

    def _discriminate(self, names: list[str], attribute: str) -> str:
        """Tell the definitions by a field of theirs; its name in JSON."""
        members = [member for name in names for member in self.sources[name][1].members]
        outside = {member.name for member in members if member.attribute == attribute}
        if len(outside) != 1:
            raise TypeError(f"the members of the union do not all have the field {attribute!r} by one name")
        for name in names:
            self._discriminators[name] = attribute
            made = self.definitions[name]
            if isinstance(made, Object) and made.fields:
                self.definitions[name] = _tagged(made, attribute)
        return outside.pop()

    def _refuse_ambiguous(self, members: list[Type]) -> None:
        texts = (Text, DateTime, Date, Time, Duration, Uuid, Decimal, Constant)
        if any(isinstance(one, Binary) for one in members) and any(isinstance(one, texts) for one in members):
            raise TypeError("a union of bytes and another text cannot be told apart in JSON")

    # --- many of one type ----------------------------------------------------------------------------------------

    def _container(self, hint: Any, cls: Any, place: _Place) -> Type | None:
        arguments = typing.get_args(hint)
        if is_named_tuple(cls):
            return self._named_tuple(hint, place)
        fixed = arguments[-1] is not ... if arguments else hasattr(hint, "__args__")  # ``tuple[()]`` has no items
        if cls is tuple and fixed:
            return Row(items=tuple(self._item(one, place.at(f"[{i}]")) for i, one in enumerate(arguments)))
        kind = _kind(cls, inside=place.inside)
        if kind is dict:
            key, value = (*arguments, int)[:2] if arguments else (Any, Any)  # a Counter counts
            return Map(key=self._key(key, place.at(".~")), value=self._item(value, place.at(".*")))
        if kind is None:
            return None
        self.findings.inexact |= kind is set
        item = self._item(arguments[0], place.at("[*]")) if arguments else Anything()
        return Array(item=item, unique=kind is set)

    def _item(self, hint: Any, place: _Place) -> Type:
        return self._read(hint, place)[0]

    def _key(self, hint: Any, place: _Place) -> Type:
        key = Text() if hint in (Any, object) or isinstance(hint, typing.TypeVar) else self._read(hint, place)[0]
        if isinstance(key, _NO_KEYS):
            raise TypeError(f"{type(key).__name__} cannot be the name of a member of an object")
        return key

    def _named_tuple(self, hint: Any, place: _Place) -> Type:
        cls = class_of(hint)
        hints = class_hints(hint)
        items = tuple(self._item(hints.get(name, Any), place.at(f"[{i}]")) for i, name in enumerate(cls._fields))
        return Row(items=items, optional=len(cls._field_defaults))

    # --- what has a name -----------------------------------------------------------------------------------------

    def _enumeration(self, cls: type[enum.Enum]) -> Type:
        if issubclass(cls, enum.Flag):
            return Integer()
        name = self._names.get(cls)
        if name is None:
            values = tuple(member.value for member in cls)
            if not values or not all(type(value) in (str, int) for value in values):
                raise TypeError(f"{cls.__qualname__} has values that are neither text nor integers, or none")
            name = self._name(cls)
            self.definitions[name] = Enumeration(name=name, values=values, description=class_description(cls))
        return Reference(name=name)

    def _object(self, hint: Any, place: _Place) -> Type | None:
        cls = class_of(hint)
        inside = is_pydantic(cls)
        if inside and not place.inside:
            self._hand_over(hint)
        if hint in self._names:
            return Reference(name=self._names[hint])
        self.findings.others |= is_struct_type(cls) or is_attrs(cls) or is_typed_dict(cls)
        if inside and (root := _root_of(cls)) is not None:
            return self._read(root, place._replace(inside=True, depth=place.depth + 1))[0]
        shape = shape_of(hint)
        if shape is None:
            return None
        if place.inside and (is_struct_type(cls) or is_attrs(cls)):
            raise TypeError(f"{cls.__qualname__} stands in a model of pydantic, which cannot read it")
        name = self._name(hint)
        self.sources[name] = (cls, shape)
        self.definitions[name] = Object(name=name, fields=())  # so that it may contain itself
        place = place._replace(inside=place.inside or inside, definition=name)
        if inside and _judges_itself(cls):
            self.findings.judged.add((name, None))
        made = Object(
            name=name,
            fields=self._fields(cls, shape, place),
            description=class_description(cls),
            closed=shape.closed,
            tag_field=shape.tag_field,
            tag=shape.tag,
        )
        attribute = self._discriminators.get(name)
        self.definitions[name] = _tagged(made, attribute) if attribute is not None else made
        return Reference(name=name)

    def _hand_over(self, hint: Any) -> None:
        self.findings.models = True
        if hint not in self.findings.foreign:
            self.findings.foreign.append(hint)

    def _fields(self, cls: Any, shape: Shape, place: _Place) -> tuple[Field, ...]:
        texts = field_descriptions(cls)
        return tuple(self._field(member, texts.get(member.attribute), place) for member in shape.members)

    def _field(self, member: Member, text: str | None, place: _Place) -> Field:
        node, description = self._read(member.hint, place.at(f".{member.name}")._replace(field=member.name))
        return Field(
            name=member.name,
            attribute=member.attribute,
            type=node,
            required=member.required,
            default=_in_json(member.default),
            description=member.description or description or text,
            read_only=member.read_only,
        )

    def _name(self, hint: Any) -> str:
        cls = class_of(hint)
        words = [cls.__name__, *(getattr(one, "__name__", str(one)) for one in typing.get_args(hint))]
        plain = re.sub(r"\W+", "_", "_".join(words), flags=re.ASCII).strip("_") or "Object"
        name, number = plain, 2
        while name in self.definitions:
            name, number = f"{plain}{number}", number + 1
        self._names[hint] = name
        return name

    def _foreign(self, hint: Any, place: _Place) -> Type:
        """A type of pydantic's own, or any other where pydantic reads it."""
        if place.inside or hasattr(hint, "__get_pydantic_core_schema__"):
            from polywire.contract.pydantic_models import scalar

            if not place.inside:
                self._hand_over(hint)
            return scalar(hint)
        name = getattr(hint, "__qualname__", hint)
        raise TypeError(
            f"{name} is neither a dataclass, Struct, attrs class, TypedDict, pydantic model, enum nor a plain type"
        )


class _Misplaced(TypeError):
    """Says already where."""


def tree_of(type: Any) -> Tree:
    """Raises `TypeError` for a type that JSON cannot tell, with the path of the field."""
    types = Types()
    return Tree(types.add(type), types.definitions)


def _scalar(hint: Any) -> Type | None:
    try:
        return _SCALARS.get(hint)
    except TypeError:  # what cannot be looked up is no type
        raise TypeError(f"{hint!r} is no type") from None


def _literal(value: Any) -> str | int | bool | None:
    value = value.value if isinstance(value, enum.Enum) else value
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"the literal {value!r} is neither text, an integer, a boolean nor None")


def _kind(cls: Any, *, inside: bool) -> type | None:
    """list, set or dict, as JSON sees a container."""
    for kind, known in ((list, _LISTS), (set, _SETS), (dict, _MAPS)):
        if cls in known:
            return kind
    if not inside or not isinstance(cls, type) or cls.__module__ not in ("collections", "collections.abc"):
        return None
    if issubclass(cls, collections.abc.Mapping):
        return dict
    return list if issubclass(cls, collections.abc.Iterable) else None


def _root_of(cls: Any) -> Any:
    """What a root model of pydantic is another name of."""
    if not getattr(cls, "__pydantic_root_model__", False):
        return None
    field = cls.__pydantic_fields__["root"]
    return typing.Annotated[field.annotation, field]


def _judges_itself(cls: Any) -> bool:
    decorators = cls.__pydantic_decorators__.model_validators.values()
    return any(decorator.info.mode != "after" for decorator in decorators)


def _tagged(made: Object, attribute: str) -> Object:
    """An object with a field of one possible value, as one with a tag; it may have one already, by another field."""
    if made.tag_field is not None:
        return made
    for field in made.fields:
        values = field.type.values if field.attribute == attribute and isinstance(field.type, Constant) else ()
        if len(values) == 1 and isinstance(values[0], (str, int)):
            fields = tuple(one for one in made.fields if one is not field)
            return msgspec.structs.replace(
                made, fields=fields, tag_field=field.name, tag=values[0], tag_required=field.required
            )
    return made


def _in_json(default: Any) -> Any:
    """`UNSET` for what is made anew each time, and for what JSON cannot say."""
    if default is UNSET or isinstance(default, (list, dict, set, bytearray)):
        return UNSET
    try:
        return msgspec.to_builtins(default, str_keys=True, enc_hook=_dumped)
    except (TypeError, ValueError, RecursionError):
        return UNSET


def _dumped(value: Any) -> Any:
    if is_pydantic(type(value)):
        from polywire.contract.pydantic_models import dumped

        return dumped(value)
    raise TypeError(f"{type(value).__qualname__} cannot be told in JSON")
