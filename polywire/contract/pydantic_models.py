"""The one place that knows pydantic: how its models are read, made and written. Imported only where one is declared."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Hashable
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET
from pydantic import AwareDatetime, BaseModel, NaiveDatetime, PydanticUserError, TypeAdapter, ValidationError
from pydantic.dataclasses import rebuild_dataclass
from pydantic.fields import ComputedFieldInfo, FieldInfo
from pydantic_core import PydanticSerializationError, PydanticUndefined, to_jsonable_python

from polywire.contract.building import tree_of
from polywire.contract.checking import Checker
from polywire.contract.paths import ROOT, member
from polywire.contract.shapes import Member, Shape, is_pydantic
from polywire.contract.tree import (
    Anything,
    Array,
    Binary,
    Boolean,
    Constant,
    Date,
    DateTime,
    Definition,
    Duration,
    Enumeration,
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
    types_in,
)
from polywire.core.errors import FieldError

__all__ = ["Adapter", "dumped", "model_shape", "scalar"]


def model_shape(cls: Any) -> Shape:
    """Of a model or a dataclass of pydantic. Raises `TypeError` for a field with several names."""
    if not cls.__pydantic_complete__:
        _complete(cls)
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", {})
    members = [_member(attribute, info) for attribute, info in cls.__pydantic_fields__.items()]
    computed = cls.__pydantic_decorators__.computed_fields.items()
    members += [_computed(attribute, decorator.info) for attribute, decorator in computed]
    return Shape(tuple(members), closed=config.get("extra") == "forbid")


def _complete(cls: Any) -> None:
    """A model that named others before they were there. Raises `TypeError` if they still are not."""
    try:
        if issubclass(cls, BaseModel):
            cls.model_rebuild(force=True)
        else:
            rebuild_dataclass(cls, force=True)
    except (PydanticUserError, NameError) as error:
        text = str(error).partition("\n")[0]
        raise TypeError(f"{cls.__qualname__} is not complete: {text}") from None


def _member(attribute: str, info: FieldInfo) -> Member:
    reading, writing = info.validation_alias or attribute, info.serialization_alias or attribute
    if reading != writing:
        raise TypeError(f"the field {attribute!r} is read as {reading!r} and written as {writing!r}")
    default = info.default if info.default is not PydanticUndefined else UNSET
    hint = Annotated[info.annotation, info]  # type: ignore[name-defined]
    return Member(str(reading), attribute, hint, info.is_required(), default, info.description)


def _computed(attribute: str, info: ComputedFieldInfo) -> Member:
    name = info.alias or attribute
    return Member(name, attribute, info.return_type, required=False, description=info.description, read_only=True)


def scalar(hint: Any) -> Type:
    """A type of pydantic's own, by the schema it has for it. Raises `TypeError` for one that is not plain."""
    if hint in _MOMENTS:
        return _MOMENTS[hint]
    try:
        schema = TypeAdapter(hint).json_schema()
    except Exception as error:  # noqa: BLE001 (whatever it raises, the type cannot be described)
        text = str(error).partition("\n")[0]
        raise TypeError(f"{getattr(hint, '__qualname__', hint)} cannot be described: {text}") from None
    made = _FORMATS.get(schema.get("format", "")) or _plain(schema)
    if made is None:
        raise TypeError(f"{getattr(hint, '__qualname__', hint)} is no plain type")
    return made


_MOMENTS: dict[Any, Type] = {AwareDatetime: DateTime(aware=True), NaiveDatetime: DateTime(aware=False)}
_FORMATS: dict[str, Type] = {
    "date-time": DateTime(),
    "date": Date(),
    "time": Time(),
    "duration": Duration(),
    "uuid": Uuid(),
}


def _plain(schema: dict[str, Any]) -> Type | None:  # noqa: PLR0911 - one line for each kind of type
    match schema.get("type"):
        case "string" if "contentEncoding" not in schema and schema.get("format") not in ("binary", "base64"):
            return Text(
                min_length=schema.get("minLength"),
                max_length=schema.get("maxLength"),
                pattern=schema.get("pattern"),
                format=schema.get("format"),
            )
        case "integer":
            return Integer()
        case "number":
            return Number()
        case "boolean":
            return Boolean()
        case "null":
            return Null()
        case None if "const" in schema:
            return Constant(values=(schema["const"],))
        case None if not schema.keys() - {"title", "description", "default"}:
            return Anything()
    return None


def dumped(value: Any) -> Any:
    """A model, or a value of another type of pydantic's, as JSON-like builtins."""
    if not is_pydantic(type(value)):
        return to_jsonable_python(value)
    return _adapter_of(cast("Hashable", type(value))).to_builtins(value)


@functools.lru_cache(maxsize=1024)
def _adapter_of(cls: Any) -> Adapter:
    return Adapter(cls, tree_of(cls))


class Adapter:
    """Values of one type that pydantic reads ↔ JSON-like builtins and bytes.

    The tree has seen the builtins before: what is left to pydantic is to make the values, and the validators. ``tree``
    is of the same type.
    """

    def __init__(self, type: Any, tree: Tree) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(type)
        except PydanticUserError as error:
            raise TypeError(str(error).partition("\n")[0]) from None
        self._translate = translation(tree)
        # Its JSON mode takes bytes for text, and writes 365 days as a year, which is none: msgspec writes those.
        ours = any(isinstance(one, (Binary, Duration)) for one in types_in(tree))
        self._mode: Literal["json", "python"] = "python" if ours else "json"

    def convert(self, value: Any) -> Any:
        """Raises `pydantic.ValidationError`, and whatever else a validator raises."""
        if self._translate is not None:
            value = self._translate(value)
        return self._adapter.validate_python(value, by_alias=True, by_name=False)

    def encode(self, value: Any) -> bytes:
        """Raises `ValueError`, `TypeError`."""
        if self._mode == "json":
            try:
                return self._adapter.dump_json(value, by_alias=True, warnings="error")
            except PydanticSerializationError:  # it is not of the type: see `_dump`
                pass
        return msgspec.json.encode(self._dump(value), enc_hook=_written)

    def to_builtins(self, value: Any) -> Any:
        """Raises `ValueError`, `TypeError`."""
        return msgspec.to_builtins(self._dump(value), str_keys=True, enc_hook=_written)

    def make(self, payload: bytes, builtins: Any) -> Any:  # noqa: ARG002 (the builtins say the same)
        return self.convert(builtins)

    def wrong_fields(self, error: Exception, builtins: Any) -> list[FieldError]:
        if isinstance(error, ValidationError):
            return _wrong_fields(error, builtins)
        return [FieldError(ROOT, f"{type(error).__name__}: {error}")]

    def _dump(self, value: Any) -> Any:
        """A value that is not of the type, as a dict in the place of a model, is written as it is."""
        try:
            return self._adapter.dump_python(value, mode=self._mode, by_alias=True, warnings="error")
        except PydanticSerializationError:
            return value


def _written(value: Any) -> Any:
    return to_jsonable_python(value, by_alias=True)


_VALIDATORS = ("value_error", "assertion_error")


def _wrong_fields(error: ValidationError, value: Any) -> list[FieldError]:
    """What pydantic found wrong with ``value``, each path once."""
    found: dict[str, str] = {}
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        path = ROOT + _steps(one["loc"], value, one["type"])
        found.setdefault(path, _text(one["msg"]))
    return [FieldError(path, message) for path, message in found.items()]


def _steps(location: tuple[int | str, ...], value: Any, kind: str) -> str:
    """The path of a location.

    pydantic also puts the member of a union that it tried into its locations. Unless a tag has chosen it, the path
    ends there: another member may be meant. What a validator said is kept whole, as only the right one came so far.
    """
    steps = ""
    for number, step in enumerate(location):
        if isinstance(value, dict) and str(step) in value:
            steps, value = steps + member(str(step)), value[str(step)]
        elif isinstance(step, int):
            steps += f"[{step}]"
            value = value[step] if isinstance(value, list) and step < len(value) else None
        elif kind == "missing" and number == len(location) - 1:
            steps += member(step)
        elif kind not in _VALIDATORS and not (isinstance(value, dict) and step in value.values()):
            break
    return steps


def _text(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")


# --- what pydantic reads in another way than JSON has it -------------------------------------------------------------

Translate = Callable[[Any], Any]


def translation(tree: Tree) -> Translate | None:
    """Builtins with bytes in the place of base64, with numbers as names where they are meant, and without what is only
    written. None: there is no such thing in the type."""
    return _Translation(tree).of(tree.root)


class _Translation:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._objects: dict[str, Translate | None] = {}
        self._concerned = _concerned(tree)

    def of(self, type: Type) -> Translate | None:  # noqa: PLR0911 - one line for each kind of type
        match type:
            case Binary():
                return _decoded
            case Reference():
                return self._object(type.name) if type.name in self._concerned else None
            case Array():
                item = self.of(type.item)
                return _on(list, lambda values: [item(one) for one in values]) if item is not None else None
            case Row():
                return self._row(type)
            case Map():
                return self._map(type)
            case Union():
                return self._union(type)
        return None

    def _row(self, row: Row) -> Translate | None:
        items = [self.of(item) for item in row.items]
        if not any(items):
            return None
        return _on(list, lambda values: [read(one) if read else one for read, one in zip(items, values, strict=False)])

    def _map(self, map: Map) -> Translate | None:
        numbers = _numbers(self._tree.resolve(map.key))
        value = self.of(map.value)
        if value is None and not numbers:
            return None
        read = value or _same
        return _on(dict, lambda found: {numbers.get(key, key): read(one) for key, one in found.items()})

    def _object(self, name: str) -> Translate | None:
        if name in self._objects:
            return self._objects[name]
        reads: dict[str, Translate] = {}
        definition = self._tree.definitions[name]
        fields = definition.fields if isinstance(definition, Object) else ()
        unread = {field.name for field in fields if field.read_only}  # a closed model would not know them

        def translate(found: Any) -> Any:
            return {key: reads.get(key, _same)(one) for key, one in found.items() if key not in unread}

        self._objects[name] = _on(dict, translate)  # before its fields are looked at: it may contain itself
        reads.update((field.name, read) for field in fields if (read := self.of(field.type)) is not None)
        return self._objects[name]

    def _union(self, union: Union) -> Translate | None:
        reads = [self.of(member) for member in union.members]
        if not any(reads):
            return None
        checkers = [Checker(Tree(member, self._tree.definitions)) for member in union.members]

        def translate(value: Any) -> Any:
            for checker, read in zip(checkers, reads, strict=True):
                if not checker.wrong(value):
                    return read(value) if read is not None else value
            return value

        return translate


def _same(value: Any) -> Any:
    return value


def _numbers(key: Type | Definition) -> dict[str, int]:
    """Of a literal or an enumeration: the names that mean numbers."""
    values = key.values if isinstance(key, (Constant, Enumeration)) else ()
    return {str(value): value for value in values if isinstance(value, int)}


def _on(kind: type, translate: Translate) -> Translate:
    return lambda value: translate(value) if type(value) is kind else value


def _decoded(value: Any) -> Any:
    """What is no base64 is left to the validators that asked to see it."""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        return value


def _concerned(tree: Tree) -> set[str]:
    """The definitions that have something to translate in them."""
    found: set[str] = set()
    while True:
        more = {
            name for name, one in tree.definitions.items() if isinstance(one, Object) and _concerns(one, tree, found)
        }
        if more == found:
            return found
        found = more


def _concerns(object: Object, tree: Tree, known: set[str]) -> bool:
    if any(field.read_only for field in object.fields):
        return True
    for one in (one for field in object.fields for one in types_in(Tree(field.type))):
        if isinstance(one, Binary) or (isinstance(one, Reference) and one.name in known):
            return True
        if isinstance(one, Map) and _numbers(tree.resolve(one.key)):
            return True
    return False
