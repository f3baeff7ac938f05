"""``polywire dead-letters``."""

from __future__ import annotations

import click

from polywire.cli.client import Client, hub_options, json_option, path
from polywire.cli.messages import show_pending
from polywire.cli.output import note

__all__ = ["dead_letters"]


@click.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True)
@click.option("--after", type=int, metavar="SEQ", help="Go on after this one.")
@click.option("--delete", "seq", type=int, metavar="SEQ", help="Delete this one instead of listing.")
@click.option("--purge", is_flag=True, help="Delete all of them instead of listing.")
@json_option
@hub_options
def dead_letters(
    client: Client, name: str, limit: int, after: int | None, seq: int | None, *, purge: bool, as_json: bool
) -> None:
    """What subscription NAME gave up, and why. `polywire redrive NAME` puts it back."""
    letters = path("subscriptions", name, "dead-letters")
    if purge and seq is not None:
        raise click.UsageError("--delete and --purge do not go together")
    if purge:
        note(f"{client.delete(letters)['purged']} dead letters of {name} deleted")
    elif seq is not None:
        client.delete(letters + path(str(seq)))
        note(f"dead letter {seq} of {name} deleted")
    else:
        found = client.get(letters, limit=limit, after=after)
        show_pending(found, as_json=as_json, empty=f"{name} has no dead letters")
