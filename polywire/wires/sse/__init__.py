"""Server-sent events: a browser's EventSource follows a topic. See README.md."""

from polywire.wires.sse.server import SseApp
from polywire.wires.sse.settings import SseSettings

__all__ = ["SseApp", "SseSettings"]
