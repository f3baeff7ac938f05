"""Publishing one message without a task: ``POST /topics/{topic}`` with a body, perhaps a key, and nothing special.

What has a delay, several lines, an idempotency key or a form to be read is `topics.publish`'s, which says the same in
the same words: receipts, errors and counters come from the same functions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from polywire.core.errors import PolywireError
from polywire.core.message import Flag, Origin, Receipt, Record
from polywire.server.direct import Answer, DirectHead
from polywire.server.query import parse_query
from polywire.wires.rest import topics
from polywire.wires.rest.app import RestApp, failure
from polywire.wires.rest.binding import (
    ContentType,
    Publication,
    Response,
    content_type_of,
    json_response,
    publication,
    receipt_view,
    require_json,
)
from polywire.wires.rest.publishing import is_special

if TYPE_CHECKING:
    from polywire.server.router import Router

__all__ = ["DirectPublish"]

log = logging.getLogger("polywire.rest")


class _Target:
    """What the head of a publish says. ``said`` None: nothing but what is here."""

    __slots__ = ("key", "kind", "origin", "said", "topic")

    def __init__(
        self, topic: str, kind: ContentType, key: bytes | None, said: Publication | None, origin: Origin
    ) -> None:
        self.topic = topic
        self.kind = kind
        self.key = key
        self.said = said
        self.origin = origin

    def record(self, body: bytes, now: Callable[[], int]) -> Record:
        if self.said is None:
            return Record(body, self.key, content_type=self.kind.text, origin=self.origin)
        return self.said.records([body], self.kind.text, now(), self.origin)[0]


class DirectPublish:
    """A `DirectHandler` beside ``app``."""

    def __init__(self, app: RestApp) -> None:
        self._app = app

    def mount(self, router: Router) -> None:
        """The app must be mounted already."""
        router.mount_direct("POST", "/topics", self)

    def __call__(self, head: DirectHead, body: bytes, answer: Answer) -> bool:
        core = self._app.core
        target: _Target | None = head.note
        if target is None:
            target = head.note = self._read(head)
        if target is None:
            head.wanted = False
            return False
        if core.congested or len(body) > core.limits.message_size:
            return False
        post = _Post(self._app, head, answer)
        try:
            if target.kind.json:
                require_json(body)
            record = target.record(body, core.clock.now)
            post.receipts = core.post(head.principal, target.topic, [record], post.told)
        except PolywireError as error:
            post.refuse(error)
        except Exception:
            log.exception("POST %s failed", head.path.decode())
            post.refuse(failure())
        return True

    def _read(self, head: DirectHead) -> _Target | None:
        """Whatever is wrong with the head is told by those who are asked after this one declines."""
        try:
            route, params = self._app.route("POST", head.path)
            if route.handler is not topics.publish:
                return None
            kind = content_type_of(dict(head.headers).get(b"content-type"))
            said = publication(head.headers)
            key = parse_query(head.query, route.query or ()).bytes("key")
            if said is not None:
                topics.settle_key(said, key)
        except PolywireError:
            return None
        waits = said is not None and (said.delay is not None or said.flags & Flag.DEDUP)
        if waits or kind.lines or is_special(kind, head.headers):
            return None
        return _Target(params[0].decode("ascii"), kind, key, said, Origin(head.principal.name, "rest", head.client))


class _Post:
    """A publish that waits for its commit."""

    __slots__ = ("_answer", "_app", "_head", "receipts")

    def __init__(self, app: RestApp, head: DirectHead, answer: Answer) -> None:
        self._app = app
        self._head = head
        self._answer = answer
        self.receipts: list[Receipt] | None = None

    def told(self, error: PolywireError | None) -> None:
        """Of the commit, by the log, which must not meet an exception of ours."""
        if self.receipts is None:  # `Core.post` has not returned yet
            asyncio.get_running_loop().call_soon(self._settle, error)
        else:
            self._settle(error)

    def _settle(self, error: PolywireError | None) -> None:
        if self.receipts is None:  # it was refused, and told so
            return
        try:
            response = self._refusal(error) if error is not None else self._receipt(self.receipts[0])
        except Exception:
            log.exception("the receipt of a publish failed")
            response = self._refusal(failure())
        self._send(response)

    def refuse(self, error: PolywireError) -> None:
        self._send(self._refusal(error))

    def _refusal(self, error: PolywireError) -> Response:
        return self._app.refusal(error, self._head.headers)

    def _receipt(self, receipt: Receipt) -> Response:
        response = json_response(201, receipt_view(receipt))
        self._app.counters.received += 1
        return response

    def _send(self, response: Response) -> None:
        self._answer(response.status, response.headers, response.body)
