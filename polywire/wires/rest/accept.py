"""Which of the forms that an answer can have its reader wants: the Accept header (RFC 9110 §12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from polywire.core.errors import Unsupported

__all__ = ["NotAcceptable", "accepts", "choose", "require"]

_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_MOST_RANGES = 64
_LONGEST = 1_024
"""Bytes of an Accept header that are read, and remembered."""
_HTML = "text/html"
_XML = ("application/xml", "text/xml")


class NotAcceptable(Unsupported):
    code, title = "not_acceptable", "Not acceptable"


class _Range(NamedTuple):
    main: str
    subtype: str
    quality: float

    def rank(self, media_type: str) -> int:
        """How closely it names the type: 0 not at all, 3 exactly."""
        if self.main == "*":
            return 1
        main, _, subtype = media_type.partition("/")
        if self.main != main:
            return 0
        return 2 if self.subtype == "*" else 3 * (self.subtype == subtype)


def require(accept: bytes | None, offers: tuple[str, ...]) -> str:
    """As `choose`; raises `NotAcceptable`."""
    chosen = choose(accept, offers)
    if chosen is None:
        raise NotAcceptable(
            f"nothing of what Accept names can be answered: {_shown(accept or b'')!r}",
            hint=f"ask for {' or '.join(offers)}",
        )
    return chosen


def choose(accept: bytes | None, offers: tuple[str, ...]) -> str | None:
    """The media type among ``offers``, best first, that is wanted most; None if none of them is.

    A browser that shows a page names XML before ``*/*``, and means XHTML: where ``text/html`` is named, XML is only
    chosen if there is nothing else.
    """
    return _choose(_short(accept), offers)


@lru_cache(maxsize=1_024)
def _choose(accept: bytes | None, offers: tuple[str, ...]) -> str | None:
    if accept is None or not accept.strip():
        return offers[0]
    ranges = _ranges(accept)
    best, most = None, 0.0
    for offer in offers:
        quality = _quality(ranges, offer)
        if quality > most and not (best is not None and offer in _XML and _is_browser(ranges)):
            best, most = offer, quality
    return best


def accepts(accept: bytes | None, media_type: str) -> bool:
    """Whether the type is named itself, not by a wildcard."""
    accept = _short(accept)
    if accept is None:
        return False
    return any(one.rank(media_type) == 3 and one.quality > 0 for one in _ranges(accept))


def _short(accept: bytes | None) -> bytes | None:
    """Without the ranges that stand too far behind."""
    return accept if accept is None or len(accept) <= _LONGEST else accept[:_LONGEST].rpartition(b",")[0]


def _is_browser(ranges: Sequence[_Range]) -> bool:
    return any(one.rank(_HTML) == 3 for one in ranges)


def _quality(ranges: Sequence[_Range], offer: str) -> float:
    """Of the range that names it most closely."""
    found = max(ranges, key=lambda one: (one.rank(offer), one.quality), default=None)
    return found.quality if found is not None and found.rank(offer) else 0.0


@lru_cache(maxsize=256)
def _ranges(accept: bytes) -> tuple[_Range, ...]:
    """What is not a media range is passed over: a reader's slip should not cost it its answer."""
    parts = accept.decode("latin-1").lower().split(",", _MOST_RANGES)[:_MOST_RANGES]
    return tuple(found for part in parts if (found := _range(part)) is not None)


def _range(text: str) -> _Range | None:
    media, *parameters = (part.strip() for part in text.split(";"))
    main, slash, subtype = media.partition("/")
    if not slash or not main or not subtype:
        return _Range("*", "*", _weight(parameters)) if media == "*" else None
    return _Range(main, subtype, _weight(parameters))


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            value = value.strip()
            return float(value) if _QUALITY.fullmatch(value) else 0.0
    return 1.0


def _shown(accept: bytes) -> str:
    return accept[:100].decode("latin-1")
