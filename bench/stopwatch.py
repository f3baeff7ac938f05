"""Where the time of one thread goes, by stages: sets of methods, each with what it takes without the other stages."""

from __future__ import annotations

import functools
import inspect
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from typing import Any

__all__ = ["REST", "Stopwatch"]

REST = "event loop, waiting"


class Stopwatch:
    """A method that is wrapped costs half a microsecond more at each call: wrap what is called for batches."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)  # seconds
        self.calls: Counter[str] = Counter()
        self._open: list[str] = []
        self._stage = REST
        self._since = time.perf_counter()

    def restart(self) -> None:
        self.spent.clear()
        self.calls.clear()
        self._since = time.perf_counter()

    def wrap(self, stage: str, owner: type, *names: str) -> None:
        """Methods of ``owner`` from now on. Those that are generators count while they run. Raises AttributeError."""
        for name in names:
            method = getattr(owner, name)
            wrapped = self._generator if inspect.isgeneratorfunction(method) else self._function
            setattr(owner, name, wrapped(stage, method))

    def enter(self, stage: str) -> None:
        self._open.append(self._stage)
        self._turn_to(stage)
        self.calls[stage] += 1

    def leave(self) -> None:
        self._turn_to(self._open.pop())

    def _turn_to(self, stage: str) -> None:
        now = time.perf_counter()
        self.spent[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def _function(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            self.enter(stage)
            try:
                return method(*arguments, **named)
            finally:
                self.leave()

        return timed

    def _generator(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **named: Any) -> Generator[Any, None, Any]:
            steps = method(*arguments, **named)
            while True:
                self.enter(stage)
                try:
                    step = next(steps)
                except StopIteration as end:
                    return end.value
                finally:
                    self.leave()
                yield step

        return timed
