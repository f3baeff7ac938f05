import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.core.pending import CHUNK, Extra, Pending

seqs = st.integers(0, 5 * CHUNK)
counts = st.integers(1, 2 * CHUNK)
steps = st.one_of(
    st.tuples(st.just("add"), seqs, counts, st.booleans()),
    st.tuples(st.just("discard"), seqs, counts, st.just(False)),
    st.tuples(st.just("extra"), seqs, st.integers(1, 9), st.just(False)),
    st.tuples(st.just("clear"), seqs, counts, st.just(False)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=20), seqs)
def test_agrees_with_a_set(done: list[tuple[str, int, int, bool]], at: int) -> None:
    pending, model, stored = Pending(), set[int](), dict[int, tuple[bytes, bytes]]()
    volatile: set[int] = set()
    attempts: dict[int, int] = {}
    for verb, seq, count, memory in done:
        run = set(range(seq, seq + count))
        if verb == "add":
            # A sequence number is of a memory topic or of a durable one, never of both.
            run -= model
            assert sum(pending.add(s, volatile=memory) for s in run) == len(run)
            model |= run
            volatile = volatile | run if memory else volatile - run
        elif verb == "discard":
            assert pending.discard_range(seq, count) == len(run & model)
            model -= run
        elif verb == "extra" and seq in model:
            pending.extras[seq] = Extra(count, 0)
            pending.touch(seq)
            attempts[seq] = count
        elif verb == "clear":
            assert pending.clear(keep=run) == len(model - run)
            model &= run
        attempts = {s: a for s, a in attempts.items() if s in model}
        stored.update({chunk: (bits, extras) for chunk, bits, extras in pending.take_dirty()})
    assert pending.count == len(model)
    assert list(pending.from_(0)) == sorted(model)
    assert list(pending.from_(at)) == sorted(s for s in model if s >= at)
    assert pending.next_from(at) == min((s for s in model if s >= at), default=None)
    assert pending.holds(at, 7) == any(s in model for s in range(at, at + 7))
    assert {s: e.attempts for s, e in pending.extras.items()} == attempts
    loaded = Pending()
    for chunk, (bits, extras) in stored.items():
        loaded.load(chunk, bits, extras)
    assert list(loaded.from_(0)) == sorted(model - volatile)
    assert {s: e.attempts for s, e in loaded.extras.items()} == {s: a for s, a in attempts.items() if s not in volatile}
    assert not loaded.dirty


def test_a_run_is_added_at_once() -> None:
    pending = Pending()
    assert pending.add_range(10, 10_000_000) == 10_000_000
    assert pending.add_range(5, 10) == 5
    assert pending.count == 10_000_005
    assert pending.discard_range(0, 20_000_000) == 10_000_005
    assert pending.next_from(0) is None
    assert not pending._bits


def test_only_what_changed_is_stored() -> None:
    pending = Pending()
    pending.add_range(0, 3 * CHUNK)
    pending.take_dirty()
    pending.discard(CHUNK + 1)
    assert [chunk for chunk, _, _ in pending.take_dirty()] == [1]
    pending.add(1, volatile=True)
    assert pending.take_dirty() == []


def test_foreign_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="a pending chunk of"):
        Pending().load(0, bytes(CHUNK), b"")
