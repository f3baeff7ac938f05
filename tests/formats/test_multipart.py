"""multipart/form-data as clients send it, and as nobody should."""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from aiohttp import FormData
from hypothesis import given, settings
from hypothesis import strategies as st

from polywire.contract.codec import Codec
from polywire.contract.files import File
from polywire.core.errors import Invalid, TooLarge, Unsupported
from polywire.formats.multipart import MultipartLimits, Part, part_fields, read_multipart
from polywire.formats.reading import checked
from tests.formats.hostile import MIB, mutations, prefixes, refusal, survives
from tests.formats.trees import trees

TYPE = "multipart/form-data; boundary=b"


@dataclass
class Place:
    city: str


@dataclass
class Upload:
    title: str
    count: int = 0
    picture: File | None = None
    files: list[File] = field(default_factory=list)
    data: bytes = b""
    blobs: list[bytes] = field(default_factory=list)
    place: Place | None = None
    tags: list[str] = field(default_factory=list)
    extra: Any = None


CODEC: Codec[Upload] = Codec(Upload)


def part(disposition: str, content: bytes | str = b"", *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    content = content if isinstance(content, bytes) else content.encode()
    return b"--b\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


def fields(*parts: bytes) -> Any:
    return part_fields(read_multipart(body(*parts), TYPE), CODEC.tree)


def upload(*parts: bytes) -> Upload:
    return CODEC.from_builtins(fields(*parts))


def wrong(*parts: bytes) -> dict[str, str]:
    with pytest.raises(Invalid) as raised:
        checked(lambda: fields(*parts), CODEC.from_builtins)
    return {found.path: found.message for found in raised.value.fields}


# --- what clients send -----------------------------------------------------------------------------------------------


def test_what_requests_sends() -> None:
    request = requests.Request(
        "POST",
        "http://hub/",
        data={"title": "Zoë", "count": "3", "tags": ["a", "b"]},
        files=[
            ("picture", ("naïve name.png", b"\x89PNG\r\n--", "image/png")),
            ("files", ("a.txt", b"a")),
            ("files", ("b", b"")),
            ("place", (None, '{"city":"Oslo"}', "application/json")),
            ("data", (None, b"\x00\xff")),
        ],
    ).prepare()
    assert isinstance(request.body, bytes)
    parts = read_multipart(request.body, request.headers["Content-Type"])
    assert CODEC.from_builtins(part_fields(parts, CODEC.tree)) == Upload(
        "Zoë",
        3,
        File(b"\x89PNG\r\n--", "naïve name.png", "image/png"),
        [File(b"a", "a.txt"), File(b"", "b")],
        b"\x00\xff",
        place=Place("Oslo"),
        tags=["a", "b"],
    )


async def test_what_aiohttp_sends() -> None:
    form = FormData()
    form.add_field("title", "Zoë")
    form.add_field("picture", b"\r\n--\r\n", filename='ü "quoted" \\ name.bin', content_type="application/x-y")
    payload = form()
    written = await payload.as_bytes()
    parts = read_multipart(written, payload.headers["Content-Type"])
    found = CODEC.from_builtins(part_fields(parts, CODEC.tree))
    assert found.title == "Zoë"
    assert found.picture is not None
    assert (found.picture.content, found.picture.content_type) == (b"\r\n--\r\n", "application/x-y")
    assert found.picture.name is not None
    assert found.picture.name.endswith("name.bin")


def test_what_a_browser_sends() -> None:
    boundary = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
    sent = body(
        part('name="title"', "Line 1\r\nLine 2"),
        part('name="count"', ""),
        part('name="picture"; filename=""', b"", "Content-Type: application/octet-stream"),
        part('name="files"; filename="naïve.txt"', "é", "Content-Type: text/plain"),
    ).replace(b"--b", b"--" + boundary.encode())
    parts = read_multipart(sent, f"multipart/form-data; boundary={boundary}")
    assert CODEC.from_builtins(part_fields(parts, CODEC.tree)) == Upload(
        "Line 1\r\nLine 2", files=[File("é".encode(), "naïve.txt", "text/plain")]
    )


def test_parts_as_they_are() -> None:
    found = read_multipart(
        body(part('name="a"', "1"), part('name="b"; filename="f"', b"\x00", "Content-Type: x/y", "X-Extra: é")), TYPE
    )
    assert found == [
        Part("a", None, None, [("content-disposition", 'form-data; name="a"')], b"1"),
        Part(
            "b",
            "f",
            "x/y",
            [
                ("content-disposition", 'form-data; name="b"; filename="f"'),
                ("content-type", "x/y"),
                ("x-extra", "é"),
            ],
            b"\x00",
        ),
    ]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ('filename="a.txt"', "a.txt"),
        ("filename=a.txt", "a.txt"),
        ('filename="../../etc/passwd"', "passwd"),
        ('filename="C:\\x\\y.txt"', "y.txt"),
        ('filename="C:\\\\x\\\\y.txt"', "y.txt"),
        ('filename="\\\\server\\share\\z"', "z"),
        ('filename="/"', None),
        ('filename=".."', None),
        ('filename="a/.."', None),
        ('filename="a\\"b"', 'a"b'),
        ('filename="a;b=c"', "a;b=c"),
        ("filename*=UTF-8''na%C3%AFve%20x.txt", "naïve x.txt"),
        ("filename*=utf-8'en'..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("filename*=iso-8859-1''%E9", "é"),
        ("filename=\"plain\"; filename*=UTF-8''better", "better"),
    ],
)
def test_names_of_files(given: str, name: str | None) -> None:
    picture = upload(part('name="title"', "t"), part(f'name="picture"; {given}', "x")).picture
    assert picture is not None
    assert picture.name == name


@pytest.mark.parametrize(
    ("name", "content", "headers", "value"),
    [
        ("count", "3", (), 3),
        ("count", '"x"', ("Content-Type: application/json",), "x"),
        ("count", "3", ("Content-Type: text/plain; charset=UTF-8",), 3),
        ("data", b"\xff", (), base64.b64encode(b"\xff").decode()),
        ("data", "{}", ("Content-Type: application/json",), base64.b64encode(b"{}").decode()),
        ("blobs", b"\xff", (), [base64.b64encode(b"\xff").decode()]),
        ("place", '{"city":"Oslo"}', (), {"city": "Oslo"}),
        ("place", '{"city":"Oslo"}', ("Content-Type: application/vnd.x+json",), {"city": "Oslo"}),
        ("place.city", "Oslo", (), {"city": "Oslo"}),
        ("tags", '["a","b"]', ("Content-Type: application/json",), ["a", "b"]),
        ("tags", "a", (), ["a"]),
        ("picture", "text", (), {"name": None, "content_type": "text/plain", "content": "dGV4dA=="}),
        ("extra", "text", (), "text"),
    ],
)
def test_parts_by_their_type(name: str, content: bytes | str, headers: tuple[str, ...], value: Any) -> None:
    assert fields(part(f'name="{name}"', content, *headers))[name.partition(".")[0]] == value


def test_a_file_without_a_type_of_its_own() -> None:
    sent = part('name="extra"; filename="x"', b"\x01")
    assert fields(sent) == {
        "extra": {"name": "x", "content_type": "application/octet-stream", "content": "AQ=="},
    }


def test_the_charset_field_is_no_field() -> None:
    assert fields(part('name="_charset_"', "utf-8"), part('name="title"', "a")) == {"title": "a"}
    with pytest.raises(Unsupported):
        fields(part('name="_charset_"', "windows-1252"))


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_all_wrong_fields_are_named_at_once() -> None:
    assert wrong(
        part('name="title"', b"\xff"),
        part('name="count"', "many"),
        part('name="place"', "{", "Content-Type: application/json"),
        part('name="tags"', "x", "Content-Type: text/plain; charset=latin-1"),
        part('name="fils"; filename="x"', "x"),
    ) == {
        "$.title": "is not UTF-8",
        "$.count": "Expected `int`, got `str`",
        "$.place": "is not JSON: Input data was truncated",
        "$.tags[0]": "the charset 'latin-1' is not taken: send UTF-8",
        "$.fils": "unknown field; did you mean 'files'?",
    }


def test_all_bad_parts_are_named_at_once() -> None:
    assert wrong(
        part('name="title"; filename="a\x01"', "x"),
        part('filename="a"', "x"),
        part('name="a"; name="b"', "x"),
        part('name="c"', "x", "Content-Type: multipart/mixed; boundary=c"),
        part('name="d"', "eA==", "Content-Transfer-Encoding: base64"),
        part("name=\"e\"; filename*=utf-8''%FF", "x"),
        b'--b\r\nContent-Disposition: attachment; name="f"\r\n\r\nx\r\n',
        b"--b\r\n\r\nx\r\n",
        part('name="g\x7f"', "x"),
        part('name="h"', "x", "Content-Type: a/b", "Content-Type: a/c"),
        b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n',
    ) == {
        "$.title": "the file name has control characters",
        '$["part 2"]': "its Content-Disposition is not form-data with a name",
        "$.b": "a header or parameter of the part is given twice",
        "$.c": "a multipart within a part is not taken (RFC 7578 §4.3): repeat the field",
        "$.d": "Content-Transfer-Encoding 'base64' is not taken (RFC 7578 §4.7)",
        "$.e": "filename* is not as RFC 5987 has it",
        '$["part 7"]': "its Content-Disposition is not form-data with a name",
        '$["part 8"]': "its Content-Disposition is not form-data with a name",
        '$["g\x7f"]': "the name has control characters",
        "$.h": "a header or parameter of the part is given twice",
        '$["part 11"]': "a header is not UTF-8",
    }


@pytest.mark.parametrize(
    ("content_type", "error"),
    [
        ("multipart/form-data", Invalid),
        ("multipart/form-data; boundary=", Invalid),
        ('multipart/form-data; boundary=""', Invalid),
        ("multipart/form-data; boundary=a; boundary=b", Invalid),
        (f"multipart/form-data; boundary={'b' * 71}", Invalid),
        ("multipart/form-data; boundary=\x00", Invalid),
        ("multipart/form-data; boundary=b\r\nX: y", Invalid),
        ("multipart/form-data; boundary=bé", Invalid),
        ('multipart/form-data; boundary="b "', Invalid),
        ("multipart/mixed; boundary=b", Unsupported),
        ("text/plain", Unsupported),
        ("", Unsupported),
    ],
)
def test_boundaries(content_type: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_multipart(body(part('name="a"', "1")), content_type)


@pytest.mark.parametrize("boundary", ["b" * 70, "a b", "'()+_,-./:=?"])
def test_odd_boundaries(boundary: str) -> None:
    sent = body(part('name="a"', "1")).replace(b"--b", b"--" + boundary.encode())
    assert read_multipart(sent, f'multipart/form-data; charset=utf-8; BOUNDARY="{boundary}"')[0].content == b"1"


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "no boundary"),
        (b"a=1", "no boundary"),
        (body(part('name="a"', "1")).replace(b"--b", b"--c"), "no boundary"),
        (part('name="a"', "1"), "cut off"),
        (part('name="a"', "1") + b"--b", "cut off"),
        (b"--b\r\nno header\r\n\r\nx\r\n--b--", "malformed at byte"),
        (b"--bX\r\n", "malformed at byte"),
    ],
)
def test_bodies_that_are_none(sent: bytes, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(Invalid, match=words):
        read_multipart(sent, TYPE)
    assert not caplog.records


def test_as_many_parts_as_there_may_be_with_a_preamble() -> None:
    fine = b"\r\n" + body(*[part('name="a"', "1")] * 100)
    assert len(read_multipart(fine, TYPE)) == 100
    padded = body(part('name="a"', "1"), part('name="a"', "1")).replace(b"\r\n--b\r\n", b"\r\n--b \t\r\n")
    assert len(read_multipart(padded, TYPE)) == 2


def test_no_parts_at_all() -> None:
    assert read_multipart(b"--b--\r\n", TYPE) == []


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_each_bound_is_a_setting() -> None:
    limits = MultipartLimits(parts=2, headers=2, header_size=60)
    fine = part('name="a"', "1", "X: y")
    assert len(read_multipart(body(fine, fine), TYPE, limits=limits)) == 2
    for sent in (body(fine, fine, fine), body(part('name="a"', "1", "X: y", "Y: z")), body(part(f'name="{"a" * 60}"'))):
        with pytest.raises(TooLarge):
            read_multipart(sent, TYPE, limits=limits)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (body(*[part('name="a"', "1")] * 1_000), TooLarge),
        (body(part('name="a"', "1", *[f"X-{n}: y" for n in range(10_000)])), TooLarge),
        (body(part('name="a"', "1", f"X: {'y' * MIB}")), TooLarge),
        (body(part(f'name="{"a" * 40_000}"', "1")), TooLarge),
        (b"--b\r\n" + b"X" * 8 * MIB, TooLarge),
        (b"--b\r\nX:" + b" " * 8 * MIB, TooLarge),
        (b"\r\n" * 4 * MIB, Invalid),
        (part('name="a"', b"\r\n--bX" * MIB), TooLarge),
        (part('name="a"', b"\r\n--" * MIB), Invalid),
        (part('name="a"', b"\r" * 8 * MIB), Invalid),
        (part('name="a"', "x") + b"--b" + b" \t" * 4 * MIB, Invalid),
        (part('name="' + ";" * 3_000 + '"', b"") + b"--b-", Invalid),
    ],
)
def test_more_than_the_bounds(sent: bytes, error: type[Exception]) -> None:
    found = refusal(lambda: read_multipart(sent, TYPE), memory=2 * len(sent) + MIB)
    assert isinstance(found, error)
    assert len(str(found)) < 1_000


@pytest.mark.parametrize(
    "value", ["; " * 30_000, ";a" * 30_000, ';a="' + "\\" * 60_000, ";" + " " * 60_000 + "x", ";" + "a" * 60_000]
)
def test_long_content_types_take_no_time(value: str) -> None:
    refusal(lambda: read_multipart(b"", "multipart/form-data" + value), memory=8 * MIB)


BODY = body(
    part('name="title"', "a"),
    part("name=picture; filename*=UTF-8''a%20b", b"\x00\r\n--", "Content-Type: image/png"),
    part('name="place"', '{"city":"Oslo"}', "Content-Type: application/json"),
)


def test_cut_off_anywhere() -> None:
    for sent in prefixes(BODY.removesuffix(b"-\r\n")):
        with pytest.raises(Invalid):
            read_multipart(sent, TYPE)


@settings(max_examples=100, deadline=None)
@given(mutations(st.just(BODY)), trees())
def test_mutated_bytes_under_any_tree(sent: bytes, tree: Any) -> None:
    survives(lambda: part_fields(read_multipart(sent, TYPE), tree))
    survives(lambda: part_fields(read_multipart(sent, TYPE), CODEC.tree))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_content_type(content_type: str) -> None:
    survives(lambda: read_multipart(BODY, content_type))
    survives(lambda: read_multipart(BODY, f"multipart/form-data; {content_type}"))
