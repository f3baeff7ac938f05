"""Any value of any type comes back as it was; anything else is refused, by paths that lead somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polywire.contract.codec import Codec
from polywire.contract.paths import member
from polywire.core.errors import FieldError, Invalid
from tests.contract.strategies import mutated, samples

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
MODELS = samples(families=("pydantic", "dataclass"))


@QUICK
@given(st.one_of(samples(), MODELS))
def test_bytes_and_builtins(sample: tuple[Any, Any]) -> None:
    hint, value = sample
    codec: Codec[Any] = Codec(hint)
    payload = codec.encode(value)
    assert codec.decode(payload) == value
    builtins = codec.to_builtins(value)
    assert codec.from_builtins(builtins) == value
    if not codec.raw:
        assert builtins == msgspec.json.decode(payload)


@QUICK
@given(st.one_of(samples(), MODELS), st.data())
def test_wrong_values(sample: tuple[Any, Any], data: st.DataObject) -> None:
    hint, value = sample
    codec: Codec[Any] = Codec(hint)
    builtins = data.draw(mutated(codec.to_builtins(value)))
    payload = json.dumps(builtins).encode()
    if codec.raw:
        return
    read, wrong = outcome(codec.decode, payload)
    assert outcome(codec.from_builtins, builtins) == (read, wrong)
    if not wrong:
        assert codec.from_builtins(codec.to_builtins(read)) == read
    for path, message in wrong:
        assert leads_somewhere(path, builtins), path
        assert message


@QUICK
@given(st.one_of(samples(), MODELS), st.data(), st.sampled_from(["", " "]))
def test_any_member_given_twice(sample: tuple[Any, Any], data: st.DataObject, space: str) -> None:
    hint, value = sample
    codec: Codec[Any] = Codec(hint)
    builtins = codec.to_builtins(value)
    fewer = data.draw(mutated(builtins))
    if not outcome(codec.from_builtins, fewer)[1]:
        builtins = fewer  # fields with defaults are missing, perhaps
    builtins = json.loads(json.dumps(builtins))  # so that no two places are one object
    places = list(objects_in("$", builtins))
    if codec.raw or not places:
        return
    path, found = data.draw(st.sampled_from(places))
    name = data.draw(st.sampled_from(sorted(found)))
    payload = doubled(builtins, found, name, space).encode()
    assert msgspec.json.decode(payload) == builtins
    wrong = outcome(codec.decode, payload)[1]
    assert [field.message for field in wrong] == ["is given twice"]
    assert wrong[0].path.startswith(path)


def objects_in(path: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict) and value:
        yield path, value
        for name, one in value.items():
            yield from objects_in(path + member(name), one)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from objects_in(f"{path}[{index}]", one)


def doubled(value: Any, chosen: Any, name: str, space: str) -> str:
    """JSON in which one member of one object stands twice."""
    if isinstance(value, dict):
        members = [*value.items(), *([(name, value[name])] if value is chosen else [])]
        return "{" + ",".join(f"{json.dumps(k)}{space}:{doubled(v, chosen, name, space)}" for k, v in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(doubled(one, chosen, name, space) for one in value) + "]"
    return json.dumps(value)


def outcome(call: Callable[[Any], Any], given: Any) -> tuple[Any, tuple[FieldError, ...]]:
    """What was read, or the fields that are wrong; nothing but `Invalid` is ever raised."""
    try:
        return call(given), ()
    except Invalid as error:
        return None, error.fields


_STEPS = re.compile(r'\.([A-Za-z_][\w-]*)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')


def leads_somewhere(path: str, value: Any) -> bool:
    """Up to its last step, which may be the name of what is missing."""
    assert path.startswith("$")
    at = 1
    while at < len(path):
        step = _STEPS.match(path, at)
        if step is None:
            return False
        name, index, quoted = step.groups()
        at = step.end()
        if index is not None:
            value = value[int(index)]
        else:
            key = name if name is not None else json.loads(quoted)
            if at == len(path):
                return isinstance(value, dict)
            value = value[key]
    return True
