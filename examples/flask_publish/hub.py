"""The hub that the shop publishes to. Run it: polywire run hub.py"""

from dataclasses import dataclass

from polywire import Hub

hub = Hub("shop")


@dataclass
class Order:
    number: str
    cents: int


orders = hub.topic("orders", Order, key="number")
