"""What a run is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["Run"]


class Run(NamedTuple):
    """``folder`` is on the disk that is measured; ``messages`` is how many the memory bench stores."""

    repeat: int
    seconds: float
    messages: int
    folder: Path

    def place(self, name: str) -> Path:
        """A path of this name that nothing is at yet."""
        number = 0
        while (path := self.folder / f"{name}-{number}").exists() or path.with_suffix(".log").exists():
            number += 1
        return path
