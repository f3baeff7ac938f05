"""The embedded engine, on SQLite."""

from polywire.engines.sqlite.backup import restore
from polywire.engines.sqlite.engine import SqliteEngine
from polywire.engines.sqlite.settings import SqliteSettings
from polywire.engines.sqlite.verify import verify

__all__ = ["SqliteEngine", "SqliteSettings", "restore", "verify"]
