"""What the crash test runs and kills: every reading gives one result, published in the commit that acknowledges it."""

from __future__ import annotations

from dataclasses import dataclass

from polywire import Hub, Retry

hub = Hub("crash")


@dataclass
class Reading:
    publisher: str
    number: int
    filler: str


@dataclass
class Result:
    publisher: str
    number: int


readings = hub.topic("readings", Reading, key="publisher")
results = hub.topic("results", Result, key="publisher")


@hub.subscribe(readings, publish=results, start="earliest", concurrency=4, retry=Retry(attempts=None))
async def copy(reading: Reading) -> Result:
    return Result(reading.publisher, reading.number)
