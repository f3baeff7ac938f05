"""A contract as OpenAPI 3.1: what its reader may call, publish and read over REST."""

from __future__ import annotations

from polywire.contract.contract import Contract
from polywire.documents.draft import KEYS, Audience, Draft, Json, Rules
from polywire.documents.jobs import add_jobs
from polywire.documents.operations import CALL, add_operation
from polywire.documents.schemas import Schemas
from polywire.documents.shared import SECURITY
from polywire.documents.topics import add_any_topic, add_topic

__all__ = ["NO_VERSION", "openapi"]

NO_VERSION = "0.0.0"
"""Of an application that says none: the document must have one."""


def openapi(contract: Contract, schemas: Schemas, *, rules: Rules, audience: Audience, base: str) -> Json:
    """The document. ``schemas`` are of ``contract``; ``base`` is the URL of the hub, without a slash at its end.

    The same arguments give the same document, in the same order.
    """
    draft = Draft(schemas, rules, audience, base)
    for operation in contract.operations:
        if draft.may(CALL, operation.name):
            add_operation(draft, operation)
    add_jobs(draft, [one for one in contract.operations if draft.may(CALL, one.name) and not one.streams])
    for topic in contract.topics:
        add_topic(draft, topic)
    add_any_topic(draft)
    document: Json = {"openapi": "3.1.0", "info": _info(contract), "servers": [{"url": base}]}
    if audience.anyone is not None:
        document["security"] = KEYS
    document["tags"] = [{"name": name, **({"description": text} if text else {})} for name, text in draft.tags.items()]
    document["paths"] = draft.paths
    document["components"] = draft.components(SECURITY)
    return document


def _info(contract: Contract) -> Json:
    info = {"title": contract.name, "version": contract.version or NO_VERSION}
    return {**info, "description": contract.description} if contract.description else info
