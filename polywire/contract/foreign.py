"""A type that another library than msgspec reads, as a class that msgspec hands over to us."""

from __future__ import annotations

from typing import Any

__all__ = ["Foreign", "foreign"]


class Foreign(type):
    """The class of such classes. Anything is an instance of them: the other library has seen to it."""

    hint: Any

    def __instancecheck__(cls, _: Any) -> bool:
        return True


def foreign(hint: Any) -> Foreign:
    made = Foreign(str(getattr(hint, "__name__", "Foreign")), (), {})
    made.hint = hint
    return made
