"""A greenhouse: sensors report, a handler raises alerts, people chat about it, and anyone may ask for Fahrenheit.

Run it with ``make run``, or ``polywire run examples/greenhouse/app.py``. Its sensors speak MQTT: sensor.py, sensor.mjs.
"""

from __future__ import annotations

from dataclasses import dataclass

from polywire import Hub, Retry

hub = Hub("greenhouse")


@dataclass
class Reading:
    sensor: str
    celsius: float


@dataclass
class Alert:
    sensor: str
    text: str


readings = hub.topic("readings", Reading, key="sensor", retention="7d", latest=True)
alerts = hub.topic("alerts", Alert, key="sensor")
chat = hub.topic("chat")


@hub.subscribe(readings, publish=alerts, retry=Retry(attempts=5))
async def watch(reading: Reading) -> Alert | None:
    """Raise an alert when a sensor is too hot."""
    if reading.celsius > 40:
        return Alert(reading.sensor, f"{reading.celsius} °C")
    return None


@hub.operation(safe=True)
def fahrenheit(celsius: float) -> float:
    """Convert degrees Celsius to degrees Fahrenheit."""
    return celsius * 9 / 5 + 32
