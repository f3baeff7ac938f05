"""REST: topics, subscriptions and the hub itself over HTTP. See README.md for every route."""

from polywire.wires.rest.app import EventStreams, RestApp
from polywire.wires.rest.settings import RestSettings

__all__ = ["EventStreams", "RestApp", "RestSettings"]
