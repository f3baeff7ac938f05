"""The one tree of errors.

    PolywireError
    ├── Invalid            the request is wrong; names every wrong field
    ├── Unauthenticated    credentials are missing or not known
    ├── Denied             the principal is known and may not
    ├── NotFound           no such topic, subscription, message, route
    ├── Conflict           it exists with other content, or its state forbids this
    ├── TooLarge           over a size limit
    ├── LimitExceeded      over a count or rate limit
    ├── Unsupported        a content type, method or feature nobody offers
    ├── Unavailable        cannot be served now (disk full, starting, draining)
    ├── DeadlineExceeded   took longer than the caller allowed
    └── Internal           our fault

Users raise these classes, the core raises them, and every wire has exactly one table from
``code`` to its own codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

__all__ = [
    "Conflict",
    "DeadlineExceeded",
    "Denied",
    "FieldError",
    "Internal",
    "Invalid",
    "LimitExceeded",
    "NotFound",
    "PolywireError",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
]


class FieldError(NamedTuple):
    """One wrong field: ``path`` as in ``$.readings[3].celsius``, and what is wrong with it."""

    path: str
    message: str


class PolywireError(Exception):
    """Base of every documented error.

    ``detail`` says what is wrong and where; ``hint`` what the reader can do about it; ``retry_after``
    is in seconds and only set where a retry helps.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    blame: ClassVar[Literal["caller", "hub"]] = "hub"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        hint: str | None = None,
        fields: Sequence[FieldError] = (),
        retry_after: float | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.fields = tuple(fields)
        self.retry_after = retry_after
        self.extra = extra or {}

    def as_dict(self) -> dict[str, Any]:
        """The error as every wire that has room for it shows it."""
        shown: dict[str, Any] = {"code": self.code, "title": self.title, "detail": self.detail}
        if self.hint:
            shown["hint"] = self.hint
        if self.fields:
            shown["errors"] = [{"path": f.path, "message": f.message} for f in self.fields]
        if self.retryable:
            shown["retryable"] = True
        shown.update(self.extra)
        return shown


class Invalid(PolywireError):
    code, title, blame = "invalid", "Invalid request", "caller"


class Unauthenticated(PolywireError):
    code, title, blame = "unauthenticated", "Authentication required", "caller"


class Denied(PolywireError):
    code, title, blame = "denied", "Permission denied", "caller"


class NotFound(PolywireError):
    code, title, blame = "not_found", "Not found", "caller"


class Conflict(PolywireError):
    code, title, blame = "conflict", "Conflict", "caller"


class TooLarge(PolywireError):
    code, title, blame = "too_large", "Too large", "caller"


class LimitExceeded(PolywireError):
    code, title, blame = "limit_exceeded", "Limit exceeded", "caller"
    retryable = True


class Unsupported(PolywireError):
    code, title, blame = "unsupported", "Unsupported", "caller"


class Unavailable(PolywireError):
    code, title = "unavailable", "Unavailable"
    retryable = True


class DeadlineExceeded(PolywireError):
    code, title = "deadline_exceeded", "Deadline exceeded"
    retryable = True


class Internal(PolywireError):
    pass
