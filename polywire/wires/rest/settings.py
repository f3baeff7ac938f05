"""What can be set about the REST wire. Sizes are bytes, times milliseconds."""

from __future__ import annotations

import msgspec

__all__ = ["RestSettings"]


class RestSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    longest_wait: int = 60_000
    """How long a long poll or a pull may wait for a message; longer wishes are cut to this."""
    page: int = 1_000
    """Most messages in one answer."""
    page_size: int = 1 << 20
    """Payload bytes after which a page ends."""
    body_timeout: int = 30_000
    """How long a request's body may take, and as much again for every `BODY_RATE` bytes a millisecond it may hold."""
    control_size: int = 1 << 20
    """Bytes of a JSON body that is not a message: settings, tokens."""
