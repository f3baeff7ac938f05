"""Polywire: one hub; declare topics once, and every protocol speaks them."""

# The application
# Handlers
from polywire.core.access import Principal

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

# Settings
from polywire.core.limits import Limits

# Positions and receipts
from polywire.core.message import Receipt
from polywire.core.position import Cursor, Position
from polywire.core.subscription import Delivery
from polywire.handlers.injection import Depends
from polywire.handlers.outcomes import Again, Reject, Retry
from polywire.hub import Hub
from polywire.message import Message
from polywire.router import Router
from polywire.topic import Topic

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
    "TooLarge",
    "Topic",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "__version__",
]
