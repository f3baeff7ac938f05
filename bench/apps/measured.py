"""The application that is measured: a typed topic, and untyped ones for WebSockets."""

from __future__ import annotations

from dataclasses import dataclass

from polywire import Hub

hub = Hub("bench")


@dataclass
class Reading:
    sensor: str
    celsius: float
    at: str


readings = hub.topic("readings", Reading)
durable = hub.topic("durable")
memory = hub.topic("memory", durability="memory")
