from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polywire.core.message import Record
from polywire.core.patterns import ANY_REST, ANY_WORD, Node, Pattern, PatternIndex
from tests.core.listeners import means

words = st.sampled_from(["a", "b", "", "*", "#"])
firsts = st.sampled_from(["t", "u.v", "default", "/x", "", ANY_WORD])
middles = st.lists(words | st.just(ANY_WORD), max_size=5)
patterns = st.builds(
    lambda first, middle, rest: (first, *middle, ANY_REST) if rest else (first, *middle), firsts, middles, st.booleans()
) | st.just((ANY_REST,))
keys = st.none() | st.lists(words | st.sampled_from(["t", "/x"]), min_size=1, max_size=6).map(
    lambda chosen: ".".join(chosen).encode()
)
alike = st.lists(st.sampled_from(["a", "b", ANY_WORD]), max_size=4).map(lambda middle: ("t", *middle))
some = st.lists(patterns | alike, min_size=1, max_size=8)
changes = some.flatmap(lambda chosen: st.lists(st.tuples(st.booleans(), st.sampled_from(chosen)), max_size=30))
topics = st.sampled_from(["t", "u.v", "w", "default", "_other"])


class Places:
    """An index in which each pattern stands once."""

    def __init__(self) -> None:
        self.index: PatternIndex[Pattern] = PatternIndex()
        self.nodes: dict[Pattern, Node[Pattern]] = {}

    def add(self, pattern: Pattern) -> None:
        if pattern not in self.nodes:
            self.nodes[pattern] = self.index.add(pattern, pattern)

    def remove(self, pattern: Pattern) -> None:
        if pattern in self.nodes:
            node = self.nodes.pop(pattern)
            node.entries.remove(pattern)
            self.index.emptied(node)

    def find(self, topic: str, *keys: bytes | None) -> dict[Pattern, list[tuple[int, int]]]:
        looking = self.index.runs(topic, [Record(key=key) for key in keys], 0, len(keys))
        while True:
            try:
                next(looking)
            except StopIteration as found:
                return {pattern: runs for node, runs in found.value.items() for pattern in node.entries}

    def matching(self, topic: str, key: bytes | None) -> set[Pattern]:
        return set(self.find(topic, key))


def every_node(places: Places) -> list[Node[Pattern]]:
    nodes = list(places.index._tops.values())
    for node in nodes:
        nodes += (node.children or {}).values()
    return nodes


@given(changes, st.lists(st.tuples(topics, keys), max_size=5))
def test_finds_the_patterns_that_mean_an_address(
    steps: list[tuple[bool, Pattern]], wanted: list[tuple[str, bytes | None]]
) -> None:
    places = Places()
    for add, pattern in steps:
        (places.add if add else places.remove)(pattern)
        for topic, key in wanted:
            assert places.matching(topic, key) == {p for p in places.nodes if means(p, topic, key)}
        assert all(node.entries or len(node.children or ()) > 1 for node in every_node(places) if node.parent)
    for pattern in list(places.nodes):
        places.remove(pattern)
    assert not places.index
    assert all(not places.matching(topic, key) for topic, key in wanted)


@given(st.lists(patterns, max_size=6), topics, st.lists(keys, min_size=1, max_size=12))
def test_runs_are_as_long_as_a_pattern_matches(added: list[Pattern], topic: str, batch: list[bytes | None]) -> None:
    places = Places()
    for pattern in added:
        places.add(pattern)
    found = places.find(topic, *batch)
    for pattern in places.nodes:
        runs = found.get(pattern, [])
        assert [i for first, end in runs for i in range(first, end)] == [
            index for index, key in enumerate(batch) if means(pattern, topic, key)
        ]
        assert all(end < first for (_, end), (first, _) in pairwise(runs)), "runs are apart"


def test_a_pattern_of_all_is_one_run_whatever_the_keys() -> None:
    places = Places()
    keys = [b"%d" % number for number in range(100)]
    places.add((ANY_REST,))
    places.add(("t", ANY_REST))
    assert places.find("t", *keys) == {(ANY_REST,): [(0, 100)], ("t", ANY_REST): [(0, 100)]}
    places.add(("t", "50"))
    assert places.find("t", *keys) == {(ANY_REST,): [(0, 100)], ("t", ANY_REST): [(0, 100)], ("t", "50"): [(50, 51)]}
    places.remove(("t", "50"))
    assert len(places.find("t", *keys)) == 2
    assert not places.index._topics["t"].keys, "nobody looks at the keys any more"


def test_words_that_look_like_wildcards_mean_themselves() -> None:
    places = Places()
    for pattern in [("t", "*"), ("t", "#"), ("t", ANY_WORD), ("t", ANY_REST)]:
        places.add(pattern)
    assert places.matching("t", b"*") == {("t", "*"), ("t", ANY_WORD), ("t", ANY_REST)}
    assert places.matching("t", b"a") == {("t", ANY_WORD), ("t", ANY_REST)}
    assert places.matching("t", b"#.#") == {("t", ANY_REST)}
    assert places.matching("t", None) == {("t", ANY_REST)}


def test_what_was_found_is_forgotten_when_patterns_change() -> None:
    places = Places()
    places.add(("t", "a", "b"))
    for _ in range(2):
        assert places.matching("t", b"a.b") == {("t", "a", "b")}
        assert places.matching("_other", b"/x.y") == set()
        places.add(("/x", ANY_REST))
        places.add((ANY_WORD, "a", ANY_REST))
        assert places.matching("t", b"a.b") == {("t", "a", "b"), (ANY_WORD, "a", ANY_REST)}
        assert places.matching("_other", b"/x.y") == {("/x", ANY_REST)}
        places.remove(("/x", ANY_REST))
        places.remove((ANY_WORD, "a", ANY_REST))


def test_what_is_remembered_is_bounded() -> None:
    places = Places()
    places.add(("t", "1", ANY_REST))
    for first in range(0, 100_000, 1_000):
        places.find("t", *[b"%d.x" % number for number in range(first, first + 1_000)])
        places.find("t", b"1.%d" % first + b"x" * 1_000)
    found = places.index._topics["t"]
    assert len(found.keys) <= 33_000
    assert all(key is None or len(key) <= 128 for key in found.keys)


def test_a_pattern_that_goes_takes_what_it_brought() -> None:
    places = Places()
    places.add(("t", "a", "b", "c", "d"))
    alone = len(every_node(places))
    for pattern in [("t", "a", "b", "x"), ("t", "a"), ("t", "a", ANY_WORD), ("t",), ("t", "a", "b", "c", "d", "e")]:
        places.add(pattern)
        places.remove(pattern)
        assert len(every_node(places)) == alone
        assert places.matching("t", b"a.b.c.d") == {("t", "a", "b", "c", "d")}


def test_long_patterns_take_what_their_text_takes() -> None:
    """A node for each place where two of them part, not one for each of their words."""
    places = Places()
    for number in range(100):
        places.add((*["t"], *["a"] * number, *["b"] * (1_000 - number)))
        places.add((*["t"], *["a", ANY_WORD] * 500, str(number)))
    assert len(every_node(places)) < 800


def test_hostile_patterns_cost_no_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of these begin as the key does, in many ways, and none means it."""
    places = Places()
    for number in range(1_024):
        choices = ["a" if number >> bit & 1 else ANY_WORD for bit in range(10)]
        places.add(("t", *choices, *["a"] * 900, "z"))
    key = b".".join([b"a"] * 911)
    looked_at = 0
    reached = Node.reached

    def counting(*arguments: object) -> int | None:
        nonlocal looked_at
        looked_at += 1
        return reached(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Node, "reached", counting)
    assert places.matching("t", key) == set()
    assert looked_at <= len(every_node(places))
