"""Topic names, keys and the one idea of wildcards (docs/promises.md, "Addresses").

A dotted address is ``topic`` or ``topic.key``; in the key, words are separated by ``.``. ``*`` stands for one
word, ``#`` for any number of words, none included.
"""

from __future__ import annotations

import re
from functools import lru_cache

from polywire.core.errors import Invalid

__all__ = ["OTHER", "covers", "is_pattern", "is_reserved", "key_text", "legal_topic", "matches", "require_topic"]

OTHER = "_other"
_LEGAL = re.compile(r"[A-Za-z0-9.\-][A-Za-z0-9._\-]{0,248}")
_RESERVED = re.compile(r"_.*|operations|default|amq\..*|polywire\..*", re.DOTALL)


def legal_topic(name: str) -> bool:
    return _LEGAL.fullmatch(name) is not None


def is_reserved(name: str) -> bool:
    """Names that no declaration or client may create."""
    return _RESERVED.fullmatch(name) is not None


def require_topic(name: str) -> str:
    """The name, if a topic can have it. Raises `Invalid`."""
    if not legal_topic(name):
        raise Invalid(
            f"not a topic name: {name[:80]!r}",
            hint="a topic name has 1 to 249 of A-Z a-z 0-9 . _ - and does not start with _",
        )
    return name


def key_text(key: bytes | None) -> str:
    """A key as text for matching and display; bytes that are not UTF-8 survive as surrogates."""
    return "" if key is None else key.decode("utf-8", "surrogateescape")


def is_pattern(text: str) -> bool:
    return any(word in ("*", "#") for word in text.split("."))


def matches(pattern: str, dotted: str) -> bool:
    """Whether the address or key ``dotted`` is one that ``pattern`` means."""
    return covers(pattern, dotted)


@lru_cache(maxsize=4_096)
def covers(pattern: str, other: str) -> bool:
    """Whether every address that ``other`` (itself a pattern or not) means is one that ``pattern`` means."""
    return _covers(tuple(pattern.split(".")), tuple(other.split(".")))


def _covers(pattern: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Row by row over the two word lists, so that hostile patterns cost at most their product."""
    row = [True] + [False] * len(other)
    for j, _ in enumerate(other):
        row[j + 1] = False
    for word in pattern:
        many = word == "#"
        new = [row[0] and many]
        for j, theirs in enumerate(other):
            if many:
                new.append(row[j + 1] or new[j])
            elif theirs == "#":
                new.append(False)  # "#" may stand for no word or for several: only "#" covers it
            else:
                new.append(row[j] and (word in ("*", theirs)))
        row = new
    return row[-1]
