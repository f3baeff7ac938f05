"""Which patterns mean a key, without trying each: a trie over the words of keys.

A publish costs its matches, not the number of patterns: 100,000 patterns like ``cmd.{id}.#`` are one dict look-up away.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from polywire.core.address import key_text

__all__ = ["KeyIndex"]

T = TypeVar("T")

_CACHED_KEYS = 1_024
_CACHED_KEY_SIZE = 128


_NO_WORDS: dict[str, Any] = {}
_NO_VALUES: dict[Any, None] = {}


class _Node(Generic[T]):
    __slots__ = ("values", "words")

    def __init__(self) -> None:
        # Most have one of them only, and there may be very many.
        self.words: dict[str, _Node[T]] = _NO_WORDS
        self.values: dict[T, None] = _NO_VALUES

    def step(self, word: str) -> _Node[T]:
        """The node of this word, made if it is missing."""
        if self.words is _NO_WORDS:
            self.words = {}
        step = self.words.get(word)
        if step is None:
            step = self.words[word] = _Node()
        return step

    def put(self, value: T) -> None:
        if self.values is _NO_VALUES:
            self.values = {}
        self.values[value] = None

    def empty(self) -> bool:
        return not self.words and not self.values


def _words(pattern: str) -> list[str]:
    """The words of a pattern; ``#.#`` means what ``#`` means, and would only cost more."""
    words: list[str] = []
    for word in pattern.split("."):
        if not (word == "#" and words and words[-1] == "#"):
            words.append(word)
    return words


class KeyIndex(Generic[T]):
    """Values by key pattern. `match` gives each value once, in no promised order."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._rest: dict[T, None] = {}  # those of "#", the one pattern that means messages without a key too
        self._keyless: dict[T, None] = {}
        self._without_key: tuple[T, ...] | None = ()
        self._cache: dict[bytes, tuple[T, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, pattern: str | None, value: T) -> None:
        """``None`` in place of a pattern: for messages without a key, and no others."""
        if pattern is None:
            self._count += value not in self._keyless
            self._keyless[value] = None
            self._without_key = None
            return
        node = self._root
        words = _words(pattern)
        for word in words:
            node = node.step(word)
        if value not in node.values:
            node.put(value)
            self._count += 1
        if words == ["#"]:
            self._rest[value] = None
            self._without_key = None
        self._cache.clear()

    def remove(self, pattern: str | None, value: T) -> None:
        """Unknown pairs are ignored."""
        if pattern is None:
            self._count -= value in self._keyless
            self._keyless.pop(value, None)
            self._without_key = None
            return
        path = [self._root]
        words = _words(pattern)
        for word in words:
            child = path[-1].words.get(word)
            if child is None:
                return
            path.append(child)
        if value in path[-1].values:
            del path[-1].values[value]
            self._count -= 1
        if words == ["#"]:
            self._rest.pop(value, None)
            self._without_key = None
        for parent, word, child in zip(reversed(path[:-1]), reversed(words), reversed(path[1:]), strict=True):
            if child.empty():
                del parent.words[word]
        self._cache.clear()

    def match(self, key: bytes | None) -> tuple[T, ...]:
        """The same tuple for neighbours with the same key, so that who asks may treat them alike."""
        if key is None:
            if self._without_key is None:
                self._without_key = tuple(self._rest | self._keyless)
            return self._without_key
        found = self._cache.get(key)
        if found is None:
            found = self._search(key_text(key).split("."))
            if len(key) <= _CACHED_KEY_SIZE:
                if len(self._cache) >= _CACHED_KEYS:
                    self._cache.clear()
                self._cache[key] = found
        return found

    def _search(self, words: list[str]) -> tuple[T, ...]:
        """Breadth first over the nodes alive after each word: at most nodes x words steps, whatever the patterns."""
        found: dict[T, None] = {}
        alive = self._with_rests([self._root])
        for word in words:
            following: dict[int, _Node[T]] = {}
            for node, repeats in alive:
                if repeats:
                    following[id(node)] = node  # "#" takes one more word
                for step in (node.words.get(word), node.words.get("*")):
                    if step is not None:
                        following[id(step)] = step
            alive = self._with_rests(list(following.values()), repeating=alive)
        for node, _ in alive:
            found.update(node.values)
        return tuple(found)

    @staticmethod
    def _with_rests(
        nodes: list[_Node[T]], repeating: list[tuple[_Node[T], bool]] | None = None
    ) -> list[tuple[_Node[T], bool]]:
        """The nodes and those reached by a ``#`` that takes no word; True marks the nodes that are a ``#``."""
        rests = {id(node) for node, repeats in repeating or () if repeats}
        reached: dict[int, tuple[_Node[T], bool]] = {id(node): (node, id(node) in rests) for node in nodes}
        for node in nodes:
            rest = node.words.get("#")
            while rest is not None:
                reached[id(rest)] = (rest, True)
                rest = rest.words.get("#")
        return list(reached.values())
