"""MQTT 3.1, 3.1.1 and 5, on TCP, TLS and WebSocket. See README.md."""

from polywire.wires.mqtt.server import Mqtt
from polywire.wires.mqtt.settings import MqttSettings

__all__ = ["Mqtt", "MqttSettings"]
