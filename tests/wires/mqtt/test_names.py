"""Topic names and filters ↔ addresses of the core."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.core.live import ANY_REST, ANY_WORD
from polywire.core.matching import KeyIndex
from polywire.core.message import Record
from polywire.core.patterns import PatternIndex
from polywire.core.routing import Binding, Source
from polywire.wires.mqtt.names import Filter, mqtt_name, read_filter, read_name
from polywire.wires.mqtt.reasons import MqttError, Reason


@pytest.mark.parametrize(
    ("name", "topic", "key"),
    [
        ("readings", "readings", None),
        ("readings/", "readings", b""),
        ("readings//", "readings", b"."),
        ("readings/kitchen/temp", "readings", b"kitchen.temp"),
        ("readings/a.b/c", "readings", b"a/b.c"),
        ("plant.a/v1.2/x", "plant.a", b"v1/2.x"),
        ("default", "default", None),
        ("default/x", "default", b"x"),
        ("-./é", "-.", "é".encode()),
        ("t/*", "t", b"*"),
        ("t/$SYS", "t", b"$SYS"),
        ("t/operations/x", "t", b"operations.x"),
        ("Operations/x", "Operations", b"x"),
        ("operationsx", "operationsx", None),
        ("x" * 249, "x" * 249, None),
        ("x" * 250 + "/y", "_other", b"x" * 250 + b".y"),
        ("/a/b", "_other", b".a.b"),
        ("/", "_other", b"."),
        ("my topic/a.b", "_other", b"my topic.a/b"),
        ("café.x/v1.2", "_other", "café/x.v1/2".encode()),
        ("_dead/letters", "_other", b"_dead.letters"),
        ("_other/x", "_other", b"_other.x"),
        ("amq.topic/x", "_other", b"amq/topic.x"),
        ("polywire.x/y", "_other", b"polywire/x.y"),
        ("*/x", "_other", b"*.x"),
        ("\ufeffx", "_other", "\ufeffx".encode()),
    ],
)
def test_names_are_addresses(name: str, topic: str, key: bytes | None) -> None:
    assert read_name(name.encode()) == (topic, key, None)
    assert mqtt_name(topic, key) == name.encode()


@pytest.mark.parametrize("operation", ["add", "billing.total", "replies/client 1/x", "a/b"])
def test_below_operations_are_calls(operation: str) -> None:
    name = read_name(f"operations/{operation}".encode())
    assert name.operation == operation
    assert mqtt_name(name.topic, name.key) is None


@pytest.mark.parametrize(
    ("name", "reason", "clause"),
    [
        (b"", Reason.PROTOCOL_ERROR, "MQTT-4.7.3-1"),
        (b"a/+/b", Reason.PROTOCOL_ERROR, "MQTT-3.3.2-2"),
        (b"a/b#", Reason.PROTOCOL_ERROR, "MQTT-3.3.2-2"),
        (b"a\0b", Reason.MALFORMED_PACKET, "MQTT-4.7.3-2"),
        (b"a/\xff", Reason.MALFORMED_PACKET, "byte 2"),
        (b"\xed\xa0\x80", Reason.MALFORMED_PACKET, "byte 0"),  # a surrogate [MQTT-1.5.4-1]
        (b"\xc0\x80", Reason.MALFORMED_PACKET, "byte 0"),  # U+0000, too long
        (b"$SYS/broker", Reason.TOPIC_NAME_INVALID, "$SYS"),
        (b"$share/g/t", Reason.TOPIC_NAME_INVALID, "$share"),
        (b"$", Reason.TOPIC_NAME_INVALID, "$"),
        (b"operations", Reason.TOPIC_NAME_INVALID, "operations"),
        (b"operations/", Reason.TOPIC_NAME_INVALID, "operations"),
        (b"$" + b"x" * 60_000, Reason.TOPIC_NAME_INVALID, "$xxx"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_nobody_publishes_to(name: bytes, reason: int, clause: str) -> None:
    with pytest.raises(MqttError) as caught:
        read_name(name)
    assert caught.value.reason == reason
    assert clause in caught.value.detail
    assert len(caught.value.detail) < 250


@pytest.mark.parametrize(
    ("topic", "key"),
    [
        ("t", b"\xff"),
        ("t", b"a\0"),
        ("t", b"a.+"),
        ("t", b"#"),
        ("t", b"a+b"),
        ("t", b"x" * 70_000),
        ("_dead", b"letters"),
        ("_jobs", None),
        ("operations", b"add"),
        ("amq.topic", b"x"),
        ("_other", None),
        ("_other", b""),
        ("_other", b"readings.kitchen"),  # MQTT looks for it in the topic readings
        ("_other", b"operations.add"),
        ("_other", b"$SYS.broker"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_addresses_that_mqtt_has_no_name_for(topic: str, key: bytes | None) -> None:
    assert mqtt_name(topic, key) is None


LEVELS = ["", "a", "b", "*", "a.b", "b.a", "x:y", "_c", "default", "amq.q", "é.", ".", "A-1_2"]
names = st.lists(st.sampled_from(LEVELS), min_size=1, max_size=4).map("/".join).filter(bool)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=30)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.sampled_from([*LEVELS, "+", "+"]), max_size=4))
    if draw(st.booleans()):
        levels.append("#")
    text = "/".join(levels)
    return text or "+"


@settings(deadline=None, max_examples=150)
@given(st.one_of(texts, names))
def test_every_legal_name_comes_back(name: str) -> None:
    raw = name.encode()
    if name[0] == "$" or name in ("operations", "operations/"):
        with pytest.raises(MqttError):
            read_name(raw)
        return
    found = read_name(raw)
    if found.operation is None:
        assert mqtt_name(found.topic, found.key) == raw
    else:
        assert f"operations/{found.operation}" == name


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["t", "a.b", "default", "_other", "_dead", "operations"]), st.none() | st.binary(max_size=20))
def test_a_name_leads_back_to_its_address(topic: str, key: bytes | None) -> None:
    name = mqtt_name(topic, key)
    if name is not None:
        assert read_name(name) == (topic, key, None)


# --- filters ---------------------------------------------------------------------------------------------------------


def means(levels: list[str], name: list[str]) -> bool:
    """Word by word as MQTT 5 §4.7.1 has it."""
    if levels == ["#"]:
        return True
    if not levels or not name:
        return levels == name or (levels == ["#"] and not name)
    if levels[0] not in ("+", name[0]):
        return False
    if not name[1:] and levels[1:] == ["#"]:
        return True  # §4.7.1.2: the parent, too
    return means(levels[1:], name[1:])


def matches(filter: str, name: str) -> bool:
    if name[0] == "$" and filter[0] in "+#":  # [MQTT-4.7.2-1]
        return False
    return means(filter.split("/"), name.split("/"))


@pytest.mark.parametrize(
    ("filter", "name", "fits"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/x", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/x", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("ACCOUNTS", "Accounts", False),
        ("/finance", "finance", False),
    ],
)
def test_the_examples_of_the_specification(filter: str, name: str, fits: bool) -> None:
    """§4.7.1.2, §4.7.1.3, §4.7.2, §4.7.3."""
    assert matches(filter, name) is fits
    assert read_filter(filter).matches(name.encode()) is fits


def live_takes(filter: Filter, topic: str, key: bytes | None) -> bool:
    index: PatternIndex[object] = PatternIndex()
    index.add(filter.live_pattern, object())
    search = index.runs(topic, [Record(key=key)], 0, 1)
    while True:
        try:
            next(search)
        except StopIteration as stop:
            return bool(stop.value)


def source_takes(source: Source, topic: str, key: bytes | None) -> bool:
    """As the core routes it."""
    place = SimpleNamespace(bindings={}, filtered=KeyIndex(), shown={})
    reader = SimpleNamespace(settings=SimpleNamespace(kind="session"))
    Binding(cast("Any", reader), source, 0).attach(cast("Any", place))
    return source.takes_topic(topic) and (bool(place.bindings) or bool(place.filtered.match(key)))


@settings(deadline=None, max_examples=500)
@given(filters(), st.one_of(names, texts))
def test_filters_mean_what_they_mean_in_mqtt(text: str, name: str) -> None:
    try:
        topic, key, operation = read_name(name.encode())
    except MqttError:
        return
    read = read_filter(text)
    fits = matches(text, name)
    assert read.matches(name.encode()) is fits
    if operation is not None:
        return
    assert live_takes(read, topic, key) is fits
    taking = [source for source in read.sources if source_takes(source, topic, key)]
    assert len(taking) <= 1, "a message is held once"
    assert bool(taking) is fits or (taking and "*" in text.split("/")), "more is held for a level that is a *"


@settings(deadline=None, max_examples=150)
@given(names)
def test_a_name_is_a_filter_of_itself(name: str) -> None:
    assert read_filter(name).matches(name.encode())
    assert read_filter(f"{name}/#").matches(name.encode())


@pytest.mark.parametrize(
    ("text", "pattern", "dotted"),
    [
        ("readings", ("readings",), "readings"),
        ("readings/#", ("readings", ANY_REST), "readings.#"),
        ("readings/+/v1.2", ("readings", ANY_WORD, "v1/2"), "readings.*.v1/2"),
        ("plant.a/+", ("plant.a", ANY_WORD), "plant.a.*"),
        ("readings/*", ("readings", "*"), "readings.*"),
        ("/a/#", ("", "a", ANY_REST), "_other..a.#"),
        ("_dead/#", ("_dead", ANY_REST), "_other._dead.#"),
        ("amq.q/+", ("amq/q", ANY_WORD), "_other.amq/q.*"),
        ("#", (ANY_REST,), "#"),
        ("+/a", (ANY_WORD, "a"), "*.a"),
    ],
)
def test_patterns(text: str, pattern: tuple[object, ...], dotted: str) -> None:
    read = read_filter(text)
    assert read.live_pattern == pattern
    assert read.dotted == dotted
    assert not any([read.sys, read.direct, read.operation, read.share])


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("readings", [Source("readings", keyless=True)]),
        ("readings/", [Source("readings", "")]),
        ("readings/#", [Source("readings")]),
        ("readings/+/v1.2/#", [Source("readings", "*.v1/2.#")]),
        ("/a/#", [Source("_other", ".a.#")]),
        ("#", [Source("#"), Source("default"), Source("_other")]),
        ("+", [Source("#", keyless=True), Source("default", keyless=True), Source("_other", "*")]),
        ("+/a.b", [Source("#", "a/b"), Source("default", "a/b"), Source("_other", "*.a/b")]),
    ],
)
def test_sources(text: str, sources: list[Source]) -> None:
    assert read_filter(text).sources == sources


def test_shared_subscriptions() -> None:
    read = read_filter("$share/workers/readings/+")
    assert read.share == "workers/readings/+"
    assert read.sources == [Source("readings", "*")]
    assert read.matches(b"readings/x")
    assert read.text == "$share/workers/readings/+"
    assert read_filter("$share/workers//x").sources == [Source("_other", ".x")]
    assert read_filter("$share/workers/a").share != read_filter("$share/workers/b").share


def test_what_is_in_no_topic() -> None:
    figures = read_filter("$SYS/broker/#")
    assert (figures.sys, figures.direct, figures.dotted) == (True, True, "$SYS.broker.#")
    assert figures.matches(b"$SYS/broker/version")
    assert figures.sources == []
    replies = read_filter("operations/replies/me/+")
    assert (replies.operation, replies.direct, replies.sources) == ("replies/me/+", True, [])
    assert replies.matches(b"operations/replies/me/1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.PROTOCOL_ERROR),
        ("a/#/b", Reason.PROTOCOL_ERROR),
        ("a#", Reason.PROTOCOL_ERROR),
        ("a/b#", Reason.PROTOCOL_ERROR),
        ("#/a", Reason.PROTOCOL_ERROR),
        ("a+", Reason.PROTOCOL_ERROR),
        ("a/+b/c", Reason.PROTOCOL_ERROR),
        ("++", Reason.PROTOCOL_ERROR),
        ("##", Reason.PROTOCOL_ERROR),
        ("a\0", Reason.MALFORMED_PACKET),
        ("$share", Reason.PROTOCOL_ERROR),
        ("$share/", Reason.PROTOCOL_ERROR),
        ("$share/g", Reason.PROTOCOL_ERROR),
        ("$share/g/", Reason.PROTOCOL_ERROR),
        ("$share//a", Reason.PROTOCOL_ERROR),
        ("$share/g+/a", Reason.PROTOCOL_ERROR),
        ("$share/#/a", Reason.PROTOCOL_ERROR),
        ("$share/g/a/#/b", Reason.PROTOCOL_ERROR),
        ("$share/g/$SYS/#", Reason.TOPIC_FILTER_INVALID),
        ("$shared/g/a", Reason.TOPIC_FILTER_INVALID),
        ("$queue/a", Reason.TOPIC_FILTER_INVALID),
        ("$", Reason.TOPIC_FILTER_INVALID),
        ("/".join(["a"] * 201), Reason.TOPIC_FILTER_INVALID),
        ("/" * 60_000, Reason.TOPIC_FILTER_INVALID),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_filters_that_are_refused(text: str, reason: int) -> None:
    with pytest.raises(MqttError) as caught:
        read_filter(text)
    assert caught.value.reason == reason
    assert len(caught.value.detail) < 250


def test_a_deep_filter() -> None:
    text = "/".join(["a", *["+"] * 198, "#"])
    read = read_filter(text)
    assert read.matches(b"/".join([b"a"] * 199))
    assert not read.matches(b"/".join([b"a"] * 198))


def test_names_of_strangers_do_not_fill_the_memory() -> None:
    def use(count: int) -> None:
        for number in range(count):
            read_name(b"t/%d/%b" % (number, b"x" * 90))
            mqtt_name("t", b"%d.%b" % (number, b"x" * 90))
        for number in range(100):
            read_name(b"t/%d/%b" % (number, b"x" * 60_000))
            mqtt_name("t", b"%d.%b" % (number, b"x" * 60_000))

    tracemalloc.start()
    use(3_000)
    before, _ = tracemalloc.get_traced_memory()
    use(20_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert before < 4_000_000
    assert after < 25_000_000, "16,384 of each at most"
