"""Hostile bytes, for every reader of a format: only the documented errors come of them, soon, and nothing grows."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from polywire.core.errors import Invalid, PolywireError, TooLarge, Unsupported

MIB = 1 << 20
EXPECTED = (Invalid, TooLarge, Unsupported)
_CUTS = st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=6))


def survives(read: Callable[[], Any]) -> None:
    """Reads, or raises what is documented, with a text."""
    try:
        read()
    except EXPECTED as error:
        raised: PolywireError = error
    else:
        return
    assert raised.detail
    assert len(raised.fields) <= 100


def prefixes(body: bytes) -> Iterator[bytes]:
    return (body[:length] for length in range(len(body)))


@st.composite
def mutations(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    """A body with pieces cut out, put in, repeated."""
    body = draw(bodies)
    for place, cut, put in draw(st.lists(_CUTS, min_size=1, max_size=4)):
        start = int(place * len(body))
        body = body[:start] + put + body[start + cut :]
    if draw(st.booleans()):
        start = draw(st.integers(0, len(body)))
        body = body[:start] + body[draw(st.integers(0, len(body))) :]
    return body


def refusal(read: Callable[[], Any], *, memory: int, seconds: float = 10.0) -> PolywireError:
    """What was raised, within this much more memory (bytes) and time."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        read()
    except EXPECTED as error:
        found: PolywireError = error
    else:
        raise AssertionError("it was taken")
    finally:
        took = time.perf_counter() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < memory, f"{peak >> 10} KiB"
    assert took < seconds, f"{took:.1f} s"
    return found
