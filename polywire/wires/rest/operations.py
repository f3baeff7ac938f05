"""Operations over REST: ``/operations/{name}``, and the paths that operations have of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from polywire.contract import operations
from polywire.contract.contract import Contract
from polywire.contract.operations import Arguments, OperationContract
from polywire.core.errors import Invalid
from polywire.core.job import JobInfo
from polywire.server.envelope import is_json_type
from polywire.wires.rest import jobs
from polywire.wires.rest.arguments import Body, Pairs, Sources, query_pairs
from polywire.wires.rest.binding import CallHeaders, MethodNotAllowed, Response, call_headers, json_response
from polywire.wires.rest.replies import Replies, if_changed
from polywire.wires.rest.request import Request, origin, while_client_waits
from polywire.wires.rest.routing import Route
from polywire.wires.rest.streaming import Form, stream, stream_headers

if TYPE_CHECKING:
    from polywire.wires.rest.app import RestApp

__all__ = ["CALLABLE", "Endpoint", "Endpoints", "OwnPath", "call", "list_all", "own_routes", "query"]

CALLABLE = "OPTIONS, POST"
"""The methods of ``/operations/{name}``, unless the operation is safe."""


class Endpoint:
    """One way to an operation: by its name or on its own path, with one method."""

    def __init__(self, contract: OperationContract, sources: Sources, *, status: int | None = None) -> None:
        self.contract = contract
        self.sources = sources
        self.status = status
        self.replies = Replies(contract)

    async def serve(self, app: RestApp, request: Request, path: Pairs = ()) -> Response | None:
        """Who may not call is told before anything of the request is read."""
        app.core.calls.require(request.principal, self.contract.name)
        form = self.replies.form(request.headers.get(b"accept"))
        said = call_headers(request.scope["headers"])
        body = await self._body(app, request)
        query = query_pairs(request.scope["query_string"], app.settings.form.fields)
        arguments = await self.sources.read(path, query, body, app.settings)
        if said.job:
            return jobs.accepted(request, await self._submit(app, request, arguments, said))
        if self.contract.streams:
            return await self._stream(app, request, arguments, said, form)
        result = await while_client_waits(request, self._call(app, request, arguments, said))
        app.counters.received += 1
        response = self.replies.response(result, form, self.status)
        if request.method in ("GET", "HEAD"):
            return if_changed(response, request.headers.get(b"if-none-match"))
        return response

    async def _body(self, app: RestApp, request: Request) -> Body | None:
        arguments = self.sources.body
        if arguments is None:
            return None
        content_type = latin(request.headers.get(b"content-type"))
        limit = app.core.limits.message_size
        if _may_hold_files(content_type, arguments):
            limit = max(limit, app.settings.upload_size)
        payload = await request.body(limit, app.settings.body_timeout)
        return Body(payload, content_type, latin(request.headers.get(b"content-disposition")))

    async def _call(self, app: RestApp, request: Request, arguments: dict[str, Any], said: CallHeaders) -> Any:
        return await app.core.calls.call(
            request.principal,
            self.contract.name,
            arguments,
            within=said.within,
            idempotency=said.idempotency,
            headers=said.headers,
            origin=origin(request),
        )

    async def _submit(self, app: RestApp, request: Request, arguments: dict[str, Any], said: CallHeaders) -> JobInfo:
        due = None if said.delay is None else app.core.clock.now() + said.delay
        job = await app.core.jobs.submit(
            request.principal,
            self.contract.name,
            arguments,
            due=due,
            idempotency=said.idempotency,
            headers=said.headers,
            origin=origin(request),
        )
        app.counters.received += 1
        return job

    async def _stream(
        self, app: RestApp, request: Request, arguments: dict[str, Any], said: CallHeaders, form: str
    ) -> Response | None:
        if request.method == "HEAD":
            return Response(200, b"", stream_headers(form))
        items = app.core.calls.stream(
            request.principal,
            self.contract.name,
            arguments,
            within=said.within,
            idempotency=said.idempotency,
            headers=said.headers,
            origin=origin(request),
        )
        await stream(app, request, items, Form.of_items(form, self.replies.item), status=self.status or 200)
        app.counters.received += 1
        return None


class Endpoints:
    """Of the operations by their names."""

    def __init__(self, contract: Contract) -> None:
        self.post = {one.name: Endpoint(one, Sources(None, None, one.request)) for one in contract.operations}
        self.get = {
            one.name: Endpoint(one, Sources(None, one.request, None)) for one in contract.operations if one.safe
        }


async def call(app: RestApp, request: Request) -> Response | None:
    name = request.text(0)
    app.core.calls.require(request.principal, name)
    return await app.endpoints.post[name].serve(app, request)


async def query(app: RestApp, request: Request) -> Response | None:
    """A safe operation may be asked with GET, its arguments in the query."""
    name = request.text(0)
    app.core.calls.require(request.principal, name)
    endpoint = app.endpoints.get.get(name)
    if endpoint is None:
        raise MethodNotAllowed(f"operation {name!r} is not declared safe: GET may not call it", CALLABLE)
    return await endpoint.serve(app, request)


async def list_all(app: RestApp, request: Request) -> Response:
    """Those that the caller may call."""
    names = [operation.name for operation in app.core.calls.allowed(request.principal)]
    return json_response(200, {"operations": [_view(app.contract.operation(name)) for name in names]})


def _view(contract: OperationContract) -> dict[str, Any]:
    route = contract.route
    return {
        "name": contract.name,
        "summary": contract.summary,
        "method": route.method if route is not None else "POST",
        "path": route.path if route is not None else f"/operations/{contract.name}",
        "safe": contract.safe,
        "streams": contract.streams,
    }


# --- own paths -------------------------------------------------------------------------------------------------------


def own_routes(contract: Contract) -> Iterator[Route]:
    for operation in contract.operations:
        if operation.route is not None:
            yield Route(operation.route.method, operation.route.path, OwnPath(operation, operation.route), None)


class OwnPath:
    """A `Handler`."""

    def __init__(self, contract: OperationContract, route: operations.Route) -> None:
        self.endpoint = Endpoint(contract, Sources.of(route), status=contract.status)
        self._placed = route.placed

    async def __call__(self, app: RestApp, request: Request) -> Response | None:
        return await self.endpoint.serve(app, request, self.pairs(request.params))

    def pairs(self, segments: list[bytes]) -> list[tuple[str, str]]:
        """The parameters in a path. Raises `Invalid` for what is not UTF-8."""
        try:
            return [(name, unquote_to_bytes(one).decode()) for name, one in zip(self._placed, segments, strict=True)]
        except UnicodeDecodeError:
            raise Invalid("the path is not UTF-8", hint="percent-encode the bytes of UTF-8") from None


# --- of the request --------------------------------------------------------------------------------------------------


def _may_hold_files(content_type: str | None, arguments: Arguments) -> bool:
    if content_type is None:
        return arguments.raw is not None
    if arguments.raw is not None and not is_json_type(content_type):
        return True
    return content_type.lstrip()[:10].lower() == "multipart/"


def latin(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
