"""What happened so far, as plain integers: counting costs an addition, and who wants figures reads them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

__all__ = ["BUCKETS", "Counters", "OperationCounters", "WireCounters"]

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds, of the classes that durations are counted in; the last class has none."""


@dataclass(slots=True)
class WireCounters:
    """One wire since the hub started. ``connections`` is what is open now; the others only grow."""

    received: int = 0
    delivered: int = 0
    errors: int = 0
    connections: int = 0


@dataclass(slots=True)
class OperationCounters:
    """One operation since the hub started. ``running`` is what runs now; ``buckets`` counts durations by `BUCKETS`."""

    calls: int = 0
    errors: int = 0
    running: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    def ended(self, seconds: float, *, failed: bool) -> None:
        self.running -= 1
        self.calls += 1
        self.errors += failed
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1


@dataclass(slots=True)
class Counters:
    wires: dict[str, WireCounters] = field(default_factory=dict)

    def wire(self, name: str) -> WireCounters:
        """The counters of a wire, made on first use. A wire asks once and keeps them."""
        return self.wires.setdefault(name, WireCounters())
