"""Raw WebSockets: a frame is a message of the topic in the path. See README.md."""

from polywire.wires.websocket.server import RawWebSockets

__all__ = ["RawWebSockets"]
