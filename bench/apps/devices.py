"""The hub that devices talk to: topics are made as clients name them, durable, beside one in memory."""

from __future__ import annotations

from polywire import Hub

hub = Hub("bench", strict=False)
memory = hub.topic("memory", durability="memory")
