"""A sensor of the greenhouse, on MQTT with paho: it reports its temperature, and hears when that raised an alert.

With the hub of ``make run``, in a second terminal: ``.venv/bin/python examples/greenhouse/sensor.py kitchen``
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

import paho.mqtt.client as mqtt


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="kitchen")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument(
        "--celsius", type=float, default=39.0, help="the first temperature; later ones are near the last"
    )
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two readings")
    return parser.parse_args()


def on_connect(client: mqtt.Client, name: str, _flags: Any, reason_code: Any, _properties: Any) -> None:
    print(f"connected: {reason_code}", flush=True)
    client.subscribe(f"alerts/{name}", qos=1)


def on_message(_client: mqtt.Client, _name: str, message: mqtt.MQTTMessage) -> None:
    print(f"alert: {json.loads(message.payload)['text']}", flush=True)


def main() -> None:
    given = arguments()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"sensor-{given.name}", userdata=given.name)
    client.on_connect = on_connect
    client.on_message = on_message
    client.will_set("chat", f"{given.name} is gone", qos=1)  # said by the hub, if nothing is heard of the sensor
    client.connect(given.host, given.port)
    client.loop_start()
    try:
        report(client, given)
    except KeyboardInterrupt:
        client.disconnect()  # it says that it goes, so its will is not needed


def report(client: mqtt.Client, given: argparse.Namespace) -> None:
    celsius = given.celsius
    while True:
        reading = client.publish(f"readings/{given.name}", json.dumps({"celsius": round(celsius, 1)}), qos=1)
        reading.wait_for_publish()  # acknowledged: it is on the hub's disk
        celsius += random.uniform(-1, 1)  # noqa: S311 - weather
        time.sleep(given.every)


if __name__ == "__main__":
    main()
