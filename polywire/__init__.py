"""Polywire: one hub; declare topics once, and every protocol speaks them."""

# The application
# Handlers
from polywire.contract.files import File
from polywire.core.access import Principal
from polywire.core.calls import Call

# Errors
from polywire.core.errors import (
    Conflict,
    DeadlineExceeded,
    Denied,
    FieldError,
    Internal,
    Invalid,
    LimitExceeded,
    NotFound,
    PolywireError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

# Settings
from polywire.core.limits import Limits

# Positions and receipts
from polywire.core.message import Receipt
from polywire.core.position import Cursor, Position
from polywire.core.subscription import Delivery
from polywire.handlers.injection import Depends
from polywire.handlers.outcomes import Again, Reject, Retry
from polywire.hub import Hub
from polywire.job import Job, JobEvent
from polywire.message import Message
from polywire.operation import Operation
from polywire.router import Router
from polywire.topic import Topic

__version__ = "0.1.0"

__all__ = [
    "Again",
    "Call",
    "Conflict",
    "Cursor",
    "DeadlineExceeded",
    "Delivery",
    "Denied",
    "Depends",
    "FieldError",
    "File",
    "Hub",
    "Internal",
    "Invalid",
    "Job",
    "JobEvent",
    "LimitExceeded",
    "Limits",
    "Message",
    "NotFound",
    "Operation",
    "PolywireError",
    "Position",
    "Principal",
    "Receipt",
    "Reject",
    "Retry",
    "Router",
    "TooLarge",
    "Topic",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "__version__",
]
