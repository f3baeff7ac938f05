"""Where in a value something is: ``$.readings[3].celsius``, ``$["two words"]``."""

from __future__ import annotations

import json
import re

__all__ = ["ROOT", "member"]

ROOT = "$"
_PLAIN = re.compile(r"[A-Za-z_][\w-]*\Z")
_LONGEST = 100  # characters of a name, so that an error stays readable, and small


def member(name: str) -> str:
    """The step to a member of an object."""
    if _PLAIN.match(name) and len(name) <= _LONGEST:
        return f".{name}"
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return f"[{json.dumps(shown, ensure_ascii=False)}]"
