"""All wrong fields in one error, wherever they were found.

A reader of a format turns text into JSON-like builtins and judges no value: that is the `Codec`'s work. Only what has
no place in the builtins at all, as a field given twice, is the reader's own complaint (`Misread`); `checked` puts both
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from polywire.contract.checking import MOST
from polywire.contract.paths import ROOT, member
from polywire.core.errors import FieldError, Invalid

__all__ = ["Complaints", "Misread", "Path", "checked", "refused"]

T = TypeVar("T")


Path = tuple[Any, str | int] | None
"""Where a reader is: the path above, and a name or an index in it. Written out only where something is wrong."""


class Complaints:
    """What has no place in the value that is read. ``at`` stands for the value itself in their paths."""

    def __init__(self, at: str = ROOT) -> None:
        self.fields: list[FieldError] = []
        self._at = at

    def add(self, path: Path, message: str) -> None:
        if len(self.fields) < MOST:
            self.fields.append(FieldError(self._written(path), message))

    def _written(self, path: Path) -> str:
        steps: list[str] = []
        while path is not None:
            path, step = path
            steps.append(f"[{step}]" if isinstance(step, int) else member(step))
        return self._at + "".join(reversed(steps))


class Misread(Invalid):
    """``value`` is what could be read besides, for a codec to find what else is wrong."""

    def __init__(self, fields: Sequence[FieldError], value: Any) -> None:
        super().__init__(_detail(fields), fields=fields[:MOST])
        self.value = value


def checked(read: Callable[[], Any], convert: Callable[[Any], T], *, at: str = ROOT) -> T:
    """What ``convert`` (`Codec.from_builtins`) makes of what ``read`` gives. Raises `Invalid`, naming what either of
    them found wrong; ``at`` stands for the ``$`` of the codec's paths."""
    misread: Misread | None = None
    try:
        value = read()
    except Misread as error:
        misread, value = error, error.value
    try:
        converted = convert(value)
    except Invalid as error:
        if misread is None and at == ROOT:
            raise
        raise _both(misread.fields if misread else (), error, at) from None
    if misread is not None:
        raise misread
    return converted


def _both(found: Sequence[FieldError], error: Invalid, at: str) -> Invalid:
    fields = list(found)
    known = {field.path for field in found}
    for field in error.fields or (FieldError(ROOT, error.detail),):
        path = at + field.path.removeprefix(ROOT)
        if path not in known:
            fields.append(FieldError(path, field.message))
    return Invalid(_detail(fields), hint=error.hint, fields=fields[:MOST])


def refused(fields: Sequence[FieldError]) -> Invalid:
    """These are wrong, and nothing could be read."""
    return Invalid(_detail(fields), fields=fields[:MOST])


def _detail(fields: Sequence[FieldError]) -> str:
    first = fields[0]
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    return f"{first.path}: {first.message}{more}"
