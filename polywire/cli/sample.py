"""A message that a declared topic takes, or a request of an operation, made from its type: for the commands that people
are shown to try."""

from __future__ import annotations

from typing import Any

import msgspec

from polywire.contract.codec import Codec
from polywire.core.errors import PolywireError
from polywire.documents.examples import example_of

__all__ = ["sample_of"]


def sample_of(codec: Codec[Any]) -> str | None:
    """JSON on one line that is of the type, with words for texts and small numbers; None if none was found."""
    if codec.raw or codec.untyped:
        return '"hello"'
    example = example_of(codec.tree)
    try:
        codec.from_builtins(example)
    except PolywireError:  # checks of the type's own, which a guess does not meet
        return None
    return msgspec.json.encode(example).decode()
