"""``polywire operations``."""

from __future__ import annotations

import click

from polywire.cli.client import Client, hub_options, json_option, path
from polywire.cli.output import show_json, show_table

__all__ = ["operations"]


@click.command()
@json_option
@hub_options
def operations(client: Client, *, as_json: bool) -> None:
    """Every operation that you may call, with its own method and path. `polywire call NAME` calls one."""
    found = client.get(path("operations"))["operations"]
    if as_json:
        show_json(found)
        return
    rows = [(one["name"], one["method"], one["path"], one["safe"], one["streams"], one["summary"]) for one in found]
    columns = ("name", "method", "path", "safe", "streams", "summary")
    show_table(columns, rows, empty="there are no operations")
