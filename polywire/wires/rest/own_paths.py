"""The paths that operations have of their own: claimed on the router, and checked against each other and the hub's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from polywire.contract.operations import OperationContract
from polywire.handlers.injection import location
from polywire.mounts import RESERVED
from polywire.wires.rest.routes import OVERRIDABLE

if TYPE_CHECKING:
    from polywire.server.router import App, Router

__all__ = ["check", "mount"]

_PLACEHOLDER = re.compile(r"\{[^}]*\}")


def check(operations: Iterable[OperationContract]) -> None:
    """Raises `ValueError`, naming file and line, for a path that the hub or another operation has."""
    seen: dict[tuple[str, str], OperationContract] = {}
    for operation, method, path in _routes(operations):
        if any(_is_below(path, own) for own in RESERVED) and not (path in OVERRIDABLE and method == "GET"):
            raise _refused(operation, f"{path} is the hub's own")
        shape = method, _PLACEHOLDER.sub("{}", path)
        if shape in seen:
            raise _refused(operation, f"{method} {path} is {seen[shape].name!r} already")
        seen[shape] = operation


def mount(operations: Iterable[OperationContract], app: App, router: Router) -> None:
    """Give ``app`` the paths, each with and without a slash at its end. Raises `ValueError`, naming file and line."""
    claims: dict[str, tuple[OperationContract, bool]] = {}  # path → whether what is below it, too
    for operation, _, path in _routes(operations):
        literal = path.partition("{")[0].rstrip("/")
        below = path not in (literal, "/")
        if below or literal not in claims:
            claims[literal] = operation, below
    for path, (operation, below) in claims.items():
        try:
            _claim(router, path, below, app)
        except ValueError as error:
            raise _refused(operation, str(error)) from None


def _claim(router: Router, path: str, below: bool, app: App) -> None:
    if below and not path:
        router.mount_fallback(app)
    elif below:
        router.mount(path, app)
    else:
        if router.app(path or "/") is not app:
            router.mount_exact(path or "/", app)
        router.mount_slashed(path, app)


def _routes(operations: Iterable[OperationContract]) -> Iterator[tuple[OperationContract, str, str]]:
    for operation in operations:
        if operation.route is not None:
            yield operation, operation.route.method, operation.route.path


def _is_below(path: str, own: str) -> bool:
    return path == own or path.startswith(f"{own}/")


def _refused(operation: OperationContract, why: str) -> ValueError:
    return ValueError(f"{location(operation.function)}: operation {operation.name!r}: {why}")
