"""A reader of event streams that keeps to the letter of HTML §9.2.6, so that what the hub writes is read as a browser
would."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import requests

PATIENCE = 20.0
"""Seconds that a stream is read in one test; heartbeats do not count as signs of life."""


class Event(NamedTuple):
    type: str
    data: str
    id: str


class EventStream:
    """``next(stream)`` waits for the next dispatched event. ``last_id`` and ``retry`` are what a client would
    remember."""

    def __init__(self, url: str, **given: object) -> None:
        self._session = requests.Session()
        self._session.headers["Accept"] = "text/event-stream"
        self.response = self._session.get(url, stream=True, timeout=20, **given)  # type: ignore[arg-type]
        assert self.response.status_code == 200, self.response.text
        assert self.response.headers["Content-Type"] == "text/event-stream"
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._events = self._parse()

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __next__(self) -> Event:
        return next(self._events)

    def take(self, count: int) -> list[Event]:
        return [next(self) for _ in range(count)]

    def close(self) -> None:
        self.response.close()
        self._session.close()

    def _lines(self) -> Iterator[str]:
        """The hub writes LF only; a CR would be a line end too, and must not come from a payload."""
        rest = b""
        deadline = time.monotonic() + PATIENCE
        for chunk in self.response.iter_content(None):
            assert time.monotonic() < deadline, "nothing but heartbeats came"
            rest += chunk
            *lines, rest = rest.split(b"\n")
            for line in lines:
                assert b"\r" not in line
                yield line.decode()

    def _parse(self) -> Iterator[Event]:
        data: list[str] = []
        kind = ""
        for line in self._lines():
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if data:
                    yield Event(kind or "message", "\n".join(data), self.last_id)
                data, kind = [], ""
            elif line.startswith(":"):
                self.comments += 1
            elif field == "data":
                data.append(value)
            elif field == "event":
                kind = value
            elif field == "id":
                self.last_id = value
            elif field == "retry":
                self.retry = int(value)
