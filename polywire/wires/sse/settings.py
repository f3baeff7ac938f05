"""What can be set about the SSE wire. Sizes are bytes, times milliseconds."""

from __future__ import annotations

from typing import Annotated

import msgspec

from polywire.core.units import milliseconds, size

__all__ = ["SseSettings"]


class SseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    heartbeat: Annotated[
        int,
        milliseconds("a quiet stream gets a comment this often, so that proxies keep it and a dead peer is noticed"),
    ] = 15_000
    retry: Annotated[int, milliseconds("how long a client is told to wait before it connects again")] = 2_000
    out_buffer: Annotated[
        int, size("what may wait for a slow client; above it the stream stands still, and goes on from the log")
    ] = 1 << 20
