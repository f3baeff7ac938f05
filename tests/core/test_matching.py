from hypothesis import given
from hypothesis import strategies as st

from polywire.core.address import covers
from polywire.core.matching import KeyIndex

words = st.sampled_from(["a", "b", "", "c"])
patterns = st.lists(st.sampled_from(["a", "b", "", "*", "#"]), min_size=1, max_size=5).map(".".join)
keys = st.lists(words, min_size=1, max_size=5).map(".".join)


@given(st.lists(patterns, max_size=8), st.lists(keys, min_size=1, max_size=6))
def test_finds_the_patterns_that_cover_a_key(added: list[str], wanted: list[str]) -> None:
    index: KeyIndex[int] = KeyIndex()
    for number, pattern in enumerate(added):
        index.add(pattern, number)
    for key in wanted:
        expected = {number for number, pattern in enumerate(added) if covers(pattern, key)}
        found = index.match(key.encode())
        assert set(found) == expected
        assert len(found) == len(expected)


@given(st.lists(st.tuples(st.booleans(), patterns, st.integers(0, 3)), max_size=20), keys)
def test_follows_additions_and_removals(steps: list[tuple[bool, str, int]], key: str) -> None:
    index: KeyIndex[int] = KeyIndex()
    there: set[tuple[str, int]] = set()
    for add, drawn, value in steps:
        # "#.#" and "#" are one pattern to the index.
        pattern = "#" if set(drawn.split(".")) == {"#"} else drawn
        if add:
            index.add(pattern, value)
            there.add((pattern, value))
        else:
            index.remove(pattern, value)
            there.discard((pattern, value))
        assert set(index.match(key.encode())) == {value for pattern, value in there if covers(pattern, key)}
        assert set(index.match(None)) == {value for pattern, value in there if pattern == "#"}
    for pattern, value in there:
        index.remove(pattern, value)
    assert len(index) == 0
    assert not index._root.words


def test_a_keyless_message_has_no_words() -> None:
    index: KeyIndex[str] = KeyIndex()
    index.add("#", "all")
    index.add("*", "one")
    index.add("", "empty")
    assert index.match(None) == ("all",)
    assert set(index.match(b"")) == {"all", "one", "empty"}


def test_values_for_messages_without_a_key() -> None:
    index: KeyIndex[str] = KeyIndex()
    for _ in range(2):
        index.add(None, "none")
        index.add("#", "both")
        index.add(None, "both")
    assert index.match(None) == ("both", "none")
    assert index.match(b"") == index.match(b"a") == ("both",)
    assert len(index) == 3
    index.remove("#", "both")
    assert index.match(None) == ("none", "both")
    assert index.match(b"a") == ()
    for _ in range(2):
        index.remove(None, "none")
        index.remove(None, "both")
    assert (index.match(None), len(index)) == ((), 0)


def test_the_same_value_under_two_patterns_is_found_once() -> None:
    index: KeyIndex[str] = KeyIndex()
    index.add("a.*", "v")
    index.add("a.#", "v")
    assert index.match(b"a.b") == ("v",)
    index.remove("a.*", "v")
    assert index.match(b"a.b") == ("v",)
    assert len(index) == 1


def test_hostile_patterns_and_keys_cost_little() -> None:
    index: KeyIndex[int] = KeyIndex()
    for number in range(50):
        index.add(".".join(["#", "a"] * number + ["z"]), number)
    assert index.match(b".".join([b"a"] * 300)) == ()
