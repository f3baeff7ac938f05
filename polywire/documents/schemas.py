"""The named types of a contract as JSON Schemas, each under a name of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from polywire.contract.building import Types
from polywire.contract.contract import Contract
from polywire.contract.files import File
from polywire.contract.operations import Arguments
from polywire.contract.tree import Definition, Field, Map, Null, Object, Reference, Tree, Type, Union
from polywire.core.errors import NotFound
from polywire.documents.json_schema import OPENAPI, definition_schemas, json_schema, type_schema

__all__ = ["COMPONENTS", "Schemas", "references"]

COMPONENTS = OPENAPI.prefix


class Schemas:
    """Of one contract. Names do not depend on who asks: of two classes with one name the later declared is numbered."""

    def __init__(self, contract: Contract) -> None:
        self._types = Types()
        for topic in contract.topics:
            self.type(topic.codec.type)
        for operation in contract.operations:
            for parameter in operation.request.parameters:
                self.type(parameter.hint)
            if operation.reply is not None:
                self.type(operation.reply.type)
        self._file = self.type(File)  # last: the name is the application's, if it has a File of its own
        made = definition_schemas(self.definitions, OPENAPI)
        self._schemas: dict[str, dict[str, Any]] = {name: _with_xml(schema) for name, schema in made.items()}

    @property
    def definitions(self) -> Mapping[str, Definition]:
        return self._types.definitions

    def type(self, hint: Any) -> Type:
        return self._types.add(hint)

    def tree(self, hint: Any) -> Tree:
        return Tree(self.type(hint), self._types.definitions)

    def schema(self, hint: Any) -> dict[str, Any]:
        """Of a Python type, with references into the components of an OpenAPI document."""
        return self.of(self.type(hint))

    def of(self, type: Type) -> dict[str, Any]:
        schema: dict[str, Any] = _with_xml(type_schema(type, self.definitions, OPENAPI))
        return schema

    # --- arguments -----------------------------------------------------------------------------------------------

    def fields(self, arguments: Arguments) -> tuple[Field, ...] | None:
        """What arguments are made of, by name; None where their names are free (a map)."""
        if not arguments.whole:
            return tuple(self._field(arguments, at) for at in range(len(arguments.parameters)))
        return self.fields_of(self.type(arguments.parameters[0].hint))

    def fields_of(self, type: Type) -> tuple[Field, ...] | None:
        """What can be given of an object; None of what is none."""
        found = self._object(type)
        return None if found is None else tuple(field for field in found.fields if not field.read_only)

    def _field(self, arguments: Arguments, at: int) -> Field:
        """A parameter as a field, in the names of this document."""
        parameter = arguments.parameters[at]
        tree = arguments.codec.tree
        made = tree.resolve(tree.root)
        told = made.fields[at] if isinstance(made, Object) else None
        return Field(
            name=parameter.name,
            attribute=parameter.name,
            type=self.type(parameter.hint),
            required=parameter.default is inspect.Parameter.empty,
            default=told.default if told is not None else UNSET,
            description=told.description if told is not None else None,
        )

    def _object(self, type: Type) -> Object | None:
        if isinstance(type, Union):
            members = [member for member in type.members if not isinstance(member, Null)]
            return self._object(members[0]) if len(members) == 1 else None
        found = self._types.definitions[type.name] if isinstance(type, Reference) else None
        return found if isinstance(found, Object) else None

    def arguments(self, arguments: Arguments) -> dict[str, Any]:
        """The schema of a request: an object without a name of its own, unless one parameter is all of it."""
        if arguments.whole:
            return self.schema(arguments.parameters[0].hint)
        fields = self.fields(arguments) or ()
        schema: dict[str, Any] = {"type": "object", "properties": {field.name: self._told(field) for field in fields}}
        required = [field.name for field in fields if field.required]
        return schema | ({"required": required} if required else {}) | {"additionalProperties": False}

    def _told(self, field: Field) -> dict[str, Any]:
        schema = self.of(field.type)
        if field.description:
            schema["description"] = field.description
        if field.default is not UNSET:
            schema["default"] = field.default
        return schema

    def arguments_tree(self, arguments: Arguments) -> Tree:
        if arguments.whole:
            return self.tree(arguments.parameters[0].hint)
        made = Object(name="request", fields=self.fields(arguments) or (), closed=True)
        return Tree(Reference(name=" request"), {**self._types.definitions, " request": made})

    def names_in(self, arguments: Arguments) -> set[str]:
        return {name for parameter in arguments.parameters for name in references(self.type(parameter.hint))}

    def inline(self, schema: dict[str, Any]) -> dict[str, Any]:
        """What a reference stands for; any other schema is itself."""
        reference = schema.get("$ref")
        if reference is None:
            return schema
        return self._schemas[reference.removeprefix(COMPONENTS)]

    # --- kinds ---------------------------------------------------------------------------------------------------

    def is_object(self, type: Type) -> bool:
        return isinstance(type, Map) or self._object(type) is not None

    def is_file(self, type: Type) -> bool:
        return isinstance(type, Reference) and type == self._file

    # --- what is named -------------------------------------------------------------------------------------------

    def components(self, used: Iterable[str]) -> dict[str, Any]:
        """These and all that they refer to, by name, in the order of their declaration."""
        wanted = self.reachable(used)
        return {name: schema for name, schema in self._schemas.items() if name in wanted}

    def reachable(self, names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found and name in self._types.definitions:
                found.add(name)
                waiting.extend(references(self._types.definitions[name]))
        return found

    def standalone(self, name: str) -> dict[str, Any]:
        """A JSON Schema (2020-12) that needs no other document. Raises `NotFound`."""
        if name not in self._types.definitions:
            raise NotFound(f"there is no schema {name[:80]!r}", hint="GET /schemas lists those there are")
        wanted = self.reachable([name])
        return json_schema(
            Tree(Reference(name=name), {one: made for one, made in self.definitions.items() if one in wanted})
        )

    def named_in(self, hints: Iterable[Any]) -> set[str]:
        """The names in these Python types, and in what they refer to."""
        return self.reachable(name for hint in hints for name in references(self.type(hint)))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, Reference):
        yield node.name
    elif isinstance(node, tuple):
        for one in node:
            yield from references(one)
    elif isinstance(node, msgspec.Struct):
        for name in node.__struct_fields__:
            yield from references(getattr(node, name))


def _with_xml(schema: Any) -> Any:
    """With OpenAPI's words for XML (see `polywire.formats.xml`): an array is ``<tags><item>a</item></tags>``."""
    if isinstance(schema, list):
        return [_with_xml(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: value if key in _VALUES else _with_xml(value) for key, value in schema.items()}
    if told.get("type") == "array" and isinstance(told.get("items"), dict):
        told["items"] = {**told["items"], "xml": {"name": "item"}}
        told["xml"] = {"wrapped": True}
    return told


_VALUES = frozenset({"const", "default", "enum", "examples", "required"})
"""Keywords that hold no schemas."""
