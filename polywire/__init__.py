"""Polywire: one hub; declare topics once, and every protocol speaks them."""

# The application
from polywire.hub import Hub
from polywire.router import Router
from polywire.topic import Topic
from polywire.message import Message

# Handlers
from polywire.core.access import Principal
from polywire.core.subscription import Delivery
from polywire.handlers.injection import Depends
from polywire.handlers.outcomes import Again, Reject, Retry

# Positions and receipts
from polywire.core.message import Receipt
from polywire.core.position import Cursor, Position

# Settings
from polywire.core.limits import Limits

# Errors
from polywire.core.errors import (
    Conflict,
    DeadlineExceeded,
    Denied,
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

__version__ = "0.1.0"

__all__ = [
    "Again",
    "Conflict",
    "Cursor",
    "DeadlineExceeded",
    "Delivery",
    "Denied",
    "Depends",
    "Hub",
    "Internal",
    "Invalid",
    "LimitExceeded",
    "Limits",
    "Message",
    "NotFound",
    "PolywireError",
    "Position",
    "Principal",
    "Receipt",
    "Reject",
    "Retry",
    "Router",
    "Topic",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "__version__",
]
