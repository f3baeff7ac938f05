"""WebSockets: raw, where a frame is a message of the topic in the path, and JSON-RPC 2.0. See README.md."""

from polywire.wires.websocket.jsonrpc.server import JsonRpc
from polywire.wires.websocket.server import RawWebSockets
from polywire.wires.websocket.settings import JsonRpcSettings

__all__ = ["JsonRpc", "JsonRpcSettings", "RawWebSockets"]
