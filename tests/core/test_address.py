import contextlib
import itertools
import tracemalloc
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polywire.core.address import begins, covers, is_reserved, key_text, legal_topic, require_topic
from polywire.core.errors import Invalid
from polywire.core.position import Cursor, Position

MIB = 1 << 20


@pytest.mark.parametrize("name", ["a", "readings", "a.b", "-x", "0", "A-b_c.9", "a" * 249])
def test_legal_topics(name: str) -> None:
    assert legal_topic(name)
    assert require_topic(name) == name


@pytest.mark.parametrize("name", ["", "_a", "a/b", "a b", "ä", "a\n", "a" * 250, "my:exchange", "$SYS", "#", "*"])
def test_illegal_topics(name: str) -> None:
    assert not legal_topic(name)
    with pytest.raises(Invalid, match="not a topic name"):
        require_topic(name)


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("_dead", True),
        ("_x\n", True),
        ("operations", True),
        ("default", True),
        ("amq.topic", True),
        ("polywire.x", True),
        ("amq", False),
        ("polywire", False),
        ("operations.x", False),
    ],
)
def test_reserved_names(name: str, reserved: bool) -> None:
    assert is_reserved(name) is reserved


@pytest.mark.parametrize(
    ("pattern", "other", "covered"),
    [
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*", "", True),
        ("#.b", "b", True),
        ("#.b", "a.a.b", True),
        ("a.#.c", "a.c", True),
        ("a.*", "a.*", True),
        ("a.*", "a.#", False),
        ("a.#", "a.*.#", True),
        ("a.#.b", "a.*.b", True),
    ],
)
def test_what_a_pattern_covers(pattern: str, other: str, covered: bool) -> None:
    assert covers(pattern, other) is covered


WORDS = ("a", "b")
ADDRESSES = [".".join(words) for length in (1, 2, 3, 4) for words in itertools.product(WORDS, repeat=length)]
patterns = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=4).map(".".join)


def _means(pattern: list[str], words: list[str]) -> bool:
    """What a pattern means, the plain way."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_means(pattern[1:], words[taken:]) for taken in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _means(pattern[1:], words[1:])


@given(patterns, st.sampled_from(ADDRESSES))
def test_a_pattern_means_what_its_words_say(pattern: str, address: str) -> None:
    assert covers(pattern, address) == _means(pattern.split("."), address.split("."))


@given(patterns, patterns, st.sampled_from(ADDRESSES))
def test_whoever_may_use_a_pattern_may_use_all_it_means(pattern: str, other: str, address: str) -> None:
    if covers(pattern, other) and covers(other, address):
        assert covers(pattern, address)


@pytest.mark.parametrize(
    ("pattern", "topic", "some"),
    [
        ("#", "a", True),
        ("*", "a", True),
        ("a", "a", True),
        ("a.b", "a", True),
        ("a.#", "a.b", True),
        ("a.*.c", "a.b", True),
        ("b.#", "a", False),
        ("a", "a.b", False),
        ("a.c.#", "a.b", False),
    ],
)
def test_whether_a_pattern_means_something_of_a_topic(pattern: str, topic: str, some: bool) -> None:
    assert begins(topic, pattern) is some


@given(patterns, patterns.filter(lambda topic: "#" not in topic and "*" not in topic), st.sampled_from(ADDRESSES))
def test_whoever_may_use_an_address_may_use_something_of_its_topic(pattern: str, topic: str, key: str) -> None:
    if covers(pattern, topic) or covers(pattern, f"{topic}.{key}"):
        assert begins(topic, pattern)


def test_hostile_patterns_cost_little() -> None:
    began = perf_counter()
    assert not covers(".".join(["#", "a"] * 500), ".".join(["a"] * 1_000 + ["b"]))
    assert perf_counter() - began < 0.5


def test_hostile_names_cost_little_and_are_not_kept() -> None:
    tracemalloc.start()
    began = perf_counter()
    for index in range(20):
        assert covers("t.#", "t" + "." * 500_000 + str(index))
        assert not covers("t.*.x", "t" + "." * 500_000 + str(index))
    took = perf_counter() - began
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 10
    assert size < MIB


def test_keys_that_are_not_utf8_survive() -> None:
    assert key_text(b"\xff.a").encode("utf-8", "surrogateescape") == b"\xff.a"


@given(st.integers(0, 10**17), st.integers(-1, 10**17))
def test_positions_and_cursors_read_back(epoch: int, offset: int) -> None:
    assert Position.parse(str(Position(epoch, 0, offset))) == Position(epoch, 0, offset)
    assert Cursor.parse(str(Cursor(epoch, offset))) == Cursor(epoch, offset)


@given(st.text(max_size=30))
def test_any_text_is_a_cursor_or_invalid(text: str) -> None:
    with contextlib.suppress(Invalid):
        assert str(Cursor.parse(text)).split("-")[1] == "0"
