"""What happened so far, as plain integers: counting costs an addition, and who wants figures reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Counters", "WireCounters"]


@dataclass(slots=True)
class WireCounters:
    """One wire since the hub started. ``connections`` is what is open now; the others only grow."""

    received: int = 0
    delivered: int = 0
    errors: int = 0
    connections: int = 0


@dataclass(slots=True)
class Counters:
    wires: dict[str, WireCounters] = field(default_factory=dict)

    def wire(self, name: str) -> WireCounters:
        """The counters of a wire, made on first use. A wire asks once and keeps them."""
        return self.wires.setdefault(name, WireCounters())
