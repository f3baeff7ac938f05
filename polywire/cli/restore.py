"""``polywire restore``."""

from __future__ import annotations

import click

from polywire.cli.failures import USAGE, failure_of
from polywire.cli.output import note

__all__ = ["restore"]


@click.command()
@click.argument("folder", metavar="BACKUP")
@click.option("--data", required=True, metavar="DIR", help="A new data folder.")
def restore(folder: str, data: str) -> None:
    """Make the data folder DIR from BACKUP, a folder that `polywire backup` made.

    Positions that were given after the backup are told as stale to whoever comes with them: the epochs are raised.
    """
    from polywire.core.errors import PolywireError
    from polywire.engines.sqlite import restore as put_back

    try:
        put_back(folder, data)
    except PolywireError as error:
        raise failure_of(error, USAGE) from error
    note(f"{folder} restored to {data}; serve it with: polywire run --data {data}")
