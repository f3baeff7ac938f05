"""``polywire sub``: follow a topic.

It reads pages with a long poll and keeps the cursor after what it has written: a connection that is lost costs nothing,
whatever was on its way is asked for again.
"""

from __future__ import annotations

import base64
import sys
import time
from typing import Any

import click
import msgspec

from polywire.cli.client import Client, Refused, Unreachable, hub_options, path
from polywire.cli.failures import Failure
from polywire.cli.output import note

__all__ = ["sub"]

WAIT = "25s"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries to come back."""
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)


class _Shown(msgspec.Struct):
    """What is needed of a message; ``data`` stays as it was published."""

    content_type: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: str | None = None

    @property
    def is_text(self) -> bool:
        """A JSON string and a text look alike in an envelope; the content type tells them apart. Where there is none
        (MQTT 3.1.1 has none), only objects and arrays are taken for JSON."""
        if self.content_type is None:
            return bytes(self.data)[:1] == b'"'
        return self.content_type.partition(";")[0].strip().lower().startswith("text/")


class _Page(msgspec.Struct):
    messages: list[msgspec.Raw]
    next: str


@click.command()
@click.argument("topic")
@click.option(
    "--from", "start", default="latest", metavar="PLACE", help="earliest, latest (default), a time, a cursor."
)
@click.option("--key", metavar="PATTERN", help="Only keys like this: kitchen.*, kitchen.#.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after so many messages.")
@click.option("--json", "as_json", is_flag=True, help="Whole messages, one JSON object a line.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing on stderr but the reason of a failure.")
@hub_options
def sub(
    client: Client, topic: str, start: str, key: str | None, count: int | None, *, as_json: bool, quiet: bool
) -> None:
    """Write the messages of TOPIC as they come, one a line. Ctrl-C ends it.

    A lost connection is made again, and the topic followed on from where it was: nothing is missed and nothing comes
    twice.
    """
    following = _Following(client, topic, start, key, count, as_json=as_json, quiet=quiet)
    try:
        following.run()
    except KeyboardInterrupt:
        return


class _Following:
    def __init__(
        self, client: Client, topic: str, start: str, key: str | None, left: int | None, *, as_json: bool, quiet: bool
    ) -> None:
        self._client = client
        self._topic = topic
        self._start = start
        self._key = key
        self._left = left
        self._as_json = as_json
        self._quiet = quiet
        self._lost = False

    def run(self) -> None:
        """Where it stands is known from the first answer on, so that one is not waited for."""
        self._read("0s")
        self._say(f"following {self._topic}; Ctrl-C ends it")
        pause = FIRST_PAUSE
        while self._left is None or self._left > 0:
            try:
                self._read(WAIT)
                pause = FIRST_PAUSE
            except Unreachable as lost:
                self._lose(str(lost))
            except Refused as refused:
                if refused.status not in _TRY_AGAIN:
                    self._recover(refused)
                    continue
                self._lose(str(refused))
            if self._lost:
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _read(self, wait: str) -> None:
        # A page that is longer than what is still wanted would be read for nothing.
        limit = min(self._left or 1_000, 1_000)
        answer = self._client.request(
            "GET",
            path("topics", self._topic),
            query={"from": self._start, "limit": limit, "wait": wait, "key": self._key},
        )
        try:
            page = msgspec.json.decode(answer.body, type=_Page)
        except msgspec.DecodeError:
            raise Failure("what answered is not a hub", hint="check --url") from None
        if self._lost:
            self._lost = False
            self._say("connected again")
        for raw in page.messages:
            self._write(bytes(raw))
        sys.stdout.buffer.flush()
        self._start = page.next
        if self._left is not None:
            self._left -= len(page.messages)

    def _write(self, raw: bytes) -> None:
        sys.stdout.buffer.write((_one_line(raw) if self._as_json else _payload(raw)) + b"\n")

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = True
            self._say(f"{why}; trying again")

    def _recover(self, refused: Refused) -> None:
        """A cursor that is of no use any more: say what is missed, go on with the oldest there is. Raises others."""
        problem: Any = refused.problem
        if problem.get("code") != "stale_cursor":
            raise refused
        self._say(f"messages are missing: {problem.get('detail')}; going on with the oldest there is")
        self._start = problem["newest"] if problem.get("reason") == "ahead" else problem["oldest"]

    def _say(self, text: str) -> None:
        if not self._quiet:
            note(text)


def _payload(raw: bytes) -> bytes:
    """JSON on one line, text and bytes as they are."""
    shown = msgspec.json.decode(raw, type=_Shown)
    if shown.data_base64 is not None:
        return base64.b64decode(shown.data_base64)
    if shown.is_text:
        return msgspec.json.decode(shown.data, type=str).encode("utf-8", "surrogatepass")
    return _one_line(bytes(shown.data))


def _one_line(data: bytes) -> bytes:
    return msgspec.json.format(data, indent=-1) if b"\n" in data or b"\r" in data else data
