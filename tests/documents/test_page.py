"""The page of the documentation in a real browser: what people read, try and watch there."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, async_playwright, expect
from starlette.applications import Starlette
from starlette.routing import Mount

import polywire.testing
from polywire import Hub
from polywire.testing import Served
from tests.conftest import require_tool
from tests.documents import application
from tests.hosts import hosted

pytestmark = [pytest.mark.needs_chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=require_tool("chromium"))
        yield started
        await started.close()


@asynccontextmanager
async def opened(chromium: Browser, origin: str) -> AsyncIterator[Page]:
    """A page that asks nobody but ``origin`` for anything, and complains of nothing."""
    requests: list[str] = []
    complaints: list[str] = []
    page = await chromium.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    # That an answer was 400 is no complaint of the page's.
    page.on("console", lambda said: "Failed to load resource" in said.text or complaints.append(said.text))
    yield page
    await page.close()
    assert complaints == []
    assert requests
    assert [url for url in requests if not url.startswith((f"{origin}/", f"blob:{origin}/"))] == []


@asynccontextmanager
async def shown(chromium: Browser, hub: Hub) -> AsyncIterator[tuple[Served, Page]]:
    async with polywire.testing.serve(hub) as served, opened(chromium, served.http_url) as page:
        await page.goto(f"{served.http_url}/docs")
        yield served, page


async def unfold(page: Page, operation: str) -> Locator:
    """An operation, which is open then."""
    await page.locator(f'#index a[href="#op-{operation}"]').click()
    found = page.locator(f'[id="op-{operation}"]')
    await expect(found).to_have_attribute("open", "")
    return found


async def send(operation: Locator, status: str) -> str:
    """The body that the button brings, and ``status``."""
    await operation.get_by_role("button", name="Send").click()
    await expect(operation.get_by_role("status")).to_have_text(re.compile(rf"^{status}.* · \d+ ms · \d+ bytes$"))
    return await operation.locator(".response pre").inner_text()


async def test_reading(chromium: Browser) -> None:
    async with shown(chromium, application.hub) as (_, page):
        await expect(page).to_have_title("warehouse")
        await expect(page.get_by_role("heading", level=1)).to_have_text("warehouse")
        await expect(page.get_by_text("what can be done with them")).to_be_visible()
        assert await page.locator("#index h2").all_inner_texts() == ["OPERATIONS", "BILLING", "JOBS", "TOPICS"]
        operation = await unfold(page, "create_item")
        text = await operation.inner_text()
        assert "Store an item, which gets a number." in text
        assert '"tool" | "toy" | "food"' in text
        assert "Three letters and four digits." in text
        assert "curl 'http://" in text
        colour = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(colour)
        await page.emulate_media(color_scheme="dark")
        assert await page.evaluate(colour) != light


async def test_trying(chromium: Browser, tmp_path: Path) -> None:
    async with shown(chromium, application.hub) as (_, page):
        add = await unfold(page, "add")
        editor = add.get_by_label("Body, application/json")
        await editor.fill('{"a": 40, "b": 2}')
        assert await send(add, "200 OK") == "42"
        await editor.fill('{"a": "forty"}')
        told = json.loads(await send(add, "400 Bad Request"))
        assert {error["path"] for error in told["errors"]} == {"$.a", "$.b"}
        await expect(add.locator(".response dl")).to_contain_text("application/problem+json")

        # In other formats, with the example's own values.
        for media in ("application/xml", "application/x-www-form-urlencoded", "multipart/form-data"):
            await add.get_by_label("Body as").select_option(media)
            assert await send(add, "200 OK") == "42"
        await add.get_by_label("Answer as").select_option("application/xml")
        assert ">42</result>" in await send(add, "200 OK")

        # With path and query.
        visits = await unfold(page, "visits")
        await visits.get_by_label("precise").select_option("true")
        assert json.loads(await send(visits, "200 OK"))["precise"] == 1


async def test_a_stream_and_a_file(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "cat.txt").write_text("meow")
    async with shown(chromium, application.hub) as (_, page):
        primes = await unfold(page, "primes")
        await primes.get_by_label("most").fill("12")
        await primes.get_by_role("button", name="Send").click()
        await expect(primes.locator(".log li")).to_have_text(["2", "3", "5", "7", "11"])

        photo = await unfold(page, "add_photo")
        await photo.get_by_label("photo").set_input_files(tmp_path / "cat.txt")
        await photo.get_by_label("caption").fill("a cat")
        told = json.loads(await send(photo, "201 Created"))
        assert told == {"bytes": 4, "name": "cat.txt", "type": "text/plain", "caption": "a cat"}


async def test_publishing_and_watching(chromium: Browser) -> None:
    async with shown(chromium, application.hub) as (_, page):
        watching = await unfold(page, "follow_readings")
        await watching.get_by_role("button", name="Watch").click()
        await expect(watching.get_by_role("status")).to_have_text("watching")
        publishing = await unfold(page, "publish_readings")
        assert json.loads(await send(publishing, "201 Created"))["topic"] == "readings"
        await application.readings.publish(application.Reading("attic", 3))
        items = watching.locator(".log li")
        await expect(items).to_have_count(2)
        first, second = [json.loads(text) for text in await items.all_inner_texts()]
        assert first == {"sensor": "sensor", "celsius": 21.5}
        assert second["sensor"] == "attic"
        await watching.get_by_role("button", name="Stop").click()
        await expect(watching.get_by_role("status")).to_have_text("stopped")


async def test_with_the_keyboard_alone(chromium: Browser) -> None:
    async with shown(chromium, application.hub) as (_, page):
        await expect(page.locator("#index a").first).to_be_visible()
        await page.keyboard.press("/")
        await expect(page.get_by_label("Filter operations and topics")).to_be_focused()
        await page.keyboard.type("two numbers")
        await expect(page.locator("#index li:visible")).to_have_count(1)
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        add = page.locator("#op-add")
        await expect(add.locator("> summary")).to_be_focused()
        await expect(add).to_have_attribute("open", "")
        await add.get_by_role("tab", name="curl").focus()
        await page.keyboard.press("ArrowRight")
        await expect(add.get_by_role("tab", name="Python")).to_be_focused()
        await expect(add.get_by_role("tabpanel")).to_contain_text("import requests")
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await add.get_by_role("button", name="Copy").press("Enter")
        await expect(add.get_by_role("button", name="Copied")).to_be_visible()
        assert "import requests" in await page.evaluate("navigator.clipboard.readText()")


async def test_an_api_key(chromium: Browser) -> None:
    hub = Hub("locked")
    hub.operation(name="secret")(lambda: 42)
    news = hub.topic("news")
    async with polywire.testing.serve(hub) as served, opened(chromium, served.http_url) as page:
        access = hub.core.access
        _, key = await access.create_key(access.system, "reader", ["call:secret", "subscribe:news.#"])
        await page.goto(f"{served.http_url}/docs")
        await expect(page.locator("#notice")).to_contain_text("needs an API key")
        await expect(page.get_by_label("API key")).to_be_focused()
        await page.keyboard.type(key)
        await page.keyboard.press("Enter")
        secret = await unfold(page, "secret")
        await expect(secret.get_by_role("tabpanel")).to_contain_text("POLYWIRE_KEY")
        assert await send(secret, "200 OK") == "42"
        await expect(page.locator("#op-publish_news")).to_have_count(0)
        watching = await unfold(page, "follow_news")
        await watching.get_by_role("button", name="Watch").click()
        await expect(watching.get_by_role("status")).to_have_text("watching")
        await news.publish("told")
        await expect(watching.locator(".log li")).to_have_text('"told"')
        await page.reload()
        await expect(page.locator("#op-secret")).to_be_visible()


async def test_where_the_hub_is_mounted(chromium: Browser, tmp_path: Path) -> None:
    hub = Hub("inner", data=tmp_path)
    hub.operation(name="answer")(lambda: 42)
    app = Starlette(routes=[Mount("/tools/hub", app=hub.asgi())])
    async with hosted(app) as host, opened(chromium, f"{host.url}/tools/hub") as page:
        await page.goto(f"{host.url}/tools/hub/docs")
        answer = await unfold(page, "answer")
        await expect(answer.get_by_role("tabpanel")).to_contain_text(f"{host.url}/tools/hub/operations/answer")
        assert await send(answer, "200 OK") == "42"


async def test_what_an_application_says_is_text(chromium: Browser) -> None:
    """Its names and docstrings are no part of the page's own words."""
    hub = Hub("<img src=x onerror=alert(1)>", description="<script>document.title = 'gone'</script>")

    def call() -> Any: ...

    call.__doc__ = "<b>bold</b> `<i>code</i>`"
    hub.operation(name="call")(call)
    async with shown(chromium, hub) as (_, page):
        await unfold(page, "call")
        assert await page.locator("main b:not(.answers b), main i, main img, main script, h1 img").count() == 0
        await expect(page.locator("#description")).to_contain_text("<script>")
        await expect(page).to_have_title("<img src=x onerror=alert(1)>")
