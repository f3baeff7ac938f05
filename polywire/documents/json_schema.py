"""Type tree → JSON Schema 2020-12, which OpenAPI 3.1 uses, too.

What a schema cannot say: a number with a fraction of zero is an integer to JSON Schema, and none to Polywire; the
bounds of a decimal that is written as text; the number of bytes in base64, but roughly. ``format`` is a note to people
and generators, and a time may stand without its offset unless the type demands one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import UNSET

from polywire.contract.texts import BASE64, DECIMAL, DURATION, INTEGER, NUMBER
from polywire.contract.tree import (
    Anything,
    Array,
    Binary,
    Boolean,
    Bounds,
    Constant,
    Date,
    DateTime,
    Decimal,
    Definition,
    Duration,
    Enumeration,
    Field,
    Integer,
    Lengths,
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

__all__ = ["JSON_SCHEMA", "OPENAPI", "Dialect", "definition_schemas", "json_schema", "type_schema"]

Schema = dict[str, Any]


class Dialect(NamedTuple):
    """``prefix``: where definitions stand. ``discriminators``: whether OpenAPI's word for them is known."""

    prefix: str
    discriminators: bool


JSON_SCHEMA = Dialect("#/$defs/", discriminators=False)
OPENAPI = Dialect("#/components/schemas/", discriminators=True)

_CLOCK = "[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.][0-9]+)?$"
_TYPES = {str: "string", bool: "boolean", int: "integer", type(None): "null"}


def json_schema(tree: Tree) -> Schema:
    """A document of its own, with the definitions it needs in ``$defs``."""
    schema: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema.update(type_schema(tree.root, tree.definitions))
    needed = _needed(tree)
    if needed:
        emitter = _Emitter(tree.definitions, JSON_SCHEMA)
        schema["$defs"] = {name: emitter.definition(one) for name, one in tree.definitions.items() if name in needed}
    return schema


def definition_schemas(definitions: Mapping[str, Definition], dialect: Dialect = JSON_SCHEMA) -> dict[str, Schema]:
    """The schemas of all definitions, by name."""
    emitter = _Emitter(definitions, dialect)
    return {name: emitter.definition(definition) for name, definition in definitions.items()}


def type_schema(type: Type, definitions: Mapping[str, Definition], dialect: Dialect = JSON_SCHEMA) -> Schema:
    """The schema of one type, which refers to ``definitions``."""
    return _Emitter(definitions, dialect).type(type)


def _needed(tree: Tree) -> set[str]:
    """The definitions that can be reached."""
    found: set[str] = set()
    waiting = [tree.root]
    while waiting:
        for one in types_in(Tree(waiting.pop())):
            if isinstance(one, Reference) and one.name not in found:
                found.add(one.name)
                definition = tree.definitions[one.name]
                if isinstance(definition, Object):
                    waiting.extend(field.type for field in definition.fields)
    return found


class _Emitter:
    def __init__(self, definitions: Mapping[str, Definition], dialect: Dialect) -> None:
        self._definitions = definitions
        self._dialect = dialect

    def definition(self, definition: Definition) -> Schema:
        schema: Schema = {"title": definition.name} if definition.name else {}
        if definition.description:
            schema["description"] = definition.description
        if isinstance(definition, Enumeration):
            return schema | _values(definition.values)
        return schema | self._object(definition)

    def type(self, type: Type) -> Schema:
        match type:
            case Reference(name=name):
                return {"$ref": self._dialect.prefix + name}
            case Array():
                return self._array(type)
            case Row():
                return self._row(type)
            case Map():
                return self._map(type)
            case Union():
                return self._union(type)
            case _:
                schema: Schema = _SCALARS[type.__class__](type)
                return schema

    def _object(self, object: Object) -> Schema:
        properties = {field.name: self._field(field) for field in object.fields}
        required = [field.name for field in object.fields if field.required]
        if object.tag_field is not None:
            properties = {object.tag_field: _values((object.tag,))} | properties
            required = [object.tag_field] * object.tag_required + required
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if object.closed:
            schema["additionalProperties"] = False
        return schema

    def _field(self, field: Field) -> Schema:
        schema = self.type(field.type)
        if field.description:
            schema["description"] = field.description
        if field.default is not UNSET:
            schema["default"] = field.default
        if field.read_only:
            schema["readOnly"] = True
        return schema

    def _array(self, array: Array) -> Schema:
        schema: Schema = {"type": "array", "items": self.type(array.item)}
        if array.unique:
            schema["uniqueItems"] = True
        return schema | _lengths(array, "Items")

    def _row(self, row: Row) -> Schema:
        items = [self.type(item) for item in row.items]
        schema: Schema = {"prefixItems": items} if items else {}  # it may not be empty
        return {"type": "array"} | schema | {"minItems": len(items) - row.optional, "maxItems": len(items)}

    def _map(self, map: Map) -> Schema:
        schema: Schema = {"type": "object", "additionalProperties": self.type(map.value)}
        names = self._names(map.key)
        if names:
            schema["propertyNames"] = names
        return schema | _lengths(map, "Properties")

    def _names(self, key: Type) -> Schema:
        """Names are text, so numbers are told by what they look like."""
        found = self._definitions[key.name] if isinstance(key, Reference) else key
        if isinstance(found, (Integer, Number)):
            return {"pattern": _whole(INTEGER if isinstance(found, Integer) else NUMBER)}
        if isinstance(found, (Constant, Enumeration)):
            return {"enum": [str(value) for value in found.values]}
        schema = self.type(key)
        schema.pop("type", None)
        return schema

    def _union(self, union: Union) -> Schema:
        tagged = Tree(union, dict(self._definitions)).tagged(union)
        plain = [self.type(member) for member in union.members if member not in tagged.values()]
        if not tagged:
            return {"anyOf": plain}
        chosen = self._chosen(tagged, union.discriminator or "")
        return {"anyOf": [chosen, *plain]} if plain else chosen

    def _chosen(self, tagged: Mapping[str | int, Type], field: str) -> Schema:
        members = [self.type(member) for member in dict.fromkeys(tagged.values())]
        schema: Schema = {"oneOf": members, "required": [field]}
        if self._dialect.discriminators:
            mapping = {str(tag): self.type(member)["$ref"] for tag, member in tagged.items()}
            schema["discriminator"] = {"propertyName": field, "mapping": mapping}
        return schema


def _whole(pattern: str) -> str:
    return f"^{pattern}$"


def _values(values: tuple[Any, ...]) -> Schema:
    types = list(dict.fromkeys(_TYPES[value.__class__] for value in values))
    schema: Schema = {"type": types[0] if len(types) == 1 else types}
    return schema | ({"const": values[0]} if len(values) == 1 else {"enum": list(values)})


def _lengths(node: Lengths, of: str) -> Schema:
    """``of``: Length, Items or Properties."""
    stated = {f"min{of}": node.min_length, f"max{of}": node.max_length}
    return {word: length for word, length in stated.items() if length is not None}


def _bounds(node: Bounds) -> Schema:
    stated = {
        "minimum": node.minimum,
        "maximum": node.maximum,
        "exclusiveMinimum": node.exclusive_minimum,
        "exclusiveMaximum": node.exclusive_maximum,
        "multipleOf": node.multiple_of,
    }
    return {word: bound for word, bound in stated.items() if bound is not None}


def _text(node: Text) -> Schema:
    stated = {"pattern": node.pattern, "format": node.format}
    return {"type": "string"} | _lengths(node, "Length") | {key: text for key, text in stated.items() if text}


def _binary(node: Binary) -> Schema:
    """Base64 has four characters for each three bytes begun."""
    schema: Schema = {"type": "string", "contentEncoding": "base64", "pattern": _whole(BASE64)}
    stated = {"minLength": node.min_length, "maxLength": node.max_length}
    return schema | {word: -(-number // 3) * 4 for word, number in stated.items() if number is not None}


def _moment(format: str, aware: bool | None, before: str = "^") -> Schema:
    """The formats of JSON Schema demand an offset."""
    return {"type": "string", "pattern": before + _CLOCK} if aware is False else {"type": "string", "format": format}


_SCALARS: dict[Any, Any] = {
    Anything: lambda _: {},
    Null: lambda _: {"type": "null"},
    Boolean: lambda _: {"type": "boolean"},
    Integer: lambda node: {"type": "integer"} | _bounds(node),
    Number: lambda node: {"type": "number"} | _bounds(node),
    Decimal: lambda node: (
        {"type": ["string", "number"], "format": "decimal", "pattern": _whole(DECIMAL)} | _bounds(node)
    ),
    Text: _text,
    Binary: _binary,
    DateTime: lambda node: _moment("date-time", node.aware, "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]"),
    Date: lambda _: {"type": "string", "format": "date"},
    Time: lambda node: _moment("time", node.aware),
    Duration: lambda _: {"type": "string", "format": "duration", "pattern": _whole(DURATION)},
    Uuid: lambda _: {"type": "string", "format": "uuid"},
    Constant: lambda node: _values(node.values),
}
