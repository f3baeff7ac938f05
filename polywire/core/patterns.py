"""Which patterns of whole addresses, topic and key, mean a message, without trying each.

The patterns stand in a tree of words whose edges are whole runs of words: a node for each pattern and each place where
patterns part, so that a pattern of a thousand words takes what its text takes. `ANY_REST` only ends a pattern;
therefore a node is reached in one way, and a look-up visits each node at most once, whatever the patterns.

What is found for a topic and key is remembered until a pattern comes or goes. It is the nodes, not who stands there:
the ten thousandth reader of a pattern changes nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, Generic, TypeVar

from polywire.core.address import OTHER, key_text, legal_topic
from polywire.core.message import Record

__all__ = ["ANY_PLAIN", "ANY_REST", "ANY_WORD", "Node", "Pattern", "PatternIndex", "Runs", "Wild", "lives_in_other"]

E = TypeVar("E")

_CACHED = 32_768  # keys of all topics
_CACHED_KEY_SIZE = 128


class Wild:
    """A word of a pattern that no text is: keys may hold words ``*`` and ``#`` that mean themselves."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


ANY_WORD: Final = Wild("*")
"""One word. In the first place: any topic, whatever its name."""
ANY_REST: Final = Wild("#")
"""Any number of words, none included; at the end only. In the first place: any address."""
ANY_PLAIN: Final = Wild("*")
"""In the first place, for who may see no more: any topic whose name is one dotted word."""

Pattern = tuple[str | Wild, ...]
Runs = list[tuple[int, int]]
"""``(first, end)`` indexes of a batch's records, ascending, apart from each other."""

_ALL = -1
_Words = tuple[str, ...]


def lives_in_other(word: str) -> bool:
    """Whether an address that begins so lies in topic `_other`, since no client's topic has that name."""
    return word == "operations" or not legal_topic(word)


class Node(Generic[E]):
    """``label``: the words between the parent and here. ``entries``: what stands under the pattern that ends here."""

    __slots__ = ("children", "entries", "label", "literal", "parent")

    def __init__(self, parent: Node[E] | None, label: Pattern) -> None:
        self.parent = parent
        self.children: dict[str | Wild, Node[E]] | None = None
        self.entries: list[E] = []
        self.relabel(label)

    def __repr__(self) -> str:
        return f"<Node {self.label} {len(self.entries)}>"

    def relabel(self, label: Pattern) -> None:
        self.label = label
        self.literal = all(isinstance(word, str) for word in label)

    def takes_all_or_nothing(self) -> bool:
        """Whether it makes no difference here how an address goes on."""
        children = self.children or {}
        return not self.entries and len(children) == (ANY_REST in children)

    def put(self, child: Node[E]) -> None:
        child.parent = self
        if self.children is None:
            self.children = {}
        self.children[child.label[0]] = child

    def split(self, at: int) -> Node[E]:
        """A new node in the middle of this one's label. What stands here stays at this node, which moves down."""
        upper: Node[E] = Node(None, self.label[:at])
        if self.parent is not None:
            self.parent.put(upper)
        self.relabel(self.label[at:])
        upper.put(self)
        return upper

    def merge(self) -> None:
        """Take out a node where nothing stands and nothing parts: its one child moves up."""
        [child] = (self.children or {}).values()
        child.relabel(self.label + child.label)
        if self.parent is not None:
            self.parent.put(child)

    def reached(self, words: _Words, at: int) -> int | None:
        """How far into ``words`` the label leads from ``at`` on, its first word being looked up already; `_ALL` if it
        takes the rest, None if it does not fit."""
        label = self.label
        end = at + len(label)
        if len(label) == 1:
            return end
        if self.literal:
            return end if words[at:end] == label else None
        for place, word in enumerate(label[1:], at + 1):
            if word is ANY_REST:
                return _ALL
            if place >= len(words) or (word is not ANY_WORD and word != words[place]):
                return None
        return end


class _Found(Generic[E]):
    """What is known of a topic. ``same``: all that is found, if it does not depend on the key."""

    __slots__ = ("keys", "roots", "same", "sets")

    def __init__(self, roots: list[Node[E]], same: tuple[Node[E], ...] | None) -> None:
        self.roots = roots
        self.same = same
        self.keys: dict[bytes | None, tuple[Node[E], ...]] = {}
        self.sets: dict[tuple[Node[E], ...], tuple[Node[E], ...]] = {}

    def size(self) -> int:
        return 1 + len(self.keys)


class PatternIndex(Generic[E]):
    def __init__(self) -> None:
        self._tops: dict[str | Wild, Node[E]] = {}
        self._topics: dict[str, _Found[E]] = {}
        self._cached = 0

    def add(self, pattern: Pattern, entry: E) -> Node[E]:
        """Returns where it stands, to give to `remove`."""
        node = self._tops.get(pattern[0])
        if node is None:
            node = self._tops[pattern[0]] = Node(None, pattern[:1])
        at = 1
        while at < len(pattern):
            child = node.children.get(pattern[at]) if node.children else None
            if child is None:
                child = Node(node, pattern[at:])
                node.put(child)
            shared = _shared(child.label, pattern, at)
            node = child if shared == len(child.label) else child.split(shared)
            at += shared
        if not node.entries:
            self._forget(pattern[0])
        node.entries.append(entry)
        return node

    def emptied(self, node: Node[E]) -> None:
        """Nothing stands at the node any more; it goes, with all that was there for its sake."""
        top = node
        while top.parent is not None:
            top = top.parent
        self._forget(top.label[0])
        while not node.entries and not node.children:
            if node.parent is None:
                del self._tops[node.label[0]]
                return
            parent, node.parent = node.parent, None
            if parent.children is not None:
                del parent.children[node.label[0]]
            parent.children = parent.children or None
            node = parent
        if node.parent is not None and not node.entries and node.children is not None and len(node.children) == 1:
            node.merge()

    def __bool__(self) -> bool:
        return bool(self._tops)

    def _forget(self, first: str | Wild) -> None:
        """What was found is no longer what is to be found, for a change in the patterns that begin so."""
        if isinstance(first, Wild):
            self._forget_all()
        else:
            found = self._topics.pop(OTHER if lives_in_other(first) else first, None)
            if found is not None:
                self._cached -= found.size()

    def _forget_all(self) -> None:
        self._topics.clear()
        self._cached = 0

    # Finding

    def runs(
        self, topic: str, records: Sequence[Record], first: int, end: int
    ) -> Generator[None, None, dict[Node[E], Runs]]:
        """The nodes whose patterns mean some of ``records[first:end]``, and which. Yields between long steps; a pattern
        that comes or goes meanwhile may be found or not."""
        found = self._found(topic)
        if found.same is not None:
            return {node: [(first, end)] for node in found.same}
        keys = [record.key for record in records[first:end]]
        if keys.count(keys[0]) == len(keys):
            return {node: [(first, end)] for node in self._nodes(topic, found, keys[0])}
        known = list(map(found.keys.get, keys))
        if None in known:
            for index, nodes in enumerate(known):
                if nodes is None:
                    known[index] = self._nodes(topic, found, keys[index])
                    yield
        return _cut(known, first)

    def _found(self, topic: str) -> _Found[E]:
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = self._look(topic)
            self._cached += found.size()
        return found

    def _look(self, topic: str) -> _Found[E]:
        if topic == OTHER:
            same = None if self._tops else ()
            return _Found([], same)
        firsts = (topic, ANY_WORD) if "." in topic else (topic, ANY_WORD, ANY_PLAIN)
        roots = [root for first in firsts if (root := self._tops.get(first)) is not None]
        if all(root.takes_all_or_nothing() for root in roots):
            return _Found(roots, self._reach(roots, (), 0))
        return _Found(roots, None)

    def _nodes(self, topic: str, found: _Found[E], key: bytes | None) -> tuple[Node[E], ...]:
        nodes = found.keys.get(key)
        return self._search(topic, found, key) if nodes is None else nodes

    def _search(self, topic: str, found: _Found[E], key: bytes | None) -> tuple[Node[E], ...]:
        words: _Words = () if key is None else tuple(key_text(key).split("."))
        nodes = self._reach_other(words) if topic == OTHER else self._reach(found.roots, words, 0)
        nodes = found.sets.setdefault(nodes, nodes)
        if key is None or len(key) <= _CACHED_KEY_SIZE:
            self._cached += 1
            found.keys[key] = nodes
        if self._cached > _CACHED or len(found.sets) > _CACHED:
            self._forget_all()
        return nodes

    def _reach_other(self, words: _Words) -> tuple[Node[E], ...]:
        """In `_other` the key is the whole address. A word that is some topic's name there is nobody's message."""
        if not words:
            return self._reach([], words, 0)
        firsts = (words[0], ANY_WORD) if lives_in_other(words[0]) else (ANY_WORD,)
        return self._reach([root for first in firsts if (root := self._tops.get(first)) is not None], words, 1)

    def _reach(self, roots: Sequence[Node[E]], words: _Words, at: int) -> tuple[Node[E], ...]:
        """All nodes where something stands whose patterns mean the words after a first one that led to ``roots``."""
        everything = self._tops.get(ANY_REST)
        reached = [] if everything is None else [everything]
        left = [(root, at) for root in roots]
        while left:
            node, at = left.pop()
            if at == len(words) and node.entries:
                reached.append(node)
            children = node.children
            if children is None:
                continue
            if (rest := children.get(ANY_REST)) is not None:
                reached.append(rest)
            if at < len(words):
                for word in (words[at], ANY_WORD):
                    if (child := children.get(word)) is not None and (end := child.reached(words, at)) is not None:
                        if end == _ALL:
                            reached.append(child)
                        else:
                            left.append((child, end))
        return tuple(reached)


def _shared(label: Pattern, pattern: Pattern, at: int) -> int:
    """How many words the label and the pattern from ``at`` on begin with in common."""
    if pattern[at : at + len(label)] == label:
        return len(label)
    count = 0
    for ours, theirs in zip(label, pattern[at:], strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def _cut(known: Sequence[tuple[Node[E], ...] | None], first: int) -> dict[Node[E], Runs]:
    """Runs of records for which a node is found, the first record being number ``first``."""
    runs: dict[Node[E], Runs] = {}
    last = known[0] or ()
    start = 0
    for index, nodes in enumerate([*known, None]):
        if nodes is last:
            continue
        for node in last:
            before = runs.get(node)
            if before is None:
                runs[node] = [(first + start, first + index)]
            elif before[-1][1] == first + start:
                before[-1] = (before[-1][0], first + index)
            else:
                before.append((first + start, first + index))
        last, start = nodes or (), index
    return runs
