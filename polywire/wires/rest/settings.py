"""What can be set about the REST wire. Sizes are bytes, times milliseconds."""

from __future__ import annotations

from typing import Annotated

import msgspec

from polywire.core.units import count, milliseconds, size

__all__ = ["RestSettings"]


class RestSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    longest_wait: Annotated[
        int, milliseconds("how long a long poll or a pull may wait for a message; longer wishes are cut to this")
    ] = 60_000
    page: Annotated[int, count("most messages in one answer")] = 1_000
    page_size: Annotated[int, size("payload after which a page ends")] = 1 << 20
    body_timeout: Annotated[
        int, milliseconds("how long a request's body may take; a long body has more, by its length")
    ] = 30_000
    control_size: Annotated[int, size("of a JSON body that is not a message: settings, tokens")] = 1 << 20
