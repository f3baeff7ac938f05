"""The same operations as FastAPI's users write them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


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


@app.post("/check")
async def check(reading: Reading) -> Verdict:
    return Verdict(reading.celsius < 40, reading.sensor, reading.celsius)


@app.post("/check_model")
async def check_model(reading: ReadingModel) -> VerdictModel:
    return VerdictModel(ok=reading.celsius < 40, sensor=reading.sensor, celsius=reading.celsius)
