"""A core on the embedded engine with a clock that tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from polywire.core.limits import Limits
from tests.core.harness import Rig

VARIANTS = {
    "tail, singly": (Limits(), 1),
    "tail, batches": (Limits(), 1_000),
    "no tail, singly": (Limits(tail_size=1), 1),
    "no tail, batches": (Limits(tail_size=1), 1_000),
}

Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """A function that starts cores, with limits, batch and folder of its own; all are stopped at the end."""
    rigs: list[Rig] = []

    async def making(limits: Limits | None = None, *, folder: str = "data", **settings: Any) -> Rig:
        rig = await Rig(tmp_path / folder, limits, **settings).start()
        rigs.append(rig)
        return rig

    yield making
    for rig in rigs:
        rig.engine.fault = None
        rig.engine.let_go()
        await rig.stop()


@pytest.fixture
async def rig(make: Make) -> Rig:
    return await make()


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
async def queue(make: Make, request: Any) -> Rig:
    """For tests of subscriptions: with and without a tail in memory, published singly and in batches."""
    limits, batch = request.param
    return await make(limits, batch=batch)
