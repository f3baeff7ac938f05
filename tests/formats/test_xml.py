"""XML: the mapping in both directions, what is read besides, and what is refused."""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polywire.contract.codec import Codec
from polywire.contract.tree import Anything, Tree
from polywire.core.errors import Invalid, TooLarge, Unsupported
from polywire.formats.reading import Misread, checked
from polywire.formats.xml import XmlLimits, read_xml, write_xml
from tests.contract.strategies import samples
from tests.formats.hostile import MIB, mutations, prefixes, refusal, survives
from tests.formats.trees import VALUES, trees, values_of

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
XSI = ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
XS = ' xmlns:xs="http://www.w3.org/2001/XMLSchema"'


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Reading:
    sensor: str
    celsius: float
    count: int = 0
    ok: bool = True
    color: Color = Color.RED
    note: str | None = None
    tags: list[str] = field(default_factory=list)
    scores: dict[str, int] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)


class Circle(msgspec.Struct, tag="circle"):
    radius: int


class Square(msgspec.Struct, tag="square", forbid_unknown_fields=True):
    side: int


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename={"at_id": "@id"}):
    at_id: int
    name: str = ""


def tree_of(type: Any) -> Tree:
    return Codec(type).tree


def read(text: str | bytes, type: Any = Any, **options: Any) -> Any:
    return read_xml(text if isinstance(text, bytes) else text.encode(), tree_of(type), **options)


def wrong(text: str, type: Any) -> dict[str, str]:
    codec: Codec[Any] = Codec(type)
    with pytest.raises(Invalid) as raised:
        checked(lambda: read_xml(text.encode(), codec.tree), codec.from_builtins)
    return {field.path: field.message for field in raised.value.fields}


# --- the mapping -----------------------------------------------------------------------------------------------------

MAPPING: list[tuple[Any, Any, str]] = [
    (Point, {"x": 21.5, "y": -1}, "<v><x>21.5</x><y>-1</y></v>"),
    (list[str], ["a", "", " b\n"], "<v><item>a</item><item/><item> b\n</item></v>"),
    (list[str], [], "<v/>"),
    (list[list[int]], [[], [1, 2]], "<v><item/><item><item>1</item><item>2</item></item></v>"),
    (
        dict[str, int],
        {"ada": 3, "": 1, "<&\"'>": 2},
        '<v><entry key="ada">3</entry><entry key="">1</entry><entry key="&lt;&amp;&quot;\'&gt;">2</entry></v>',
    ),
    (dict[str, str], {}, "<v/>"),
    (tuple[int, str], [1, "1"], "<v><item>1</item><item>1</item></v>"),
    (str, "", "<v/>"),
    (str, "a & b < c ]]> d\r", "<v>a &amp; b &lt; c ]]&gt; d&#13;</v>"),
    (str, "\x00", f'<v{XSI} xsi:type="base64">AA==</v>'),
    (str | None, None, f'<v{XSI} xsi:nil="true"/>'),
    (bool, False, "<v>false</v>"),
    (float, 1e300, "<v>1e+300</v>"),
    (int, 10**30, f"<v>1{'0' * 30}</v>"),
    (bytes, "AAEC", "<v>AAEC</v>"),
    (Decimal, "1.50", "<v>1.50</v>"),
    (Color, "red", "<v>red</v>"),
    (Literal["1", 2], 2, "<v>2</v>"),
    (int | str, "x", "<v>x</v>"),
    (int | str, "3", f'<v{XS}{XSI} xsi:type="xs:string">3</v>'),
    (int | str, 3, "<v>3</v>"),
    (int | list[int], [], "<v/>"),
    (str | list[int], [], f'<v{XSI} xsi:type="array"/>'),
    (Circle | Square, {"type": "circle", "radius": 2}, "<v><type>circle</type><radius>2</radius></v>"),
    (Strict, {"@id": 7}, '<v><entry key="@id">7</entry></v>'),
    (Any, {"a": "x", "b": ["y", "z"]}, "<v><a>x</a><b><item>y</item><item>z</item></b></v>"),
    (Any, 1.5, f'<v{XS}{XSI} xsi:type="xs:double">1.5</v>'),
    (Any, [], f'<v{XSI} xsi:type="array"/>'),
    (Any, {"item": "x"}, f'<v{XSI} xsi:type="object"><item>x</item></v>'),
    (Any, {"\x00": ""}, '<v><entry key-base64="AA=="/></v>'),
]


@pytest.mark.parametrize(("type", "value", "text"), MAPPING, ids=[text for _, _, text in MAPPING])
def test_the_mapping(type: Any, value: Any, text: str) -> None:
    assert write_xml(value, tree_of(type), "v").decode() == HEAD + text
    again = read(text, type)
    assert (again, [*map(repr, [again])]) == (value, [repr(value)])


def test_a_whole_record() -> None:
    codec: Codec[Reading] = Codec(Reading)
    reading = Reading("kitchen", 21.5, tags=["a"], scores={"ada": 3}, points=[Point(1, 2)])
    written = write_xml(codec.to_builtins(reading), codec.tree, "Reading")
    assert codec.from_builtins(read_xml(written, codec.tree)) == reading
    assert written.decode().startswith(f"{HEAD}<Reading{XSI}><sensor>kitchen</sensor><celsius>21.5</celsius>")


@QUICK
@given(VALUES, trees())
def test_any_value_comes_back_under_any_tree(value: Any, tree: Tree) -> None:
    assert repr(read_xml(write_xml(value, tree, "value"), tree)) == repr(value)


@QUICK
@given(st.data())
def test_a_value_of_the_tree_comes_back(data: st.DataObject) -> None:
    tree = data.draw(trees())
    value = data.draw(values_of(tree))
    assert repr(read_xml(write_xml(value, tree, "value"), tree)) == repr(value)


@QUICK
@given(samples() | samples(families=("pydantic", "dataclass")))
def test_a_value_of_any_type_comes_back(sample: tuple[Any, Any]) -> None:
    hint, value = sample
    codec: Codec[Any] = Codec(hint)
    written = write_xml(codec.to_builtins(value), codec.tree, codec.name)
    assert codec.from_builtins(read_xml(written, codec.tree)) == value


@QUICK
@given(VALUES)
def test_others_can_read_what_is_written(value: Any) -> None:
    written = write_xml(value, Tree(Anything()), "value")
    assert ET.fromstring(written).tag == "value"  # noqa: S314 - we wrote it


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, float("nan"), [float("inf")], b"bytes"])
def test_what_is_no_json_is_not_written(value: Any) -> None:
    with pytest.raises(Invalid):
        write_xml(value, Tree(Anything()), "value")


def test_a_deep_value_is_not_written() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(Invalid, match="too deeply"):
        write_xml(value, Tree(Anything()), "value")


def test_a_root_without_a_name() -> None:
    assert write_xml("a", tree_of(str), "list[int]").decode() == f"{HEAD}<value>a</value>"
    assert write_xml("a", tree_of(str), "xml").decode() == f"{HEAD}<value>a</value>"


# --- what is read besides --------------------------------------------------------------------------------------------

BESIDES: list[tuple[Any, str, Any]] = [
    (Point, '<Point x="1" y="2"/>', {"x": 1, "y": 2}),
    (Point, '<Point x="1"><y>2</y></Point>', {"x": 1, "y": 2}),
    (Point, "<anything>\n  <x> 1 </x>\n  <y>\n2</y>\n</anything>", {"x": 1, "y": 2}),
    (Point, '<p:Point xmlns:p="urn:x" p:a="b" xml:lang="en"><p:x>1</p:x></p:Point>', {"x": 1}),
    (Point, '<Point xmlns="urn:x"><x>1</x><!-- c --><?pi x?></Point>', {"x": 1}),
    (Reading, "<r><tags>a</tags><sensor>s</sensor><tags>b</tags></r>", {"tags": ["a", "b"], "sensor": "s"}),
    (Reading, "<r><tags>a</tags></r>", {"tags": ["a"]}),
    (Reading, "<r><points><x>1</x></points></r>", {"points": [{"x": 1}]}),
    (Reading, "<r><points><x>1</x></points><points x='2'/></r>", {"points": [{"x": 1}, {"x": 2}]}),
    (Reading, "<r><points x='1'/></r>", {"points": [{"x": 1}]}),
    (list[Circle | Square], "<v type='circle'><radius>1</radius></v>", [{"type": "circle", "radius": 1}]),
    (Reading, "<r><points><item x='1'/></points></r>", {"points": [{"x": 1}]}),
    (Reading, "<r><scores><ada>3</ada></scores></r>", {"scores": {"ada": 3}}),
    (Reading, '<r><note nil="true"/></r>', {"note": None}),
    (Reading, '<r><note xsi:nil="1"/></r>', {"note": None}),
    (Reading, '<r><note i:nil="true" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"/></r>', {"note": None}),
    (Reading, '<r><note xsi:nil="false">a</note></r>', {"note": "a"}),
    (Reading, "<r><note>a<!-- -->b<![CDATA[<c>]]>&amp;&#x41;</note></r>", {"note": "ab<c>&A"}),
    (Reading, "<r><count>+007</count><ok>1</ok><color> red </color></r>", {"count": 7, "ok": True, "color": "red"}),
    (Reading, '<r><count xsi:type="xs:int">7</count></r>', {"count": 7}),
    (Circle | Square, '<shape type="square" side="2"/>', {"type": "square", "side": 2}),
    (bytes, "<v>\n AA\n EC\n</v>", "AAEC"),
    (Any, '<v><a b="1"/><c type="integer">2</c><d>3</d><d>4</d></v>', {"a": {"b": "1"}, "c": 2, "d": ["3", "4"]}),
    (Any, '<v type="strange"/>', {"type": "strange"}),
]


@pytest.mark.parametrize(("type", "text", "value"), BESIDES, ids=[text for _, text, _ in BESIDES])
def test_read_besides(type: Any, text: str, value: Any) -> None:
    assert read(text, type) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1"])
def test_encodings(encoding: str) -> None:
    declared = {"utf-8-sig": "utf-8", "utf-16-le": "utf-16", "utf-16-be": "utf-16"}.get(encoding, encoding)
    text = f'<?xml version="1.0" encoding="{declared}"?><v>é</v>'
    assert read(text.encode(encoding), str) == "é"


def test_the_charset_of_the_content_type_goes_first() -> None:
    assert read('<?xml version="1.0" encoding="utf-8"?><v>é</v>'.encode("latin-1"), str, encoding="ISO-8859-1") == "é"


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-7", "unicode_escape", "zlib", "shift_jis"])
def test_other_encodings_are_unsupported(encoding: str) -> None:
    with pytest.raises(Unsupported):
        read(f'<?xml version="1.0" encoding="{encoding}"?><v/>', str)
    with pytest.raises(Unsupported):
        read("<v/>", str, encoding=encoding)


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_all_wrong_fields_are_named_at_once() -> None:
    text = (
        "<r><sensor>a</sensor><sensor>b</sensor><celsius>warm</celsius><count>1.5</count><ok>yes</ok>"
        "<points><item><x>1</x></item><item>stray<x>left</x></item></points>"
        "<scores><entry key='a b'>x</entry></scores></r>"
    )
    assert wrong(text, Reading) == {
        "$.sensor": "is given twice",
        "$.points[1]": "text beside elements",
        "$.celsius": "Expected `float`, got `str`",
        "$.count": "Expected `int`, got `float`",
        "$.ok": "Expected `bool`, got `str`",
        "$.points[1].x": "Expected `float`, got `str`",
        '$.scores["a b"]': "Expected `int`, got `str`",
    }


@pytest.mark.parametrize(
    ("type", "text", "paths"),
    [
        (Point, "<p/>", ["$.x"]),
        (Point, "<p>1</p>", ["$"]),
        (Point, "<p><x/></p>", ["$.x"]),
        (Point, "<p><x nil='true'/></p>", ["$.x"]),
        (Point, "<p x='1'><x>2</x></p>", ["$.x"]),
        (Point, "<p><x unit='C'>1</x></p>", ["$.x"]),
        (Point, "<p><x><y>1</y></x></p>", ["$.x"]),
        (Strict, "<p><entry key='@id'>1</entry><nam>a</nam></p>", ["$.nam"]),
        (Strict, "<p nam='a'><entry key='@id'>1</entry></p>", ["$.nam"]),
        (dict[str, int], "<v><entry key='a'>1</entry><a>2</a></v>", ["$.a"]),
        (list[int], "<v><item>1</item><item>x</item></v>", ["$[1]"]),
        (list[int], "<v><number>1</number></v>", ["$[0]"]),
        (tuple[int, int], "<v><item>1</item></v>", ["$"]),
        (Circle | Square, "<v><type>oval</type></v>", ["$.type"]),
        (str, "<v xsi:type='base64'>%%</v>", ["$"]),
        (str, "<v xsi:type='base64'>/w==</v>", ["$"]),
        (float, "<v>NaN</v>", ["$"]),
        (float, "<v>1e999</v>", ["$"]),
        (int, f"<v>{'9' * 5000}</v>", ["$"]),
        (int, "<v>٣</v>", ["$"]),
    ],
)
def test_wrong_fields(type: Any, text: str, paths: list[str]) -> None:
    assert list(wrong(text, type)) == paths


def test_what_is_misread_alone_is_refused_too() -> None:
    with pytest.raises(Misread) as raised:
        read("<p><x>1</x><x>2</x></p>", Point)
    assert raised.value.value == {"x": 1}
    assert raised.value.detail == "$.x: is given twice"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1, column 1"),
        ("<a>\n <b></a>", "line 2, column 7"),
        ("<a>&nbsp;</a>", "line 1, column 4"),
        ("<a/><b/>", "line 1, column 5"),
        ("<a>\x00</a>", "line 1, column 4"),
        ("<a>\x01</a>", "line 1, column 4"),
        ("<a b='1' b='2'/>", "line 1, column 10"),
        ("{}", "line 1, column 1"),
        ("<a>&#xD800;</a>", "line 1, column 4"),
    ],
)
def test_ill_formed_xml_is_located(text: str, place: str) -> None:
    with pytest.raises(Invalid, match=f"not well-formed XML: .* at {place}"):
        read(text, Any)


@pytest.mark.parametrize(
    "body", [b"<a>\xff</a>", b"<a>\xed\xa0\x80</a>", b"<a>\xc0\x80</a>", b"\xff\xfe<\x00a\x00\x00\xd8"]
)
def test_bytes_that_are_no_text(body: bytes) -> None:
    with pytest.raises(Invalid, match="not well-formed XML"):
        read(body)


# --- hostile ---------------------------------------------------------------------------------------------------------

LAUGHS = (
    '<!DOCTYPE v [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{("&" + chr(97 + n) + ";") * 10}">' for n in range(9))
    + "]><v>&j;</v>"
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        '<!DOCTYPE v SYSTEM "file:///etc/passwd"><v/>',
        '<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]><v>&x;</v>',
        '<!DOCTYPE v PUBLIC "-//W3C//DTD" "http://127.0.0.1:1/x.dtd"><v/>',
        "<!-- a --><?pi?>\n<!DOCTYPE v><v/>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused(text: str, encoding: str) -> None:
    error = refusal(lambda: read(text.encode(encoding), str), memory=MIB)
    assert "DOCTYPE" in error.detail


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("deep", b"<a>" * 1_000_000, Invalid),
        ("deep and closed", b"<a>" * 1_000_000 + b"</a>" * 1_000_000, Invalid),
        ("wide", b"<a>" + b"<b/>" * 1_000_000, TooLarge),
        ("attributes", b"<a %b/>" % b" ".join(b'a%d="" ' % n for n in range(1_000_000)), TooLarge),
        ("spaced attributes", b"<a %b/>" % b" ".join(b"a%d \t=\n''" % n for n in range(500_000)), TooLarge),
        ("a long name", b"<" + b"a" * 15 * MIB, Invalid),
        ("a long attribute", b"<a b='" + b"a" * 15 * MIB, Invalid),
        ("a long comment", b"<a><!--" + b"a" * 15 * MIB, Invalid),
        ("many errors", b"<a>" + b"<x>1</x><y>t<b/></y>" * 30_000 + b"</a>", Invalid),
        ("too long", b"<a>" + b" " * 17 * MIB + b"</a>", TooLarge),
        ("namespaces", b"<a xmlns='" + b"u" * MIB + b"'>" + b"<a/>" * 1_000_000 + b"</a>", TooLarge),
    ],
)
def test_more_than_the_bounds(name: str, body: bytes, error: type[Exception]) -> None:
    found = refusal(lambda: read(body, dict[str, Point]), memory=160 * MIB)
    assert isinstance(found, error), name
    assert len(str(found)) < 1_000
    assert all(len(field.path) < 500 for field in found.fields)


def test_each_bound_is_a_setting() -> None:
    limits = XmlLimits(size=60, depth=3, elements=4, attributes=2)
    for text in ("<a><b><c/></b></a>", "<a><b/><b/><b/></a>", '<a b="1" c="2"/>', f"<a>{' ' * 53}</a>"):
        read(text, Any, limits=limits)
    for text in (
        "<a><b><c><d/></c></b></a>",
        "<a><b/><b/><b/><b/></a>",
        '<a b="1" c="2" d="3"/>',
        f"<a>{' ' * 54}</a>",
    ):
        with pytest.raises((Invalid, TooLarge)):
            read(text, Any, limits=limits)


def test_the_signs_of_attributes_in_text_are_no_attributes() -> None:
    text = ' a="1"' * 1_000
    assert read(f"<v><![CDATA[<b x='1'>{text}]]></v>", str) == f"<b x='1'>{text}"
    assert read(f"<v>{text}</v>", str) == text


def test_deep_limits_end_in_an_error_and_not_in_the_stack() -> None:
    body = b"<item>" * 50_000 + b"</item>" * 50_000
    with pytest.raises(Invalid, match="too deeply"):
        read(body, Any, limits=XmlLimits(depth=1_000_000))


def test_time_is_linear() -> None:
    # As large as it may be, each piece of another kind; quadratic work would take minutes.
    for piece in (b"<x>1</x>", b"<x y='1'/>", b"&amp;", b"<![CDATA[x]]>", b"<!-- -->", b"\r\n", b"a=\"'"):
        body = b"<v>" + piece * (8 * MIB // len(piece) // (20 if b"<x" in piece else 1)) + b"</v>"
        survives(lambda body=body: read(body, Any))  # type: ignore[misc]


SAMPLE = write_xml(
    Codec(Reading).to_builtins(
        Reading("kitchen é", 21.5, tags=["a", "b\x00"], scores={"a b": 3}, points=[Point(1, 2)])
    ),
    tree_of(Reading),
    "Reading",
)


@pytest.mark.parametrize(
    "body", [SAMPLE, SAMPLE.decode().encode("utf-16"), LAUGHS.encode()], ids=["utf-8", "utf-16", "dtd"]
)
def test_cut_off_at_every_byte(body: bytes) -> None:
    tree = tree_of(Reading)
    for part in prefixes(body):
        with pytest.raises((Invalid, TooLarge)):
            read_xml(part, tree)


@settings(max_examples=100, deadline=None)
@given(mutations(st.sampled_from([SAMPLE, SAMPLE.decode().encode("utf-16-le"), LAUGHS.encode()])), trees())
def test_mutated_bytes(body: bytes, tree: Tree) -> None:
    codec: Codec[Reading] = Codec(Reading)
    survives(lambda: checked(lambda: read_xml(body, codec.tree), codec.from_builtins))
    survives(lambda: read_xml(body, tree))


PIECES = [
    "<a>",
    "</a>",
    "<item>",
    "</item>",
    "<type>",
    "</type>",
    "<b c='1' type='a'/>",
    "<entry key='a'>",
    "</entry>",
    "1",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), trees())
def test_any_elements_under_any_tree(text: str, tree: Tree) -> None:
    survives(lambda: read_xml(f"<v>{text}</v>".encode(), tree))


def test_base64_is_of_the_text_itself() -> None:
    encoded = base64.b64encode("é\x01".encode()).decode()
    assert read(f"<v type='base64'>{encoded}</v>", str) == "é\x01"
