"""Topic names, keys and the one idea of wildcards (docs/promises.md, "Addresses").

A dotted address is ``topic`` or ``topic.key``; in the key, words are separated by ``.``. ``*`` stands for one
word, ``#`` for any number of words, none included.
"""

from __future__ import annotations

import re
from functools import lru_cache

from polywire.core.errors import Invalid

__all__ = [
    "OTHER",
    "begins",
    "covers",
    "is_own",
    "is_pattern",
    "is_private",
    "is_reserved",
    "key_text",
    "legal_topic",
    "matches",
    "require_topic",
]

OTHER = "_other"
_LEGAL = re.compile(r"[A-Za-z0-9.\-][A-Za-z0-9._\-]{0,248}")
_USUAL = 2_048  # characters of an address or a pattern; see `Limits.key_size`
_RESERVED = re.compile(r"_.*|operations|default|amq\..*|polywire\..*", re.DOTALL)


def legal_topic(name: str) -> bool:
    return _LEGAL.fullmatch(name) is not None


def is_reserved(name: str) -> bool:
    """Names that no declaration or client may create."""
    return _RESERVED.fullmatch(name) is not None


def is_own(name: str) -> bool:
    """The hub's own topics, which it makes and fills: patterns leave them out."""
    return name[:1] == "_" and name != OTHER


def is_private(name: str) -> bool:
    """Of the hub's own topics those that hold what others asked for, and were answered: nobody reads them."""
    return name in ("_calls", "_jobs", "_replies")


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


def begins(topic: str, pattern: str) -> bool:
    """Whether ``pattern`` means an address of this topic, be it with one key alone."""
    words = pattern.split(".")
    for index, theirs in enumerate(topic.split(".")):
        if index == len(words):
            return False
        if words[index] == "#":
            return True
        if words[index] not in ("*", theirs):
            return False
    return True


def covers(pattern: str, other: str) -> bool:
    """Whether every address that ``other`` (itself a pattern or not) means is one that ``pattern`` means."""
    # A peer may ask about a name as long as its frame: only what has a usual length is remembered.
    usual = len(pattern) <= _USUAL and len(other) <= _USUAL
    return _covers_usual(pattern, other) if usual else _covers(pattern, other)


def _covers(pattern: str, other: str) -> bool:
    """All places in the pattern at once, a bit for each: so that hostile patterns and names cost little."""
    places: dict[str, int] = {}
    end = 1
    last = ""
    for word in pattern.split("."):
        if word != "#" or last != "#":  # "#.#" means what "#" means
            places[word] = places.get(word, 0) | end
            end <<= 1
        last = word
    many, any_one = places.pop("#", 0), places.get("*", 0)
    all_the_rest = end >> 1 & many
    reached = 1 | (1 & many) << 1
    for word in other.split("."):
        # "#" may stand for no word or for several: only "#" covers it.
        fitting = 0 if word == "#" else places.get(word, 0) | any_one
        reached = reached & many | (reached & fitting) << 1
        reached |= (reached & many) << 1
        if not reached or reached & all_the_rest:
            break
    return bool(reached & (end | all_the_rest))


_covers_usual = lru_cache(maxsize=4_096)(_covers)
