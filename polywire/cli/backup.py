"""``polywire backup``."""

from __future__ import annotations

from pathlib import Path

import click

from polywire.cli.client import Client, hub_options, json_option, path
from polywire.cli.output import note, show_json, size

__all__ = ["backup"]


@click.command()
@click.argument("folder")
@json_option
@hub_options
def backup(client: Client, folder: str, *, as_json: bool) -> None:
    """Copy the log of a running hub into a new FOLDER, consistently. The folder is on the hub's machine."""
    counts = client.post(path("backup"), {"folder": str(Path(folder).absolute())})
    if as_json:
        show_json(counts)
    else:
        note(f"{counts['messages']} messages copied to {counts['path']} ({size(counts['file_size'])})")
