"""A file: bytes with a name and a type."""

from __future__ import annotations

import msgspec

__all__ = ["File"]


class File(msgspec.Struct, frozen=True):
    """As an operation takes it from a part of a form, and as it may answer. In JSON ``content`` is base64."""

    content: bytes
    name: str | None = None
    content_type: str = "application/octet-stream"
