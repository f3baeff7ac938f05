"""Operations: ``call``, a method of the operation's own name, and ``cancel``, for calls and for jobs."""

from __future__ import annotations

import logging
from contextlib import aclosing
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from polywire.contract.operations import Arguments, OperationContract
from polywire.core.durations import parse_duration
from polywire.core.errors import FieldError, Internal, Invalid, NotFound
from polywire.server.job_views import job_view
from polywire.wires.websocket.jsonrpc import params
from polywire.wires.websocket.jsonrpc.binding import UnknownMethod, item_text, json_text, placed_in_params
from polywire.wires.websocket.jsonrpc.codec import InvalidRequest, Request, id_key

if TYPE_CHECKING:
    from polywire.wires.websocket.jsonrpc.server import JsonRpcConnection as Connection

__all__ = ["arguments_of", "call", "call_by_name", "cancel"]

_logger = logging.getLogger("polywire.jsonrpc")


def call(conn: Connection, request: Request) -> None:
    said = params.decode(request.params, params.CallParams)
    within = None if said.timeout is None else params.read("$.timeout", parse_duration, said.timeout)
    _start(
        conn, request, said.operation, said.arguments, "$.arguments", within=within, idempotency=said.idempotency_key
    )


def call_by_name(conn: Connection, request: Request) -> None:
    """The method is no built-in one: it is the operation's name."""
    name = request.method
    if name.startswith("rpc."):  # the specification keeps these to itself (§4)
        raise _unknown(name, "names that begin with rpc. are reserved; an operation of that name is called with call")
    try:
        conn.core.calls.require(conn.principal, name)
    except NotFound as error:
        raise _unknown(name, _nearest(conn, name) or error.hint) from None
    _start(conn, request, name, request.params, "$")


def _unknown(name: str, hint: str | None) -> UnknownMethod:
    return UnknownMethod(f"there is no method {name[:80]!r}", hint=hint)


def _nearest(conn: Connection, name: str) -> str | None:
    known = [*conn.methods, *(operation.name for operation in conn.core.calls.allowed(conn.principal))]
    near = get_close_matches(name[:64], known, 1)
    return f"did you mean {near[0]!r}?" if near else None


def _start(
    conn: Connection,
    request: Request,
    name: str,
    given: Raw,
    path: str,
    *,
    within: int | None = None,
    idempotency: str | None = None,
) -> None:
    arguments = arguments_of(conn, name, given, path)
    contract = conn.contract.operation(name)
    asked = {"within": within, "idempotency": idempotency, "origin": conn.origin}
    if not contract.streams:
        conn.run(request, _call(conn, contract, arguments, asked))
    elif request.id is None:
        raise InvalidRequest(f"operation {name!r} streams: without an id there is nothing to name its items by")
    else:
        conn.run(request, _stream(conn, request.id, contract, arguments, asked))


def arguments_of(conn: Connection, name: str, given: Raw, path: str) -> dict[str, Any]:
    """The arguments that stand at ``path`` of the parameters; read for none who may not call the operation."""
    conn.core.calls.require(conn.principal, name)
    request = conn.contract.operation(name).request
    try:
        return request.decode(_named(request, given))
    except Invalid as error:
        raise placed_in_params(error, {None: path}) from None


def _named(request: Arguments, given: Raw) -> bytes:
    """The request's object; what is given by position gets its names. Raises `Invalid`."""
    if not given or bytes(memoryview(given)[:1]) != b"[":
        return bytes(given)
    values = msgspec.json.decode(given, type=list[Raw])
    names = [parameter.name for parameter in request.parameters]
    if len(values) > len(names):
        too_many = range(len(names), min(len(values), len(names) + params.MOST_WRONG))
        fields = [FieldError(f"$[{index}]", "one too many") for index in too_many]
        raise Invalid(f"there are {len(names)} parameters, not {len(values)}", fields=fields)
    if request.whole and values:
        return bytes(values[0])
    return json_text(dict(zip(names, values, strict=False)))


async def _call(
    conn: Connection, contract: OperationContract, arguments: dict[str, Any], asked: dict[str, Any]
) -> bytes:
    result = await conn.core.calls.call(conn.principal, contract.name, arguments, **asked)
    return _written(contract, result)


async def _stream(
    conn: Connection, id: bytes, contract: OperationContract, arguments: dict[str, Any], asked: dict[str, Any]
) -> bytes:
    """Each item is a notification; the answer says how many there were."""
    count = 0
    items: Any = conn.core.calls.stream(conn.principal, contract.name, arguments, **asked)
    async with aclosing(items):
        async for item in items:
            await conn.out.room()
            conn.out.notify(item_text(id, _written(contract, item)))
            count += 1
    return json_text({"items": count})


def _written(contract: OperationContract, result: Any) -> bytes:
    """As JSON: bytes, which other protocols may send as they are, are base64 here. Raises `Internal` for a result that
    is not of the declared type."""
    codec = contract.reply
    if codec is None:
        return b"null"
    if isinstance(result, (bytes, bytearray)):
        return json_text(result)
    try:
        return codec.encode(result)
    except Invalid as error:
        _logger.error("operation %s returned what it does not declare: %s", contract.name, error.detail)  # noqa: TRY400
        raise Internal(f"operation {contract.name!r} failed", hint="the hub's log says why") from error


def cancel(conn: Connection, request: Request) -> None:
    """End a call of this connection, which is answered with an error, or a job."""
    said = params.decode(request.params, params.CancelParams)
    if (said.job is None) == (not said.id):
        wrong = "either the id of a request or a job"
        raise Invalid(f"say {wrong}", fields=[FieldError("$.id", wrong), FieldError("$.job", wrong)])
    if said.job is not None:
        conn.run(request, _cancel_job(conn, said.job))
        return
    key = id_key(bytes(said.id))
    if key is None:
        field = FieldError("$.id", "expected the id of a request")
        raise Invalid(f"{field.path}: {field.message}", fields=[field])
    conn.answer(request, json_text({"cancelled": conn.cancel(key)}))


async def _cancel_job(conn: Connection, id: str) -> bytes:
    return json_text(job_view(await conn.core.jobs.cancel(conn.principal, id)))
