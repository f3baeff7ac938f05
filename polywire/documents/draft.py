"""An OpenAPI document in the making: what the describers of operations, topics and jobs write into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from polywire.contract.operations import Arguments, OperationContract
from polywire.contract.tree import Type
from polywire.documents.schemas import COMPONENTS, Schemas, references
from polywire.documents.shared import HEADERS, SCHEMAS, problem_responses
from polywire.documents.snippets import Sample, snippets

__all__ = ["KEYS", "Audience", "Draft", "Json", "Rules"]

Json = dict[str, Any]
May = Callable[[str, str], bool]
KEYS: Final[list[Json]] = [{"bearer": []}, {"api_key": []}]
"""Who is asking can be said in either way (see `shared.SECURITY`)."""
_LANGUAGES = {"curl": ("Shell", "curl"), "python": ("Python", "Python"), "javascript": ("JavaScript", "JavaScript")}


class Rules(NamedTuple):
    """What the REST wire takes and answers, by its own rules: media types, the usual one first."""

    takes: Callable[[Arguments], Sequence[str]]
    offers: Callable[[OperationContract], Sequence[str]]


class Audience(NamedTuple):
    """Whom a document is for. Both are asked ``(action, name)``.

    ``may``: what the reader may do, and so sees. ``anyone``: what may be done without an API key; None: everything, as
    there are no keys.
    """

    may: May
    anyone: May | None = None


class Draft:
    def __init__(self, schemas: Schemas, rules: Rules, audience: Audience, base: str) -> None:
        self.schemas = schemas
        self.rules = rules
        self.audience = audience
        self.base = base
        self.paths: dict[str, Json] = {}
        self.tags: dict[str, str] = {}
        self._used: set[str] = set()
        self._headers: set[str] = set()
        self._own: set[str] = set()
        self._ids: set[str] = set()
        # A type of the application keeps its name; the hub's own schema of that name has another.
        self._own_names = {name: _free(name, schemas.definitions) for name in SCHEMAS}

    def may(self, action: str, name: str) -> bool:
        return self.audience.may(action, name)

    # --- schemas -------------------------------------------------------------------------------------------------

    def schema(self, type: Type) -> Json:
        self.use(references(type))
        return self.schemas.of(type)

    def use(self, names: Iterable[str]) -> None:
        """These named types are referred to."""
        self._used.update(names)

    def own(self, name: str) -> Json:
        """A reference to a schema of `shared.SCHEMAS`."""
        self._own.add(name)
        return {"$ref": COMPONENTS + self._own_names[name]}

    def header(self, name: str) -> Json:
        """A reference to a parameter of `shared.HEADERS`."""
        self._headers.add(name)
        return {"$ref": f"#/components/parameters/{name}"}

    # --- operations ----------------------------------------------------------------------------------------------

    def id(self, wanted: str) -> str:
        """``wanted``, or with a number where that is taken."""
        found = _free(wanted, self._ids)
        self._ids.add(found)
        return found

    def needs_key(self, action: str, name: str) -> bool:
        """Whether this permission is not for everybody."""
        return self.audience.anyone is not None and not self.audience.anyone(action, name)

    def add(self, path: str, method: str, operation: Json, sample: Sample, *, needs_key: bool) -> None:
        if self.audience.anyone is not None and not needs_key:
            operation["security"] = [{}, *KEYS]
        made = snippets(sample._replace(key=needs_key))
        operation["x-codeSamples"] = [
            {"lang": lang, "label": label, "source": made[name]} for name, (lang, label) in _LANGUAGES.items()
        ]
        self.paths.setdefault(path, {})[method.lower()] = operation

    # --- what all that refers to ---------------------------------------------------------------------------------

    def components(self, security: Json) -> Json:
        problem = self.own("Problem")["$ref"]
        schemas = self.schemas.components(self._used)
        own = self._with_parts(self._own)
        schemas |= {self._own_names[name]: self._placed(SCHEMAS[name]) for name in SCHEMAS if name in own}
        return {
            "schemas": schemas,
            "parameters": {name: header for name, header in HEADERS.items() if name in self._headers},
            "responses": problem_responses(problem) if self.paths else {},
            "securitySchemes": security,
        }

    def _with_parts(self, names: set[str]) -> set[str]:
        """And those that these refer to."""
        found, waiting = set[str](), list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(_named_in(SCHEMAS[name]))
        return found

    def _placed(self, schema: Any) -> Any:
        """With references by the names that the hub's own schemas have here."""
        if isinstance(schema, dict):
            if isinstance(schema.get("$ref"), str):
                return {"$ref": COMPONENTS + self._own_names[schema["$ref"]]}
            return {key: self._placed(value) for key, value in schema.items()}
        return [self._placed(one) for one in schema] if isinstance(schema, list) else schema


def _named_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from _named_in(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from _named_in(one)


def _free(name: str, taken: Iterable[str]) -> str:
    known = set(taken)
    found, number = name, 2
    while found in known:
        found, number = f"{name}{number}", number + 1
    return found
