"""``polywire redrive``."""

from __future__ import annotations

import click

from polywire.cli.client import Client, hub_options, json_option, path
from polywire.cli.output import note, show_json

__all__ = ["redrive"]


@click.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The oldest N. Default: all.")
@click.option("--seq", "seqs", type=int, multiple=True, metavar="SEQ", help="Only these, as dead-letters lists them.")
@json_option
@hub_options
def redrive(client: Client, name: str, limit: int | None, seqs: tuple[int, ...], *, as_json: bool) -> None:
    """Put the dead letters of subscription NAME back, to be delivered again."""
    answer = client.post(path("subscriptions", name, "redrive"), {"limit": limit, "seqs": list(seqs) or None})
    if as_json:
        show_json(answer)
    else:
        note(f"{answer['redriven']} messages redriven to {name}")
