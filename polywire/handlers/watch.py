"""Naming handlers that block the event loop, instead of wondering why everything is slow."""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine, Generator
from typing import Any

__all__ = ["Watched"]

_logger = logging.getLogger("polywire.handlers")
_BLOCKING = 0.1  # seconds between two awaits that are worth a warning
_warned: dict[str, float] = {}
_AGAIN = 60.0  # seconds until the same handler is named again


class Watched:
    """Awaits a coroutine and warns, at most once a minute, when it keeps the loop for long between two awaits."""

    __slots__ = ("_coroutine", "_name")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self._coroutine = coroutine
        self._name = name

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        send: Any = coroutine.send
        value: Any = None
        while True:
            begun = time.perf_counter()
            try:
                awaited = send(value)
            except StopIteration as stop:
                return stop.value
            finally:
                taken = time.perf_counter() - begun
                if taken > _BLOCKING:
                    _warn(self._name, taken)
            try:
                value = yield awaited
                send = coroutine.send
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine, whatever it is
                value = error
                send = coroutine.throw


def _warn(name: str, taken: float) -> None:
    now = time.monotonic()
    if now - _warned.get(name, -_AGAIN) >= _AGAIN:
        _warned[name] = now
        _logger.warning(
            "handler %s held the event loop for %.0f ms; make it a plain def (it runs in a thread) or await what it waits for",
            name, taken * 1000,
        )  # fmt: skip
