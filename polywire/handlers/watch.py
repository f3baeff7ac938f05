"""Naming handlers that block the event loop, instead of wondering why everything is slow."""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine, Generator
from typing import Any

__all__ = ["Watch"]

_logger = logging.getLogger("polywire.handlers")
_BLOCKING = 0.1  # seconds between two awaits that are worth a warning
_AGAIN = 60.0  # seconds until the same handler is named again


class Watch:
    """Warns, at most once a minute, when a handler keeps the loop for long between two awaits."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._warned = -_AGAIN

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> _Watched:
        """To be awaited in place of the coroutine."""
        return _Watched(coroutine, self)

    def took(self, seconds: float) -> None:
        now = time.monotonic()
        if seconds > _BLOCKING and now - self._warned >= _AGAIN:
            self._warned = now
            _logger.warning(
                "handler %s held the event loop for %.0f ms; make it a plain def (it runs in a thread), "
                "or await what it waits for",
                self._name,
                seconds * 1000,
            )


class _Watched:
    __slots__ = ("_coroutine", "_watch")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], watch: Watch) -> None:
        self._coroutine = coroutine
        self._watch = watch

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
                self._watch.took(time.perf_counter() - begun)
            try:
                value = yield awaited
                send = coroutine.send
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine, whatever it is
                value = error
                send = coroutine.throw
