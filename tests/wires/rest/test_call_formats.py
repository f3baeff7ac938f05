"""Requests and answers of operations in every form: JSON, XML, forms, files, bytes; and what Accept asks for."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.wires.rest import calling
from tests.wires.served_hub import ServedHub, serving_hub

XML = {"Content-Type": "application/xml"}
ADA = {"name": "ada", "age": 36, "tags": ["x", "y"], "address": {"city": "Oslo", "zip": "0150"}}
ADA_XML = (
    b"<user><name>ada</name><age>36</age><tags>x</tags><tags>y</tags>"
    b"<address><city>Oslo</city><zip>0150</zip></address></user>"
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHub]:
    with serving_hub(calling.hub, tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.fixture
def hub(running: ServedHub) -> ServedHub:
    calling.events.clear()
    return running


def refused(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    told: dict[str, Any] = answer.json()
    assert (answer.status_code, told["code"]) == (status, code), told
    return told


def paths(told: dict[str, Any]) -> list[str]:
    return [wrong["path"] for wrong in told["errors"]]


def curl(hub: ServedHub, *arguments: str | Path, stdin: bytes = b"") -> bytes:
    *options, path = arguments
    command = ["curl", "-sS", "--max-time", "20", *map(str, options), f"{hub.url}{path}"]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=30, check=True).stdout


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.x+json", "APPLICATION/JSON; charset=utf-8"])
def test_json(hub: ServedHub, kind: str) -> None:
    answer = hub.post("/operations/add", data=b'{"a": 1, "b": 2}', headers={"Content-Type": kind})
    assert answer.json() == 3


@pytest.mark.parametrize("kind", ["application/xml", "text/xml; charset=utf-8", "application/vnd.x+xml"])
def test_xml(hub: ServedHub, kind: str) -> None:
    assert hub.post("/operations/echo", data=ADA_XML, headers={"Content-Type": kind}).json() == ADA
    assert hub.post("/operations/add", data=b"<x><a>1</a><b>2</b></x>", headers={"Content-Type": kind}).json() == 3


@pytest.mark.parametrize("charset", ["iso-8859-1", '"ISO-8859-1"', "utf-16"])
def test_the_charset_of_a_content_type(hub: ServedHub, charset: str) -> None:
    """It goes before what the document says of itself (RFC 7303 §3)."""
    text = '<?xml version="1.0" encoding="us-ascii"?><x><text>größe</text></x>'
    headers = {"Content-Type": f"text/xml; charset={charset}"}
    answer = hub.post("/operations/blocking", data=text.encode(charset.strip('"')), headers=headers)
    assert answer.json() == "GRÖSSE"
    refused(
        hub.post("/operations/blocking", data=text, headers={"Content-Type": "text/xml; charset=big5"}),
        415,
        "unsupported",
    )


def test_a_form(hub: ServedHub) -> None:
    """As a browser and requests send it."""
    assert hub.post("/operations/add", data={"a": "1", "b": "2"}).json() == 3
    form = [("name", "ada"), ("age", "36"), ("tags", "x"), ("tags", "y")]
    form += [("address.city", "Oslo"), ("address[zip]", "0150")]
    assert hub.post("/operations/echo", data=form).json() == ADA
    assert curl(hub, "-d", "a=1", "-d", "b=2", "/operations/add") == b"3"
    assert hub.request("PATCH", "/users/5", data={"age": "7"}).json() == {"id": 5, "name": None, "age": 7}


def test_multipart(hub: ServedHub, tmp_path: Path) -> None:
    assert hub.post("/operations/add", files={"a": (None, "1"), "b": (None, "2")}).json() == 3
    files = [("files", ("a.txt", b"123", "text/plain")), ("files", ("b.bin", b"\x00" * 70_000))]
    answer = hub.post("/operations/attach", data={"title": "two"}, files=files)
    assert answer.json() == ["two: a.txt text/plain 3", "two: b.bin application/octet-stream 70000"]
    assert hub.post("/operations/swap", files={"data": ("x", b"abc")}).content == b"cba"
    (tmp_path / "photo.jpg").write_bytes(b"jpeg")
    shown = curl(hub, "-F", f"file=@{tmp_path / 'photo.jpg'}", "/operations/look")
    assert shown == b'{"name":"photo.jpg","content_type":"image/jpeg","size":4}'


def test_any_body_for_an_operation_of_bytes(hub: ServedHub, tmp_path: Path) -> None:
    for kind in ("application/octet-stream", "image/png", "text/plain"):
        assert hub.post("/operations/swap", data=b"abc", headers={"Content-Type": kind}).content == b"cba"
    assert hub.post("/operations/swap", data=b"abc").content == b"cba"  # and of none
    assert hub.post("/operations/swap").content == b""
    assert hub.post("/operations/swap", json={"data": "YWJj"}).content == b"cba"
    (tmp_path / "x.bin").write_bytes(b"\x00\xff")
    assert curl(hub, "-T", tmp_path / "x.bin", "-X", "POST", "/operations/swap") == b"\xff\x00"


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (None, None),
        ('attachment; filename="a b.png"', "a b.png"),
        ("attachment; filename=a.png", "a.png"),
        ("attachment; filename*=UTF-8''gr%C3%B6%C3%9Fe.png; filename=x", "größe.png"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        (r'attachment; filename="C:\\dir\\x.png"', "x.png"),
        ('attachment; filename="a;b \\"c\\".png"', 'a;b "c".png'),
        ("attachment; FileName*=utf-8''a%0D%0Ab", "ab"),
        ("attachment", None),
        ('attachment; filename=".."', None),
    ],
)
def test_any_body_for_an_operation_of_a_file(hub: ServedHub, disposition: str | None, name: str | None) -> None:
    headers = {"Content-Type": "image/png"} | ({"Content-Disposition": disposition} if disposition else {})
    shown = hub.post("/operations/look", data=b"png", headers=headers).json()
    assert shown == {"name": name, "content_type": "image/png", "size": 3}


def test_a_file_in_json(hub: ServedHub) -> None:
    file = {"content": "YWJj", "name": "a.txt", "content_type": "text/plain"}
    assert hub.post("/operations/look", json={"file": file}).json() == {
        "name": "a.txt",
        "content_type": "text/plain",
        "size": 3,
    }


def test_other_content_types_are_refused_by_name(hub: ServedHub) -> None:
    for kind in (
        "text/csv",
        "application/x-ndjson",
        "application/octet-stream",
        "nonsense",
        "multipart/mixed; boundary=x",
    ):
        told = refused(hub.post("/operations/add", data=b"1", headers={"Content-Type": kind}), 415, "unsupported")
        assert kind.partition(";")[0] in told["detail"]
    assert "application/json" in told["hint"]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"json": {"name": 1, "age": 200, "address": {}}}, ["$.address.city", "$.age", "$.name"]),
        (
            {"data": b"<u><age>old</age><address/><zzz/></u>", "headers": XML},
            ["$.address.city", "$.age", "$.name"],
        ),
        ({"data": {"age": "old", "address.zip": "1"}}, ["$.address.city", "$.age", "$.name"]),
        ({"files": {"age": (None, "old"), "address.zip": (None, "1")}}, ["$.address.city", "$.age", "$.name"]),
    ],
)
def test_the_same_errors_in_every_form(hub: ServedHub, given: dict[str, Any], wrong: list[str]) -> None:
    told = refused(hub.post("/operations/echo", **given), 400, "invalid")
    assert sorted(path for path in paths(told) if "zzz" not in path) == wrong


# --- answers ---------------------------------------------------------------------------------------------------------


def asked(hub: ServedHub, accept: str, name: str, **given: Any) -> requests.Response:
    return hub.post(f"/operations/{name}", headers={"Accept": accept}, **given)


def test_xml_if_asked(hub: ServedHub) -> None:
    answer = asked(hub, "application/xml", "echo", json=ADA)
    assert answer.headers["Content-Type"] == "application/xml; charset=utf-8"
    root = ET.fromstring(answer.content)  # noqa: S314 - our own words
    assert root.tag == "User"
    assert root.findtext("address/city") == "Oslo"
    again = hub.post("/operations/echo", data=answer.content, headers=XML)
    assert again.json() == ADA
    assert asked(hub, "text/xml", "add", json={"a": 1, "b": 2}).headers["Content-Type"] == "text/xml; charset=utf-8"


def test_text_if_asked(hub: ServedHub) -> None:
    answer = asked(hub, "text/plain", "blocking", json={"text": "é"})
    assert (answer.headers["Content-Type"], answer.content.decode()) == ("text/plain; charset=utf-8", "É")
    assert asked(hub, "text/plain, */*;q=0.1", "add", json={"a": 1, "b": 2}).content == b"3"
    refused(asked(hub, "text/plain", "add", json={"a": 1, "b": 2}), 406, "not_acceptable")


def test_bytes_are_bytes(hub: ServedHub) -> None:
    answer = asked(hub, "*/*", "swap", data=b"ab\xff")
    assert (answer.headers["Content-Type"], answer.content) == ("application/octet-stream", b"\xffba")
    assert asked(hub, "application/json", "swap", data=b"ab\xff").json() == "/2Jh"
    assert ET.fromstring(asked(hub, "text/xml", "swap", data=b"ab\xff").content).text == "/2Jh"  # noqa: S314


def test_a_file_is_itself(hub: ServedHub) -> None:
    answer = hub.get("/operations/picture")
    assert (answer.headers["Content-Type"], answer.content) == ("image/png", b"\x89PNG")
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''gr%C3%B6%C3%9Fe%201.png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    # What it is, is known when it is there: too late to refuse.
    assert hub.get("/operations/picture", headers={"Accept": "image/jpeg"}).content == b"\x89PNG"
    assert hub.get("/operations/picture", headers={"Accept": "application/json"}).json()["content_type"] == "image/png"
    page = hub.get("/operations/picture?kind=page")
    assert (page.headers["Content-Type"], page.text) == ("text/html", "<b>hi</b>")
    assert "Content-Disposition" not in page.headers


def test_an_operation_cannot_make_headers(hub: ServedHub) -> None:
    answer = hub.get("/operations/picture?kind=odd")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "X-Evil" not in answer.headers


def test_what_cannot_be_answered_is_refused_before_the_call(hub: ServedHub) -> None:
    told = refused(asked(hub, "image/png", "add", json={"a": 1, "b": 2}), 406, "not_acceptable")
    assert "application/json" in told["hint"]
    assert hub.post("/operations/nothing", json={}, headers={"Accept": "image/png"}).status_code == 204


def test_errors_in_xml_for_those_who_take_nothing_else(hub: ServedHub) -> None:
    answer = hub.post("/operations/add", data=b"<x><a>one</a></x>", headers=XML | {"Accept": "application/xml"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+xml")
    root = ET.fromstring(answer.content)  # noqa: S314 - our own words
    names = {"p": "urn:ietf:rfc:7807"}
    assert root.findtext("p:status", None, names) == "400"
    assert {one.text for one in root.findall("p:errors/p:i/p:path", names)} == {"$.a", "$.b"}
    assert hub.get("/nothing", headers={"Accept": "text/xml"}).status_code == 404


def test_a_browser_is_shown_json(hub: ServedHub) -> None:
    chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
    assert hub.get("/users/1", headers={"Accept": chromium}).headers["Content-Type"] == "application/json"


# --- ETag ------------------------------------------------------------------------------------------------------------


def test_an_answer_that_has_not_changed_is_not_sent_again(hub: ServedHub) -> None:
    for path in ("/users/1", "/operations/greet?name=ada"):
        first = hub.get(path)
        tag = first.headers["ETag"]
        assert first.headers["Vary"].lower() == "accept"
        assert first.headers["Cache-Control"] == "private, no-cache"
        for match in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = hub.get(path, headers={"If-None-Match": match})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert hub.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
        assert hub.request("HEAD", path).headers["ETag"] == tag


def test_each_form_has_its_own_tag(hub: ServedHub) -> None:
    forms = {hub.get("/operations/greet?name=a", headers={"Accept": kind}).headers["ETag"] for kind in (
        "application/json", "text/plain", "application/xml", "text/xml"
    )}  # fmt: skip
    assert len(forms) == 4
    assert hub.get("/users/1").headers["ETag"] != hub.get("/users/2").headers["ETag"]


def test_what_is_not_safe_has_none(hub: ServedHub) -> None:
    assert "ETag" not in hub.post("/operations/greet", json={"name": "a"}).headers
    assert "ETag" not in hub.get("/users/99").headers
    assert "ETag" not in hub.get("/ticks").headers
