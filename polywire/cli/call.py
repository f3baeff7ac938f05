"""``polywire call``: call an operation.

``name=value`` arguments are sent as a form: the hub reads each value by the type that the operation declares. So ``1``
is a number to one operation and a text to another, and nothing is guessed here.
"""

from __future__ import annotations

import mimetypes
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import click
import msgspec

from polywire.cli.client import Client, Refused, Reply, hub_options, path, problem
from polywire.cli.failures import USAGE, Failure, failure_of
from polywire.cli.output import note, write_line
from polywire.core.durations import parse_duration
from polywire.core.errors import Invalid

__all__ = ["call"]

JSON, EVENTS, OCTETS = "application/json", "text/event-stream", "application/octet-stream"
FORM = "application/x-www-form-urlencoded"
AS_IT_IS, AS_JSON = f"{EVENTS}, */*;q=0.5", f"{EVENTS}, {JSON}"
"""What is accepted. Items come as events, which tell an error, and the end, from an item."""
ACCEPTED, FAILED = 202, 500
GRACE = 10
"""Seconds that an answer may come after the time the call was given."""


class Body(NamedTuple):
    payload: bytes | None
    content_type: str | None


@click.command()
@click.argument("operation")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--content-type", metavar="TYPE", help="Of a whole request. Default: application/json.")
@click.option("--timeout", metavar="TIME", help="How long it may take: 5s, 10m.")
@click.option("--async", "later", is_flag=True, help="Do not wait: it runs as a job, which is printed.")
@click.option("--delay", metavar="TIME", help="The job begins in 10m, 1h.")
@click.option("--id", "id", metavar="ID", help="Call once: the same ID again is answered with the first result.")
@click.option("--json", "as_json", is_flag=True, help="Texts and bytes are printed as JSON, too.")
@hub_options
def call(client: Client, operation: str, arguments: tuple[str, ...], *, as_json: bool, **given: Any) -> None:
    """Call OPERATION and print its result: JSON on one line, text and bytes as they are.

    VALUE is a number, a text, true or false, as the operation wants it; JSON for lists and objects; @FILE for a file's
    content (@@ for a text that begins with @). A NAME may be repeated for a list. In place of all of them the whole
    request may be given: JSON as '{"a": 1}', @FILE, or - for standard input.

    An operation that streams prints an item a line, as they come. `polywire operations` lists what can be called.
    """
    body = _body(arguments, given["content_type"])
    headers = {"Accept": AS_JSON if as_json else AS_IT_IS, **_headers(given)}
    if body.content_type is not None:
        headers["Content-Type"] = body.content_type
    timeout = given["timeout"]
    client.wait_for(None if timeout is None else _seconds(timeout) + GRACE)
    try:
        with client.open("POST", path("operations", operation), body=body.payload, headers=headers) as reply:
            _show(reply, as_json=as_json)
            if reply.status == ACCEPTED:
                note("it runs as a job: GET /jobs/ID tells how it stands, DELETE cancels it")
    except Refused as refused:
        _show_fields(refused)
        raise


def _headers(given: dict[str, Any]) -> dict[str, str]:
    headers = {}
    options = (("timeout", "Polywire-Timeout"), ("delay", "Polywire-Delay"), ("id", "Idempotency-Key"))
    for option, header in options:
        if given[option] is not None:
            headers[header] = given[option]
    if given["later"] or given["delay"] is not None:
        if given["timeout"] is not None:
            raise click.UsageError("nobody waits for a job: leave out --timeout")
        headers["Prefer"] = "respond-async"
    return headers


def _seconds(timeout: str) -> float:
    try:
        return parse_duration(timeout) / 1_000
    except Invalid as error:
        raise failure_of(error, USAGE) from None


# --- the answer ------------------------------------------------------------------------------------------------------


def _show(reply: Reply, *, as_json: bool) -> None:
    if reply.content_type == EVENTS:
        for item in _items(reply):
            _show_json(item, as_json=as_json)
        return
    answer = reply.read()
    if reply.content_type == JSON:
        _show_json(answer, as_json=as_json)
    else:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _items(reply: Reply) -> Iterator[bytes]:
    """Until the event that says it was the last. Raises `Refused` for what the operation raised meanwhile."""
    event = b""
    for line in reply.lines():
        name, _, value = line.partition(b": ")
        if name == b"event":
            event = value
        elif name == b"data" and event == b"error":
            raise Refused(FAILED, problem(value))
        elif name == b"data" and event == b"end":
            return
        elif name == b"data":
            yield value
    raise Failure("the answer broke off before its end", hint="the hub may have stopped")


def _show_json(value: bytes, *, as_json: bool) -> None:
    if value.startswith(b'"') and not as_json:
        with suppress(msgspec.DecodeError):
            value = msgspec.json.decode(value, type=str).encode("utf-8", "surrogatepass")
    write_line(value)


def _show_fields(refused: Refused) -> None:
    """All that is wrong, a line each: the reason in the last line names the first ones only."""
    errors = refused.problem.get("errors") or ()
    if len(errors) > 1:
        for error in errors:
            note(f"{error['path']}: {error['message']}")


# --- the request -----------------------------------------------------------------------------------------------------


def _body(arguments: Sequence[str], content_type: str | None) -> Body:
    if len(arguments) == 1 and (arguments[0] == "-" or arguments[0].startswith(("{", "@"))):
        return Body(_whole(arguments[0]), content_type or JSON)
    if content_type is not None:
        raise click.BadParameter("it is of a whole request, which is not given", param_hint="--content-type")
    pairs = [_pair(text) for text in arguments]
    if not pairs:
        return Body(None, None)
    if any(value.startswith("@") and not value.startswith("@@") for _, value in pairs):
        return _multipart(pairs)
    fields = (f"{quote_plus(os.fsencode(name))}={quote_plus(os.fsencode(_text(value)))}" for name, value in pairs)
    return Body("&".join(fields).encode(), FORM)


def _whole(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    return _content(text[1:]) if text.startswith("@") else os.fsencode(text)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name, value


def _text(value: str) -> str:
    return value[1:] if value.startswith("@@") else value


def _content(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        hint = "a text that begins with @ is written @@"
        raise Failure(f"{name} cannot be read: {error.strerror}", hint=hint, exit_code=USAGE) from error


def _multipart(pairs: Sequence[tuple[str, str]]) -> Body:
    """A form with files (RFC 7578)."""
    boundary = f"polywire-{secrets.token_hex(16)}"
    parts = [b"--%s\r\n%s" % (boundary.encode(), _part(name, value)) for name, value in pairs]
    parts.append(f"--{boundary}--\r\n".encode())
    return Body(b"".join(parts), f"multipart/form-data; boundary={boundary}")


def _part(name: str, value: str) -> bytes:
    if not value.startswith("@") or value.startswith("@@"):
        return b'Content-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (_quoted(name), os.fsencode(_text(value)))
    file = value[1:]
    content_type = mimetypes.guess_type(file)[0] or OCTETS
    head = b'Content-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: %s\r\n\r\n'
    return head % (_quoted(name), _quoted(Path(file).name), content_type.encode()) + _content(file) + b"\r\n"


def _quoted(name: str) -> bytes:
    """As browsers write names into a part's head (HTML Living Standard §4.10.21.8)."""
    escaped = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    return os.fsencode(escaped)
