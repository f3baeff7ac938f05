"""How a command fails: one line on stderr, the last one, and an exit code."""

from __future__ import annotations

import sys

from polywire.core.errors import PolywireError

__all__ = ["FAULT", "USAGE", "Failure", "failure_of", "show_failure"]

FAULT = 1
"""The hub refused, could not be reached, or something broke."""
USAGE = 2
"""Usage, port, settings, data folder: the same command will not do better."""


class Failure(Exception):
    """Ends the command. ``hint`` says what to do about it."""

    def __init__(self, detail: str, *, hint: str | None = None, exit_code: int = FAULT) -> None:
        super().__init__(f"{detail} ({hint})" if hint else detail)
        self.exit_code = exit_code


def failure_of(error: PolywireError, exit_code: int = FAULT) -> Failure:
    """The error tree's words. A detail that already names the wrong field is not repeated."""
    others = [f"{field.path}: {field.message}" for field in error.fields if field.message not in error.detail]
    return Failure("; ".join([error.detail, *others[:5]]), hint=error.hint, exit_code=exit_code)


def show_failure(text: str) -> None:
    """One line, whatever a peer put into the text: it is read by scripts, and by terminals."""
    line = "".join(char if char.isprintable() else " " for char in text)
    print(f"error: {line}", file=sys.stderr, flush=True)
