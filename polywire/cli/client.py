"""The hub as the commands see it: HTTP requests, answered or failed."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import click

from polywire.cli.failures import USAGE, Failure

__all__ = ["Answer", "Client", "Refused", "Reply", "Unreachable", "hub_options", "json_option", "path", "problem"]

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT = 90.0
"""Seconds without a byte after which the hub is given up: longer than any long poll lasts."""
CHUNK = 1 << 16


class Answer(NamedTuple):
    status: int
    body: bytes

    def json(self) -> Any:
        """Raises `Failure` where it is not JSON: something else than a hub answered."""
        try:
            return json.loads(self.body, object_hook=_View)
        except (ValueError, RecursionError):
            raise Failure("what answered is not a hub: its answer is not JSON", hint="check --url") from None


class Reply:
    """An answer that is still coming in. Reading raises `Unreachable` where its connection breaks."""

    def __init__(self, url: str, response: http.client.HTTPResponse) -> None:
        self._url = url
        self._response = response
        self.status = response.status
        self.content_type = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()

    def read(self) -> bytes:
        """What is left of it."""
        with _losing(self._url):
            return self._response.read()

    def lines(self) -> Iterator[bytes]:
        """Each as soon as it is there, without its end; empty ones are left out."""
        rest = b""
        while chunk := self._some():
            *whole, rest = (rest + chunk).split(b"\n")
            yield from filter(None, whole)
        if rest:
            yield rest

    def _some(self) -> bytes:
        with _losing(self._url):
            return self._response.read1(CHUNK)


@contextmanager
def _losing(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(url, _reason(error), sent=True) from error


class _View(dict[str, Any]):
    """An object in an answer. What must be there and is not, is a failure and no `KeyError`."""

    def __missing__(self, name: str) -> Any:
        raise Failure(f"what answered is not a hub, or one of another version: no {name!r} in its answer")


class Refused(Failure):
    """The hub said no; ``problem`` is its problem+json (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        detail = str(problem.get("detail") or problem.get("title") or f"the answer was HTTP {status}")
        fields = [
            f"{field['path']}: {field['message']}"
            for field in problem.get("errors", ())
            if str(field.get("message")) not in detail
        ]
        super().__init__("; ".join([detail, *fields[:5]]), hint=_hint(status, problem))
        self.status = status
        self.problem = problem


def _hint(status: int, problem: Mapping[str, Any]) -> str | None:
    if status == 401:
        return "give an API key with --api-key or POLYWIRE_KEY"
    hint = problem.get("hint")
    return None if hint is None else str(hint)


class Unreachable(Failure):
    """No connection, or it broke before the answer came."""

    def __init__(self, url: str, reason: object, *, sent: bool, hint: str | None = None) -> None:
        usual = "it may have stopped" if sent else "start one with `polywire run`, or say where it is with --url"
        super().__init__(
            f"the hub at {url} {'did not answer' if sent else 'cannot be reached'}: {reason}", hint=hint or usual
        )
        self.sent = sent


class Client:
    """One kept-alive connection. ``cacert``: a file of the authorities to trust, with https; None: the system's.

    Raises `Failure` for a URL that cannot be one, and for such a file.
    """

    def __init__(self, url: str, key: str | None, *, cacert: str | None = None, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if parts.scheme not in ("http", "https") or not host:
            raise Failure(f"not the URL of a hub: {url!r}", hint=f"write it as {DEFAULT_URL}", exit_code=USAGE)
        self.url = url.rstrip("/")
        self._base = parts.path.rstrip("/")
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout, context=_trusting(cacert))
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout)
        )
        self._headers = {"Accept": "application/json", "User-Agent": "polywire-cli"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """``path`` is percent-encoded already (see `path`). Raises `Refused`, `Unreachable`, `Failure`."""
        with self.open(method, path, query=query, json=json, body=body, headers=headers) as reply:
            return Answer(reply.status, reply.read())

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Reply]:
        """As `request`, for an answer that is read as it comes. What is left unread costs the connection."""
        sent = {**self._headers, **(headers or {})}
        if json is not None:
            body, sent["Content-Type"] = _encoded(json), "application/json"
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        response = self._send(method, self._base + path + ("?" + urlencode(asked) if asked else ""), body, sent)
        reply = Reply(self.url, response)
        try:
            if reply.status >= 300:
                raise Refused(reply.status, problem(reply.read()))
            yield reply
        finally:
            if not response.isclosed():
                self._connection.close()

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        connection = self._connection
        fresh = connection.sock is None
        sent = False
        try:
            if fresh:
                connection.connect()
            sent = True
            connection.request(
                method, target, body=body, headers={name: _latin(text) for name, text in headers.items()}
            )
            return connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            connection.close()
            # An idle connection that the hub has closed meanwhile carried nothing: only a read may be asked again.
            if not fresh and method == "GET":
                return self._send(method, target, body, headers)
            raise Unreachable(self.url, _reason(error), sent=sent) from error
        except ssl.SSLCertVerificationError as error:
            connection.close()
            hint = "name the file of its authority with --cacert or POLYWIRE_CACERT"
            raise Unreachable(self.url, error.verify_message, sent=False, hint=hint) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(self.url, _reason(error), sent=sent) from error

    def wait_for(self, seconds: float | None) -> None:
        """Give the hub up after so many seconds without a byte, from the next connection on; None: never."""
        self._connection.timeout = seconds

    def get(self, path: str, **query: object) -> Any:
        return self.request("GET", path, query=query).json()

    def post(self, path: str, json: Any = None) -> Any:
        """The answer's JSON; None where there is none."""
        answer = self.request("POST", path, json={} if json is None else json)
        return answer.json() if answer.body else None

    def put(self, path: str, json: Any) -> Answer:
        return self.request("PUT", path, json=json)

    def delete(self, path: str) -> Any:
        answer = self.request("DELETE", path)
        return answer.json() if answer.body else None


def _trusting(cacert: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cacert)
    except ssl.SSLError:
        raise Failure(f"--cacert {cacert}: not a certificate in PEM", exit_code=USAGE) from None
    except OSError as error:
        raise Failure(f"--cacert {cacert}: {error.strerror}", exit_code=USAGE) from None


def path(*parts: str) -> str:
    """``/topics/a%2Fb`` of ``("topics", "a/b")``."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _latin(text: str) -> bytes:
    """Header values are UTF-8 on the wire, whatever `http.client` prefers. Line breaks would be another header."""
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise Failure(
            f"not fit for a header: {text[:64]!r}", hint="no line breaks or control characters", exit_code=USAGE
        )
    return text.encode("utf-8", "surrogateescape")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def problem(body: bytes) -> Mapping[str, Any]:
    """Of problem+json; nothing, if it is none. ``errors`` are those that are as the hub writes them: other servers have
    problems, too."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return {}
    errors = found.get("errors")
    listed = errors if isinstance(errors, list) else []
    return {**found, "errors": [one for one in listed if isinstance(one, dict) and {"path", "message"} <= one.keys()]}


# --- options ---------------------------------------------------------------------------------------------------------


def hub_options(command: F) -> F:
    """``--url``, ``--api-key`` and ``--cacert``; the function gets ``client``, a `Client`."""
    import functools

    @functools.wraps(command)
    def connected(*args: Any, url: str, api_key: str | None, cacert: str | None, **given: Any) -> Any:
        return command(*args, client=Client(url, api_key, cacert=cacert), **given)

    options = [
        click.option(
            "--url",
            envvar="POLYWIRE_URL",
            default=DEFAULT_URL,
            metavar="URL",
            help=f"Of the hub. [env: POLYWIRE_URL; {DEFAULT_URL}]",
        ),
        click.option("--api-key", envvar="POLYWIRE_KEY", metavar="KEY", help="Who is asking. [env: POLYWIRE_KEY]"),
        click.option(
            "--cacert", envvar="POLYWIRE_CACERT", metavar="FILE", help="Authority to trust. [env: POLYWIRE_CACERT]"
        ),
    ]
    for option in reversed(options):
        connected = option(connected)
    return connected  # type: ignore[return-value]  # click returns what it was given


def json_option(command: F) -> F:
    """``--json``; the function gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")(command)
