"""Hubs as a test suite starts them, one after the other: ``python -m bench.serving_tests``."""

from __future__ import annotations

import asyncio
import statistics
import time

import msgspec

began = time.perf_counter()
import polywire.testing  # noqa: E402 - the import is measured
from polywire import Hub  # noqa: E402

IMPORTED = time.perf_counter() - began
HUBS = 20


class Reading(msgspec.Struct):
    sensor: str
    celsius: float


def application() -> Hub:
    hub = Hub("test")
    readings = hub.topic("readings", Reading)

    @hub.subscribe(readings)
    async def watch(reading: Reading) -> None:
        pass

    return hub


async def main() -> None:
    starts, stops = [], []
    for _ in range(HUBS):
        before = time.perf_counter()
        async with polywire.testing.serve(application()):
            started = time.perf_counter()
        starts.append((started - before) * 1e3)
        stops.append((time.perf_counter() - started) * 1e3)
    figures = {
        "import ms": IMPORTED * 1e3,
        "first ms": starts[0],
        "next ms": statistics.median(starts[1:]),
        "stop ms": statistics.median(stops),
    }
    print(msgspec.json.encode(figures).decode(), flush=True)


asyncio.run(main())
