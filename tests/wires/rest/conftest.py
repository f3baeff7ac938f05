from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wires.http_hub import HttpHub, serving


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HttpHub]:
    with serving(tmp_path / "data") as hub:
        yield hub
