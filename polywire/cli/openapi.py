"""``polywire openapi``."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import click

from polywire.cli.client import Client, hub_options, path

__all__ = ["openapi"]


@click.command()
@click.argument("application", required=False)
@hub_options
def openapi(client: Client, application: str | None) -> None:
    """Print the OpenAPI document of an APPLICATION, as app.py or module:hub, without serving it.

    It is all of the contract, as of a hub without API keys at --url. Without an APPLICATION: what the running hub shows
    you.
    """
    document = client.get(path("openapi.json")) if application is None else _described(application, client.url)
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _described(application: str, url: str) -> Any:
    """Raises `Failure` for what cannot be loaded, and for an operation that no protocol can call."""
    from polywire.cli.application import load_application
    from polywire.cli.failures import Failure
    from polywire.documents.draft import Audience
    from polywire.documents.openapi import openapi
    from polywire.documents.schemas import Schemas
    from polywire.documents.topics import ANY_TOPIC
    from polywire.wires.rest.documents import RULES

    with contextlib.redirect_stdout(sys.stderr):  # what the application prints is no part of the document
        hub = load_application(application)
    try:
        contract = hub.describe()
    except TypeError as error:
        raise Failure(str(error)) from error
    audience = Audience(lambda _, name: name != ANY_TOPIC or not hub.strict)
    return openapi(contract, Schemas(contract), rules=RULES, audience=audience, base=url)
