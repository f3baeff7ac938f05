"""A declared operation in the hands of the application."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload

import msgspec

from polywire.core.access import Principal
from polywire.core.call import JobPolicy
from polywire.core.durations import parse_duration
from polywire.job import Job

if TYPE_CHECKING:
    from polywire.router import Declarations

__all__ = ["Method", "Operation", "OperationDeclaration"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class OperationDeclaration(msgspec.Struct, frozen=True):
    """``timeout`` is in ms: None as the hub's limit says, 0 for none. ``jobs``: how its jobs are run."""

    name: str
    function: Callable[..., Any]
    method: Method | None = None
    path: str | None = None
    safe: bool = False
    status: int | None = None
    timeout: int | None = None
    jobs: JobPolicy = JobPolicy()


class Operation(Generic[P, R_co]):
    """A function that every protocol can call. It stays callable, as it was, in Python."""

    def __init__(self, owner: Declarations, declaration: OperationDeclaration) -> None:
        functools.update_wrapper(self, declaration.function)
        self._owner = owner
        self.declaration = declaration

    @property
    def name(self) -> str:
        return self.declaration.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The function itself: nothing is injected or checked."""
        result: R_co = self.declaration.function(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<Operation {self.name}>"

    @overload
    async def submit(
        self: Operation[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        delay: str | float | None = None,
        idempotency_key: str | None = None,
        principal: Principal | None = None,
        **kwargs: Any,
    ) -> Job[T]: ...

    @overload
    async def submit(
        self: Operation[..., T],
        /,
        *args: Any,
        delay: str | float | None = None,
        idempotency_key: str | None = None,
        principal: Principal | None = None,
        **kwargs: Any,
    ) -> Job[T]: ...

    async def submit(
        self,
        /,
        *args: Any,
        delay: str | float | None = None,
        idempotency_key: str | None = None,
        principal: Principal | None = None,
        **kwargs: Any,
    ) -> Job[Any]:
        """Run it as a durable job, which is stored when this returns: at least once, also after a crash.

        The arguments are those that a caller gives, and are checked here. ``delay`` (``"10m"``, or seconds) holds it
        back. ``idempotency_key``: a repeat with the same key and arguments gives the first one's job. ``principal``:
        whose job it is, if not the application's own: they may look at it and cancel it, and it runs with their rights.

        Raises `Invalid`, `Conflict`, `Denied`, `TooLarge`, `LimitExceeded`, `Unavailable`.
        """
        core = self._owner.core
        submitter = core.access.system if principal is None else principal
        core.calls.require(submitter, self.name)
        arguments = self._owner.contract_of(self.name).bind(args, kwargs)
        due = core.clock.now() + parse_duration(delay) if delay is not None else None
        info = await core.jobs.submit(submitter, self.name, arguments, due=due, idempotency=idempotency_key)
        return Job(self._owner, info.id)
