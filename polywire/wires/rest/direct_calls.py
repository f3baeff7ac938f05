"""Calling an operation without ASGI: with a body of JSON or none, and a result that is ready in one piece.

The arguments are read on the spot; the call itself is one task, and its end is the answer. What is anything else,
`operations.Endpoint` serves, which says the same in the same words: arguments, replies, errors and counters come from
the same functions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from polywire.core.errors import PolywireError
from polywire.core.message import Origin
from polywire.server.direct import Abandon, Answer, DirectHead
from polywire.wires.rest import operations
from polywire.wires.rest.app import RestApp, failure
from polywire.wires.rest.arguments import FORM, JSON_BEGINS, Body, Pairs, kind_of, query_pairs
from polywire.wires.rest.arguments import JSON as JSON_BODY
from polywire.wires.rest.binding import CallHeaders, call_headers
from polywire.wires.rest.operations import Endpoint, OwnPath, latin
from polywire.wires.rest.replies import if_changed
from polywire.wires.rest.request import given_up
from polywire.wires.rest.settings import RestSettings

if TYPE_CHECKING:
    from polywire.server.router import Router

__all__ = ["DirectCalls"]

log = logging.getLogger("polywire.rest")
_OTHERWISE = frozenset((b"idempotency-key", b"prefer"))


class _Target:
    """What the head of a call says."""

    __slots__ = ("endpoint", "form", "if_none_match", "is_form", "origin", "path", "query", "said")

    def __init__(self, endpoint: Endpoint, path: Pairs, query: Pairs, said: CallHeaders, origin: Origin) -> None:
        self.endpoint = endpoint
        self.path = path
        self.query = query
        self.said = said
        self.origin = origin
        self.form = ""
        """The media type of the answer."""
        self.is_form = False
        """The body is JSON only if it begins as JSON does."""
        self.if_none_match: bytes | None = None

    def read(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the body may be JSON. Raises `NotAcceptable`, `Unsupported`."""
        arguments = self.endpoint.sources.body
        read_as = JSON_BODY
        if arguments is not None:
            read_as = kind_of(Body(b"", latin(headers.get(b"content-type"))), arguments)
        self.form = self.endpoint.replies.form(headers.get(b"accept"))
        self.is_form = read_as == FORM
        self.if_none_match = headers.get(b"if-none-match")
        return read_as in (JSON_BODY, FORM)

    def arguments(self, body: bytes, settings: RestSettings) -> dict[str, Any]:
        """As `Sources.read`, of a body that is JSON."""
        sources = self.endpoint.sources
        if sources.body is not None and sources.path is None and sources.query is None and not self.query:
            return sources.body.decode(body)
        return sources.read_at_once(self.path, self.query, Body(body, JSON_BODY), settings)


class DirectCalls:
    """A `DirectHandler` beside ``app``."""

    def __init__(self, app: RestApp) -> None:
        self._app = app
        self._calls = app.core.calls

    def mount(self, router: Router) -> None:
        """The app must be mounted already."""
        above = {("POST", "/operations"), ("GET", "/operations")}
        for operation in self._app.contract.operations:
            route = operation.route
            if route is None:
                continue
            literal = route.path.partition("{")[0].rstrip("/")
            if literal == route.path:
                router.mount_direct_exact(route.method, route.path, self)
            elif literal:
                above.add((route.method, literal))
        for method, path in above:
            router.mount_direct(method, path, self)

    def __call__(self, head: DirectHead, body: bytes, answer: Answer) -> bool | Abandon:
        target: _Target | None = head.note
        if target is None:
            target = head.note = self._read(head)
        if target is None:
            head.wanted = False
            return False
        if len(body) > self._app.core.limits.message_size or (target.is_form and body.lstrip()[:1] not in JSON_BEGINS):
            return False
        return self._begin(head, target, body, answer)

    def _begin(self, head: DirectHead, target: _Target, body: bytes, answer: Answer) -> bool | Abandon:
        name = target.endpoint.contract.name
        call = _Call(self._app, target, head, answer)
        try:
            self._calls.require(head.principal, name)
            arguments = target.arguments(body, self._app.settings)
        except PolywireError as error:
            call.refuse(error)
            return True
        said = target.said
        return call.begin(
            self._calls.call(
                head.principal, name, arguments, within=said.within, headers=said.headers, origin=target.origin
            )
        )

    def _read(self, head: DirectHead) -> _Target | None:
        """Whatever is wrong with the head is told by those who are asked after this one declines."""
        headers = dict(head.headers)
        if not _OTHERWISE.isdisjoint(headers):
            return None
        try:
            found = self._endpoint(head)
            if found is None or found[0].contract.streams:
                return None
            origin = Origin(head.principal.name, "rest", head.client)
            query = query_pairs(head.query, self._app.settings.form.fields)
            target = _Target(*found, query, call_headers(head.headers), origin)
            return target if target.read(headers) else None
        except PolywireError:
            return None

    def _endpoint(self, head: DirectHead) -> tuple[Endpoint, Pairs] | None:
        route, params = self._app.route(head.method.decode("ascii"), head.path)
        if isinstance(route.handler, OwnPath):
            return route.handler.endpoint, route.handler.pairs(params)
        if route.handler is operations.call:
            endpoint = self._app.endpoints.post.get(params[0].decode("ascii"))
        elif route.handler is operations.query:
            endpoint = self._app.endpoints.get.get(params[0].decode("ascii"))
        else:
            return None
        return None if endpoint is None else (endpoint, ())


class _Call:
    """One that runs."""

    __slots__ = ("_answer", "_app", "_head", "_left", "_target", "_task")

    def __init__(self, app: RestApp, target: _Target, head: DirectHead, answer: Answer) -> None:
        self._app = app
        self._target = target
        self._head = head
        self._answer = answer
        self._left = False

    def begin(self, calling: Coroutine[Any, Any, Any]) -> Abandon:
        self._task = asyncio.get_running_loop().create_task(calling)
        self._task.add_done_callback(self._ended)
        return self._abandon

    def _abandon(self) -> None:
        self._left = True
        self._task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = given_up() if task.cancelled() else task.exception()
        if self._left:
            return
        if error is None:
            self._tell(task.result())
        elif isinstance(error, PolywireError):
            self.refuse(error)
        else:
            log.error("a call of %s failed", self._target.endpoint.contract.name, exc_info=error)
            self.refuse(failure())

    def _tell(self, result: Any) -> None:
        target = self._target
        try:
            response = target.endpoint.replies.response(result, target.form, target.endpoint.status)
        except PolywireError as error:
            self.refuse(error)
            return
        if self._head.method == b"GET":
            response = if_changed(response, target.if_none_match)
        self._app.counters.received += 1
        self._answer(response.status, response.headers, response.body)

    def refuse(self, error: PolywireError) -> None:
        response = self._app.refusal(error, self._head.headers)
        self._answer(response.status, response.headers, response.body)
