"""A FastAPI application with a hub on /hub. Run it: uvicorn app:app --timeout-graceful-shutdown 10"""

from dataclasses import dataclass

from fastapi import FastAPI

from polywire import Hub

hub = Hub("greenhouse")


@dataclass
class Reading:
    sensor: str
    celsius: float


@dataclass
class Alert:
    sensor: str
    text: str


readings = hub.topic("readings", Reading, key="sensor", latest=True)
alerts = hub.topic("alerts", Alert, key="sensor")


@hub.subscribe(readings, publish=alerts)
async def watch(reading: Reading) -> Alert | None:
    """A handler of the hub, in FastAPI's process."""
    return Alert(reading.sensor, f"{reading.celsius} °C") if reading.celsius > 40 else None


app = FastAPI(lifespan=hub.lifespan)
app.mount("/hub", hub.asgi())


@app.post("/measurements/{sensor}", status_code=201)
async def measure(sensor: str, celsius: float) -> dict[str, str]:
    """FastAPI's own route: it answers once the reading is stored, and whoever follows the topic hears of it."""
    receipt = await readings.publish(Reading(sensor, celsius))
    return {"position": str(receipt.position)}


@app.post("/imports", status_code=201)
def load(batch: list[Reading]) -> dict[str, int]:
    """A plain function, which FastAPI runs in a thread: there it is ``send``."""
    for reading in batch:
        readings.send(reading)
    return {"stored": len(batch)}
