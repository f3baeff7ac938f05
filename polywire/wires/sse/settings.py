"""What can be set about the SSE wire. Sizes are bytes, times milliseconds."""

from __future__ import annotations

import msgspec

__all__ = ["SseSettings"]


class SseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    heartbeat: int = 15_000
    """A quiet stream gets a comment this often, so that proxies keep it and a dead peer is noticed."""
    retry: int = 2_000
    """How long a client is told to wait before it connects again."""
    out_buffer: int = 1 << 20
    """What may wait for a slow client; above it the stream stands still, and goes on from the log."""
