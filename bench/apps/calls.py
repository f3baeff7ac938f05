"""The operations that are measured: the same work on a dataclass and on a pydantic model."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from polywire import Hub

hub = Hub("bench")


@dataclass
class Reading:
    sensor: str
    celsius: float
    at: str


@dataclass
class Verdict:
    ok: bool
    sensor: str
    celsius: float


class ReadingModel(BaseModel):
    sensor: str
    celsius: float
    at: str


class VerdictModel(BaseModel):
    ok: bool
    sensor: str
    celsius: float


@hub.operation
async def check(reading: Reading) -> Verdict:
    return Verdict(reading.celsius < 40, reading.sensor, reading.celsius)


@hub.operation
async def check_model(reading: ReadingModel) -> VerdictModel:
    return VerdictModel(ok=reading.celsius < 40, sensor=reading.sensor, celsius=reading.celsius)


@hub.post("/sensors/check")
async def check_sensor(sensor: str, celsius: float, at: str) -> Verdict:  # noqa: ARG001 - a field of the request
    return Verdict(celsius < 40, sensor, celsius)
