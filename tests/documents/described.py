"""The documents of the application of application.py, as its hub would give them."""

from __future__ import annotations

from typing import Any

from polywire import Hub
from polywire.documents.draft import Audience
from polywire.documents.openapi import openapi
from polywire.documents.schemas import Schemas
from polywire.documents.topics import ANY_TOPIC
from polywire.wires.rest.documents import RULES

BASE = "http://hub.example"


def document(hub: Hub, *, audience: Audience | None = None, strict: bool = True) -> dict[str, Any]:
    contract = hub.describe()
    everything = Audience(lambda _, name: not strict or name != ANY_TOPIC)
    return openapi(contract, Schemas(contract), rules=RULES, audience=audience or everything, base=BASE)


def each_operation(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Path, method, operation."""
    return [(path, method, one) for path, item in document["paths"].items() for method, one in item.items()]


def resolved(document: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """What a reference within the document stands for."""
    found: Any = one
    while "$ref" in found:
        path, found = found["$ref"].removeprefix("#/").split("/"), document
        for part in path:
            found = found[part]
    return dict(found)
