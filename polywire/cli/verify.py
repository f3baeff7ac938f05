"""``polywire verify``."""

from __future__ import annotations

import click

from polywire.cli.failures import USAGE, Failure, failure_of
from polywire.cli.output import show_json

__all__ = ["verify"]


@click.command()
@click.option("--data", required=True, metavar="DIR", help="The data folder of a stopped hub.")
def verify(data: str) -> None:
    """Check every page, row and checksum of a log, changing nothing; prints counts and errors as JSON.

    Exit codes: 0 whole, 1 damaged, 2 no log, or a hub has it open.
    """
    from polywire.core.errors import PolywireError
    from polywire.engines.sqlite import verify as check

    try:
        report = check(data)
    except PolywireError as error:
        raise failure_of(error, USAGE) from error
    show_json(report)
    if not report["ok"]:
        count = report["error_count"]
        raise Failure(
            f"{report['path']} is damaged: {report['errors'][0]}" + (f" (and {count - 1} more)" if count > 1 else "")
        )
