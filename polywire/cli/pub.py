"""``polywire pub``: publish one message, or a stream of JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from polywire.cli.client import Answer, Client, hub_options, path
from polywire.cli.failures import USAGE, Failure
from polywire.cli.output import note, show_json, write_line

__all__ = ["pub"]

JSON, TEXT, BYTES = "application/json", "text/plain; charset=utf-8", "application/octet-stream"
LINES = "application/x-ndjson"
BATCH_SIZE = 1 << 20
BATCH_LINES = 1_000


@click.command()
@click.argument("topic")
@click.argument("data", required=False)
@click.option("--key", metavar="KEY", help="Of the message, as kitchen.temp.")
@click.option(
    "--header", "-H", "headers", multiple=True, metavar="NAME=VALUE", help="A header of the message; repeatable."
)
@click.option("--content-type", metavar="TYPE", help="Default: JSON if it is that, else text, else bytes.")
@click.option("--delay", metavar="TIME", help="Hold it back: 30s, 10m, 1h.")
@click.option("--retain", is_flag=True, help="Keep it as the latest of its key. With empty DATA: forget that.")
@click.option("--id", "id", metavar="ID", help="Publish once: the same ID again is answered with the first receipt.")
@click.option("--lines", is_flag=True, help="DATA is JSON lines, a message each; they are sent as they come.")
@click.option("--json", "as_json", is_flag=True, help="Print receipts as JSON, one a line.")
@hub_options
def pub(client: Client, topic: str, data: str | None, **given: Any) -> None:
    """Publish DATA to TOPIC; returns when it is durable.

    DATA is the message itself, @FILE for a file's content, - for standard input (also without DATA, if that is not a
    terminal).
    """
    headers = _headers(given)
    if given["lines"]:
        _require_alone(given)
        _publish_lines(client, topic, data, headers, as_json=given["as_json"])
        return
    payload = _payload(data)
    headers["Content-Type"] = given["content_type"] or _content_type(payload)
    answer = client.request("POST", path("topics", topic), body=payload, headers=headers)
    if given["as_json"]:
        show_json(answer.body)
    else:
        note(_told(answer.json()))


def _headers(given: dict[str, Any]) -> dict[str, str]:
    headers = {}
    for text in given["headers"]:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
        headers[f"Polywire-Header-{name}"] = value
    for option, header in (("key", "Polywire-Key"), ("id", "Idempotency-Key"), ("delay", "Polywire-Delay")):
        if given[option] is not None:
            headers[header] = given[option]
    if given["retain"]:
        headers["Polywire-Retain"] = "true"
    return headers


def _require_alone(given: dict[str, Any]) -> None:
    for option in ("id", "content_type"):
        if given[option] is not None:
            raise click.UsageError(f"--lines and --{option.replace('_', '-')} do not go together")


def _told(receipt: dict[str, Any]) -> str:
    what = f"due {receipt['due']}" if receipt.get("due") else f"position {receipt['position']}"
    again = ", published before" if receipt.get("duplicate") else ""
    return f"published to {receipt['topic']}: {what}, id {receipt['id']}{again}"


# --- what is published -----------------------------------------------------------------------------------------------


def _payload(data: str | None) -> bytes:
    if data is not None and data != "-":
        return _file(data[1:]).read_bytes() if data.startswith("@") else os.fsencode(data)
    _require_stdin(data)
    return sys.stdin.buffer.read()


def _file(name: str) -> Path:
    file = Path(name)
    try:
        file.open("rb").close()
    except OSError as error:
        raise Failure(f"{name} cannot be read: {error.strerror}", exit_code=USAGE) from error
    return file


def _require_stdin(data: str | None) -> None:
    if data is None and sys.stdin.isatty():
        raise click.UsageError("DATA is missing: give it, or @FILE, or pipe it in")


def _content_type(payload: bytes) -> str:
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        pass
    else:
        return JSON
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return BYTES
    return TEXT if text else BYTES


# --- lines -----------------------------------------------------------------------------------------------------------


def _publish_lines(client: Client, topic: str, data: str | None, headers: dict[str, str], *, as_json: bool) -> None:
    """What has come is one batch, all or nothing; so a slow source's lines are not held back."""
    headers["Content-Type"] = LINES
    sent = 0
    for batch in _batches(data):
        try:
            answer = client.request("POST", path("topics", topic), body=b"\n".join(batch), headers=headers)
        except Failure as failure:
            raise Failure(f"messages {sent + 1} to {sent + len(batch)}: {failure}") from None
        sent += len(batch)
        if as_json:
            _show_receipts(answer)
    if not as_json:
        note(f"published {sent} messages to {topic}")


def _show_receipts(answer: Answer) -> None:
    for receipt in msgspec.json.decode(answer.body, type=dict[str, Any])["receipts"]:
        write_line(msgspec.json.encode(receipt))


def _batches(data: str | None) -> Iterator[list[bytes]]:
    """Lists of lines that are not blank. A batch ends where no more has come, at 1,000 lines or about 1 MiB."""
    lines: list[bytes] = []
    for chunk in _chunks(data):
        lines += [line for line in chunk.split(b"\n") if line.strip()]
        while lines:
            yield lines[:BATCH_LINES]
            del lines[:BATCH_LINES]


def _chunks(data: str | None) -> Iterator[bytes]:
    """Whole lines, as many as there are at once."""
    if data is not None and data != "-" and not data.startswith("@"):
        yield os.fsencode(data)
        return
    if data is not None and data.startswith("@"):
        source = os.open(_file(data[1:]), os.O_RDONLY)
    else:
        _require_stdin(data)
        source = sys.stdin.fileno()
    rest = b""
    while chunk := os.read(source, BATCH_SIZE):
        whole, newline, after = (rest + chunk).rpartition(b"\n")
        rest = after
        if newline:
            yield whole
    if rest:
        yield rest
