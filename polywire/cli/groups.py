"""Groups that list when they are called alone: ``polywire topics --json`` is ``polywire topics list --json``."""

from __future__ import annotations

import click

__all__ = ["ListingGroup"]

_OF_THE_GROUP = {"-h", "--help"}


class ListingGroup(click.Group):
    """Its command ``list`` is the default: it gets what begins with an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in _OF_THE_GROUP):
            args = ["list", *args]
        return super().parse_args(ctx, args)
