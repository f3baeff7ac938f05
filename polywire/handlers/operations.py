"""From declared functions to what the core runs: operations, with their contracts, and schedules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any

import msgspec

from polywire.contract.operations import OperationContract
from polywire.core.call import Call, Encoding, Operation
from polywire.core.schedules import Schedule
from polywire.handlers.injection import Parameters, location
from polywire.handlers.invocation import Invocation
from polywire.operation import OperationDeclaration

__all__ = ["core_operation", "core_schedule", "operation_contract"]

# The same arguments are the same bytes: repeats of an idempotency key are compared by them.
_encode = msgspec.json.Encoder(order="deterministic").encode


def operation_contract(declared: OperationDeclaration, parameters: Parameters) -> OperationContract:
    """Raises `TypeError`, naming file, line and parameter."""
    try:
        return OperationContract(
            declared.name,
            declared.function,
            parameters.fields,
            parameters.returns,
            method=declared.method,
            path=declared.path,
            safe=declared.safe,
            status=declared.status,
        )
    except TypeError as error:
        raise TypeError(f"{location(declared.function)}: operation {declared.name!r}: {error}") from None


def core_operation(contract: OperationContract, invocation: Invocation, declared: OperationDeclaration) -> Operation:
    def invoke(call: Call) -> Awaitable[Any]:
        return invocation((call,), call.arguments)

    def stream(call: Call) -> AsyncIterator[Any]:
        return invocation.stream((call,), call.arguments)

    return Operation(
        contract.name,
        invoke=None if contract.streams else invoke,
        stream=stream if contract.streams else None,
        timeout=declared.timeout,
        encoding=_encoding(contract),
        jobs=declared.jobs,
    )


def _encoding(contract: OperationContract) -> Encoding:
    request, reply = contract.request, contract.reply

    def write_arguments(arguments: Mapping[str, Any]) -> bytes:
        return _encode(request.to_builtins(arguments))

    if reply is None:
        return Encoding(request.decode, write_arguments, lambda _: None, lambda _: b"null")
    if reply.untyped:  # whatever it is, it is kept as JSON
        return Encoding(request.decode, write_arguments, reply.decode, lambda value: _encode(reply.to_builtins(value)))
    return Encoding(request.decode, write_arguments, reply.decode, reply.encode, reply.content_type)


def core_schedule(name: str, interval: int, invocation: Invocation) -> Schedule:
    """``interval`` is in ms."""

    async def run() -> None:
        await invocation((None,), {})

    return Schedule(name, interval, run)
