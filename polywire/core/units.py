"""What a setting is counted in: marks on the fields of settings structs, and sizes as people write them.

    class SseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        heartbeat: Annotated[int, milliseconds("a quiet stream gets a comment this often")] = 15_000

Command line, environment and the reference in the documentation are derived from these marks.
"""

from __future__ import annotations

import re

from msgspec import Meta

from polywire.core.errors import Invalid

__all__ = ["count", "format_size", "milliseconds", "parse_size", "seconds", "size", "text", "texts"]

_SIZES = {"b": 1}
_SIZES |= {f"{letter}b": 1_000**power for power, letter in enumerate("kmgt", 1)}
_SIZES |= {f"{letter}ib": 1_024**power for power, letter in enumerate("kmgt", 1)}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmgt]?i?b)?", re.IGNORECASE)


def count(description: str) -> Meta:
    return Meta(ge=0, description=description)


def milliseconds(description: str) -> Meta:
    return Meta(ge=0, description=description, extra={"unit": "ms"})


def seconds(description: str) -> Meta:
    return Meta(ge=0, description=description, extra={"unit": "s"})


def size(description: str) -> Meta:
    return Meta(ge=0, description=description, extra={"unit": "bytes"})


def text(description: str) -> Meta:
    return Meta(description=description)


def texts(description: str) -> Meta:
    return Meta(description=description, extra={"unit": "list"})


def parse_size(text: str) -> int:
    """Bytes: ``64MiB``, ``1.5GB``, ``300 kB``, or a plain number of them. Raises `Invalid`."""
    match = _SIZE.fullmatch(text.strip())
    unit = _SIZES.get((match[2] or "b").lower()) if match else None
    if match is None or unit is None:
        raise Invalid(f"not a size: {text[:64]!r}", hint="write 64KiB, 10MiB, 1GiB, 500MB, or a number of bytes")
    return round(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def format_size(size: int) -> str:
    """The shortest exact text: ``67108864`` is ``64MiB``, ``1000`` is ``1000B``."""
    for letter in ("Ti", "Gi", "Mi", "Ki"):
        whole, rest = divmod(size, _SIZES[f"{letter}b".lower()])
        if whole and not rest:
            return f"{whole}{letter}B"
    return f"{size}B"
