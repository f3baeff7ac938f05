"""How many long-lived connections each principal holds."""

from __future__ import annotations

from collections.abc import Callable

from polywire.core.access import Access, Principal
from polywire.core.errors import LimitExceeded

__all__ = ["Connections"]


class Connections:
    """Counts WebSockets and event streams per principal. On an open hub everybody is one principal: no limit then."""

    def __init__(self, access: Access, per_principal: int) -> None:
        self._access = access
        self._per_principal = per_principal
        self._held: dict[Principal, int] = {}

    def open(self, principal: Principal) -> Callable[[], None]:
        """Count one connection; call what is returned once it is closed. Raises `LimitExceeded`."""
        held = self._held.get(principal, 0)
        if held >= self._per_principal and not self._access.open:
            raise LimitExceeded(
                f"{principal.name!r} holds {held} connections, which is the limit",
                hint="close some, or raise max_connections_per_principal",
            )
        self._held[principal] = held + 1
        return lambda: self._close(principal)

    def count(self, principal: Principal) -> int:
        return self._held.get(principal, 0)

    def _close(self, principal: Principal) -> None:
        held = self._held.get(principal, 0) - 1
        if held > 0:
            self._held[principal] = held
        else:
            self._held.pop(principal, None)
