"""A short text that a regular expression matches."""

from __future__ import annotations

import importlib
import re
import string
from collections.abc import Iterable
from typing import Any

__all__ = ["matching"]

# Python's own reading of patterns. It is not public, but `re` itself stands on it; where it changes, no text is found.
_parser: Any = importlib.import_module("re._parser")

_MOST = 64
_READABLE = string.ascii_lowercase + string.ascii_uppercase + string.digits + "-_. "
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


def matching(pattern: str, least: int = 0) -> str | None:
    """A text that ``pattern`` finds a match in, of at least ``least`` characters if it can be stretched; None where
    none was found."""
    try:
        parsed = _parser.parse(pattern)
        for more in (0, max(0, least - len(_text(parsed, 0)))):
            text = _text(parsed, more)
            if len(text) >= least and re.search(pattern, text):
                return text
    except (re.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _text(parsed: Iterable[tuple[Any, Any]], more: int) -> str:
    """``more``: how many characters each repetition may add."""
    return "".join(_one(str(code), given, more) for code, given in parsed)


def _one(code: str, given: Any, more: int) -> str:  # noqa: PLR0911 - one line for each code
    match code:
        case "LITERAL":
            return chr(int(given))
        case "NOT_LITERAL":
            return next(one for one in _READABLE if ord(one) != given)
        case "ANY":
            return "a"
        case "IN":
            return _among(given)
        case "BRANCH":
            return _text(given[1][0], more)
        case "SUBPATTERN":
            return _text(given[3], more)
        case "ATOMIC_GROUP":
            return _text(given, more)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, inner = given
            times = max(min(int(most), int(least) + more if least else 1 + more, _MOST), int(least))
            return _text(inner, 0) * times
        case "AT" | "ASSERT_NOT" | "ASSERT":
            return ""
    raise ValueError(code)


def _among(given: list[tuple[Any, Any]]) -> str:
    """The first readable character of a class; of one that has none the first of its own."""
    negated = str(given[0][0]) == "NEGATE"
    members = given[1:] if negated else given
    for one in _READABLE:
        if any(_holds(str(code), value, one) for code, value in members) != negated:
            return one
    code, value = members[0]
    return chr(int(value[0] if str(code) == "RANGE" else value))


def _holds(code: str, value: Any, one: str) -> bool:
    if code == "RANGE":
        return int(value[0]) <= ord(one) <= int(value[1])
    if code == "CATEGORY":
        category = _CATEGORIES.get(str(value))
        return category is not None and re.match(category, one) is not None
    return int(value) == ord(one)
