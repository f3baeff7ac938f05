"""The users as a process: their API with `requests`, as tutorials write it, and their page in a real browser."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import ROOT, require_tool
from tests.processes import RunningHub, run_hub
from tests.test_docs import PORT, blocks, run_python, run_shell

APP = ROOT / "examples" / "users" / "app.py"
SECONDS = 10
ANN = {"name": "Ann", "email": "ann@example.org", "age": 41}
BOB = {"name": "Bob", "email": "bob@example.org", "age": None}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with run_hub(str(APP), data=tmp_path / "data") as running:
        yield running


def ask(hub: RunningHub, method: str, path: str, **given: Any) -> requests.Response:
    return requests.request(method, hub.http + path, timeout=SECONDS, **given)


def add(hub: RunningHub, user: dict[str, Any]) -> dict[str, Any]:
    answer = ask(hub, "POST", "/users", json=user)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def wrong(answer: requests.Response) -> list[str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return [error["path"] for error in answer.json()["errors"]]


# --- the API ---------------------------------------------------------------------------------------------------------


def test_every_verb(hub: RunningHub) -> None:
    users = f"{hub.http}/users"
    answer = requests.post(users, json={"name": "Ann", "email": "ann@example.org"}, timeout=SECONDS)
    assert answer.status_code == 201
    ann = answer.json()
    assert ann == {"id": 1, "name": "Ann", "email": "ann@example.org", "age": None}

    answer = requests.get(f"{users}/1", timeout=SECONDS)
    assert (answer.status_code, answer.json()) == (200, ann)

    answer = requests.patch(f"{users}/1", json={"age": 41}, timeout=SECONDS)
    assert (answer.status_code, answer.json()) == (200, {**ann, "age": 41})
    answer = requests.patch(f"{users}/1", json={"name": "Anne"}, timeout=SECONDS)
    assert answer.json() == {**ann, "name": "Anne", "age": 41}, "what is missing stays"
    answer = requests.patch(f"{users}/1", json={"age": None}, timeout=SECONDS)
    assert answer.json() == {**ann, "name": "Anne"}, "null is not the same as missing"

    answer = requests.put(f"{users}/1", json={"name": "Ann", "email": "ann@example.com", "age": 42}, timeout=SECONDS)
    assert (answer.status_code, answer.json()) == (200, {**ann, "email": "ann@example.com", "age": 42})

    answer = requests.delete(f"{users}/1", timeout=SECONDS)
    assert (answer.status_code, answer.content) == (204, b"")
    assert requests.get(f"{users}/1", timeout=SECONDS).status_code == 404
    assert requests.get(users, timeout=SECONDS).json() == []


def test_the_list_is_searched_and_limited(hub: RunningHub) -> None:
    for user in (ANN, BOB, {"name": "Hannah", "email": "h@example.org"}):
        add(hub, user)

    def names(**query: object) -> list[str]:
        answer = ask(hub, "GET", "/users", params=query)
        assert answer.status_code == 200, answer.text
        return [user["name"] for user in answer.json()]

    assert names() == ["Ann", "Bob", "Hannah"]
    assert names(search="ANN") == ["Ann", "Hannah"]
    assert names(search="bob@") == ["Bob"]
    assert names(search="ann", limit=1) == ["Ann"]
    refused = ask(hub, "GET", "/users", params={"limit": "many"})
    assert refused.status_code == 400
    assert wrong(refused) == ["query.limit"]
    assert wrong(ask(hub, "GET", "/users", params={"limit": 0, "serach": "x"})) == ["query.serach", "query.limit"]


def test_who_is_not_there(hub: RunningHub) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        body = {} if method in ("GET", "DELETE") else {"json": BOB}
        answer = ask(hub, method, "/users/7", **body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert answer.json()["detail"] == "there is no user 7"
        assert wrong(ask(hub, method, "/users/seven", **body)) == ["path.user_id"]


def test_all_that_is_wrong_is_named(hub: RunningHub) -> None:
    add(hub, ANN)
    bad = {"name": "", "email": "nobody", "age": 151}
    for method, path in (("POST", "/users"), ("PUT", "/users/1"), ("PATCH", "/users/1")):
        answer = ask(hub, method, path, json=bad)
        assert answer.status_code == 400
        assert sorted(wrong(answer)) == ["$.age", "$.email", "$.name"]
    assert wrong(ask(hub, "POST", "/users", json={"email": "a@b.c"})) == ["$.name"]
    assert ask(hub, "GET", "/users").json() == [{"id": 1, **ANN}]


def test_an_address_belongs_to_one_user(hub: RunningHub) -> None:
    add(hub, ANN)
    add(hub, BOB)
    for method, path in (("POST", "/users"), ("PUT", "/users/2"), ("PATCH", "/users/2")):
        answer = ask(hub, method, path, json={"name": "Eve", "email": "ANN@example.org"})
        assert (answer.status_code, wrong(answer)) == (409, ["$.email"])
    assert ask(hub, "PATCH", "/users/1", json={"email": "Ann@example.org"}).status_code == 200


def test_xml_and_forms(hub: RunningHub) -> None:
    document = "<user><name>Ann</name><email>ann@example.org</email><age>41</age></user>"
    answer = ask(hub, "POST", "/users", data=document, headers={"Content-Type": "application/xml"})
    assert (answer.status_code, answer.json()) == (201, {"id": 1, **ANN})

    answer = ask(hub, "POST", "/users", data={"name": "Bob", "email": "bob@example.org"})  # as a page's form
    assert (answer.status_code, answer.json()) == (201, {"id": 2, **BOB})
    answer = ask(hub, "PATCH", "/users/2", data={"age": "9"})
    assert answer.json()["age"] == 9
    answer = ask(hub, "POST", "/users", files={"name": (None, "Cleo"), "email": (None, "cleo@example.org")})
    assert (answer.status_code, answer.json()["id"]) == (201, 3)

    answer = ask(hub, "GET", "/users/1", headers={"Accept": "application/xml"})
    assert answer.headers["Content-Type"].startswith("application/xml")
    told = {child.tag: child.text for child in ET.fromstring(answer.content)}  # noqa: S314 - of our own hub
    assert told == {"id": "1", "name": "Ann", "email": "ann@example.org", "age": "41"}

    assert wrong(ask(hub, "POST", "/users", data={"name": "Dan", "email": "dan@example.org", "age": "old"})) == [
        "$.age"
    ]
    document = "<user><name>Dan</name><email>dan</email></user>"
    assert wrong(ask(hub, "POST", "/users", data=document, headers={"Content-Type": "text/xml"})) == ["$.email"]


def test_every_change_is_notified(hub: RunningHub) -> None:
    add(hub, ANN)
    ask(hub, "PATCH", "/users/1", json={"age": 42})
    ask(hub, "PUT", "/users/1", json=BOB)
    ask(hub, "DELETE", "/users/1")
    ask(hub, "PUT", "/users/1", json=BOB)

    listed = ask(hub, "GET", "/notifications").json()
    assert [one["what"] for one in listed] == ["deleted", "replaced", "changed", "added"]
    published = ask(hub, "GET", "/topics/notifications").json()["messages"]
    assert [one["data"] for one in published] == listed[::-1]
    assert {one["key"] for one in published} == {"1"}

    answer = ask(hub, "GET", "/notifications", params={"notification_id": 2})
    assert (answer.status_code, answer.json()) == (200, listed[2])
    assert sorted(answer.json()) == ["id", "time", "user_id", "what"]
    answer = ask(hub, "GET", "/notifications", params={"notification_id": 99})
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no notification 99")
    assert wrong(ask(hub, "GET", "/notifications", params={"notification_id": "x"})) == ["query.notification_id"]
    assert ask(hub, "GET", "/notifications", params={"notification_id": ""}).json() == listed


def test_health_and_the_page_stand_beside_the_api(hub: RunningHub) -> None:
    assert ask(hub, "GET", "/health").status_code == 200
    page = ask(hub, "GET", "/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "<title>Users</title>" in page.text
    assert ask(hub, "GET", "/app.py").status_code == 404, "the folder of the page only"
    for name in re.findall(r'(?:href|src)="(\w+\.\w+)"', page.text):
        assert ask(hub, "GET", f"/{name}").status_code == 200


# --- its pages -------------------------------------------------------------------------------------------------------


def test_the_commands_of_its_readme(hub: RunningHub) -> None:
    (commands,) = [block for block in blocks("examples/users/README.md") if PORT in block.text]
    run_shell(commands, hub)
    assert [user["id"] for user in ask(hub, "GET", "/users").json()] == [1]
    assert ask(hub, "GET", "/notifications").json()[0]["what"] == "deleted"


def test_the_tutorial(hub: RunningHub) -> None:
    page = "docs/rest-api.md"
    sources = "\n".join((APP.parent / name).read_text() for name in ("app.py", "static/app.js"))
    names: dict[str, object] = {}
    for block in blocks(page):
        if "quoted" in block.marks:
            assert block.text in sources, f"{page}, line {block.line}: not what the example says"
        elif "client" in block.marks:
            run_python(page, block, names, hub)
        elif "server" not in block.marks:
            assert run_shell(block, hub)
    assert ask(hub, "GET", "/users/2").json()["age"] == 31


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = require_tool("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(hub: RunningHub, browser: Browser) -> Iterator[Page]:
    """The front end, once it follows the notifications. What it logs as an error fails the test."""
    opened = browser.new_page(locale="en-GB")
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.set_default_timeout(SECONDS * 1000)
    opened.goto(hub.http)
    expect(opened.get_by_role("status")).to_have_text("live")
    yield opened
    opened.close()
    assert faults == []


def enter(page: Page, **fields: str) -> None:
    for label, value in fields.items():
        page.get_by_label({"name": "Name", "email": "E-mail", "age": "Age (optional)"}[label], exact=True).fill(value)
    page.get_by_role("button", name="Save").click()


def rows(page: Page) -> list[list[str]]:
    return [row.locator("td").all_inner_texts()[:4] for row in page.locator("#users tr").all()]


@pytest.mark.needs_chromium
def test_a_user_is_added_edited_and_deleted_in_a_browser(hub: RunningHub, page: Page) -> None:
    expect(page.get_by_text("Nobody here.")).to_be_visible()
    news = page.get_by_role("log").get_by_role("listitem")
    expect(news).to_have_count(0)

    page.get_by_role("button", name="Add user").click()
    enter(page, name="Ann <b>", email="ann@example.org", age="41")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("cell", name="ann@example.org")).to_be_visible()
    assert rows(page) == [["1", "Ann <b>", "ann@example.org", "41"]]
    expect(news).to_have_text([re.compile("^User 1 was added")])

    page.get_by_role("button", name="Edit Ann <b>").click()
    enter(page, name="Ann", age="")
    expect(page.get_by_role("cell", name="Ann", exact=True)).to_be_visible()
    assert ask(hub, "GET", "/users/1").json() == {**ANN, "id": 1, "age": None}
    expect(news).to_have_text([re.compile("^User 1 was changed"), re.compile("^User 1 was added")])

    page.once("dialog", lambda question: question.accept())
    page.get_by_role("button", name="Delete Ann").click()
    expect(page.get_by_text("Nobody here.")).to_be_visible()
    expect(news.first).to_have_text(re.compile("^User 1 was deleted"))
    assert ask(hub, "GET", "/users").json() == []


@pytest.mark.needs_chromium
def test_what_is_wrong_stands_beside_its_field(hub: RunningHub, page: Page) -> None:
    add(hub, ANN)
    page.get_by_role("button", name="Add user").click()
    enter(page, name="", email="nobody", age="old")
    for field in ("Name", "E-mail", "Age (optional)"):
        entry = page.get_by_label(field, exact=True)
        expect(entry).to_have_attribute("aria-invalid", "true")
        expect(entry).to_have_accessible_description(re.compile(r"\w"))
    expect(page.get_by_label("Name", exact=True)).to_be_focused()

    enter(page, name="Ann", email="ann@example.org", age="")
    expect(page.get_by_label("E-mail", exact=True)).to_have_accessible_description("is taken")
    expect(page.get_by_label("Name", exact=True)).to_have_attribute("aria-invalid", "false")

    enter(page, email="other@example.org")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert [user["email"] for user in ask(hub, "GET", "/users").json()] == ["ann@example.org", "other@example.org"]


@pytest.mark.needs_chromium
def test_what_others_do_is_seen_at_once(hub: RunningHub, page: Page) -> None:
    add(hub, ANN)
    add(hub, BOB)
    expect(page.locator("#users tr")).to_have_count(2)
    expect(page.get_by_role("log").get_by_role("listitem")).to_have_count(2)
    page.get_by_label("Search by name or e-mail").fill("bob")
    expect(page.locator("#users tr")).to_have_count(1)
    assert rows(page) == [["2", "Bob", "bob@example.org", ""]]
    page.get_by_role("button", name="Edit Bob").click()
    ask(hub, "DELETE", "/users/2")
    enter(page, name="Robert")
    expect(page.get_by_role("alert").filter(has_text="there is no user 2")).to_be_visible()


@pytest.mark.needs_chromium
def test_the_page_comes_back_after_a_restart(tmp_path: Path, browser: Browser) -> None:
    with run_hub(str(APP), data=tmp_path / "data") as first:
        port = first.http.rpartition(":")[2]
        add(first, ANN)
        opened = browser.new_page()
        opened.goto(first.http)
        expect(opened.get_by_role("status")).to_have_text("live")
        expect(opened.locator("#users tr")).to_have_count(1)
    with run_hub(str(APP), "--http", port, data=tmp_path / "data") as second:
        expect(opened.get_by_role("status")).to_have_text("live", timeout=SECONDS * 1000)
        expect(opened.locator("#users tr")).to_have_count(0)
        add(second, BOB)
        expect(opened.get_by_role("log").get_by_role("listitem")).to_have_count(1)
        opened.close()
