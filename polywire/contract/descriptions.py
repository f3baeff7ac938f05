"""What the source says of a class and its fields: docstrings.

The text below a field is no object that Python keeps, so it is read from the source, if there is one.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import linecache
import re
import sys
import textwrap
from typing import Any

__all__ = ["class_description", "field_descriptions"]


def class_description(cls: Any) -> str | None:
    """Its own docstring; not the signature that dataclasses and named tuples write themselves, nor a base class's."""
    text = getattr(cls, "__dict__", {}).get("__doc__")
    if not isinstance(text, str) or not text.strip():
        return None
    written = text.startswith(f"{cls.__name__}(") and text.rstrip().endswith(")")
    return None if written or text == "An enumeration." else inspect.cleandoc(text)


def field_descriptions(cls: Any) -> dict[str, str]:
    """By attribute; those of base classes, too."""
    found: dict[str, str] = {}
    for base in reversed(getattr(cls, "__mro__", ())):
        if inspect.get_annotations(base):
            found.update(_texts_below(base))
    return found


def _texts_below(cls: Any) -> dict[str, str]:
    block = _source(cls)
    if '"""' not in block and "'''" not in block:
        return {}
    try:
        body = ast.parse(textwrap.dedent(block)).body[0]
    except (SyntaxError, IndexError):
        return {}
    found = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, below in itertools.pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = inspect.cleandoc(text)
    return found


def _source(cls: Any) -> str:
    """The lines of a class, found by its name: `inspect.getsource` parses the whole file for each class.

    Empty where several classes of the file have the name, or where there is no file.
    """
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or not file.endswith(".py"):
        return ""
    lines = linecache.getlines(file)
    head = re.compile(rf"\s*class\s+{re.escape(cls.__name__)}\b")
    starts = [number for number, line in enumerate(lines) if "class" in line and head.match(line)]
    if len(starts) != 1:
        return ""
    return "".join(inspect.getblock(lines[starts[0] :]))
