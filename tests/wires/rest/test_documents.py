"""The hub's documents over REST: who sees what, under which address, and how they are kept."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.routing import Mount

import polywire.testing
from polywire import Hub
from polywire.server.settings import HttpSettings
from polywire.serving import ServeSettings
from polywire.wires.rest.documents import Documents
from tests.documents import application
from tests.hosts import hosted
from tests.wires.served_hub import ServedHub, serving_hub

ROOT = Path(__file__).resolve().parent.parent.parent.parent


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHub]:
    with serving_hub(application.hub, tmp_path_factory.mktemp("data")) as served:
        yield served


def small() -> Hub:
    hub = Hub("small")
    hub.operation(name="answer")(lambda: 42)
    hub.topic("readings", application.Reading)
    return hub


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=20)


def test_the_document(hub: ServedHub) -> None:
    answer = hub.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    document = answer.json()
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    assert document["servers"] == [{"url": hub.url}]
    assert "/operations/add" in document["paths"]
    assert hub.get("/openapi.json").content == answer.content
    assert f"curl '{hub.url}/items'" in answer.text


def test_it_is_not_sent_twice(hub: ServedHub) -> None:
    first = hub.get("/openapi.json")
    again = hub.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "private" in first.headers["Cache-Control"]
    head = hub.request("HEAD", "/openapi.json")
    assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", first.headers["ETag"])


def test_what_nobody_asks_for_is_refused(hub: ServedHub) -> None:
    assert hub.get("/openapi.json?format=yaml").status_code == 400
    assert hub.get("/docs?x=1").status_code == 400
    assert hub.post("/openapi.json").status_code == 405
    assert hub.get("/docs/../openapi.json").status_code == 200  # the client resolves it
    for path in ("/docs/none.js", "/docs/..%2f__init__.py", "/docs/%2e%2e", "/schemas/None", "/schemas/%ff"):
        assert hub.get(path).status_code in (400, 404), path


def test_the_address_is_the_readers_own(hub: ServedHub) -> None:
    port = hub.url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"[::1]:{port}", "hub.localhost"):
        document = get(f"{hub.url}/openapi.json", Host=host).json()
        assert document["servers"] == [{"url": f"http://{host}"}]
    assert get(f"{hub.url}/openapi.json", Host="x'y.localhost").status_code == 403


def test_an_odd_host_is_not_repeated(tmp_path: Path) -> None:
    """Where any Host is welcome, one that no URL can hold is not put into commands that people copy."""
    settings = ServeSettings(http=HttpSettings(allowed_hosts=("*",)))
    with serving_hub(small(), tmp_path, settings=settings) as served:
        document = get(f"{served.url}/openapi.json", Host="evil'; rm -rf ~; '").json()
        assert document["servers"] == [{"url": served.url}]
        assert get(f"{served.url}/openapi.json", Host="example.com").json()["servers"] == [
            {"url": "http://example.com"}
        ]


async def test_where_the_hub_is_mounted(tmp_path: Path) -> None:
    inner = Hub("inner", data=tmp_path)
    inner.operation(name="answer")(lambda: 42)
    async with hosted(Starlette(routes=[Mount("/tools/hub", app=inner.asgi())])) as host:
        answer = await asyncio.to_thread(get, f"{host.url}/tools/hub/openapi.json")
        assert answer.json()["servers"] == [{"url": f"{host.url}/tools/hub"}]
        page = await asyncio.to_thread(get, f"{host.url}/tools/hub/docs")
        assert page.status_code == 200
        assert (await asyncio.to_thread(get, f"{host.url}/tools/hub/docs/page.js")).status_code == 200


# --- schemas ---------------------------------------------------------------------------------------------------------


def test_schemas_by_name(hub: ServedHub) -> None:
    listed = {one["name"]: one["description"] for one in hub.get("/schemas").json()["schemas"]}
    assert listed["Item"] == "An item, as it is kept."
    assert {"Kind", "Size", "Reading", "Customer", "Address", "ItemChanges", "Folder"} <= set(listed)
    for name in listed:
        answer = hub.get(f"/schemas/{name}")
        assert answer.headers["Content-Type"] == "application/schema+json"
        schema = answer.json()
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        Draft202012Validator.check_schema(schema)
        assert "xml" not in json.dumps(schema)
    folder = Draft202012Validator(hub.get("/schemas/Folder").json())
    assert folder.is_valid({"name": "a", "inside": [{"name": "b"}]})
    assert not folder.is_valid({"name": "a", "inside": [{"nam": "b"}]})


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_needs_nobody_else(hub: ServedHub) -> None:
    page = hub.get("/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    files = {"page.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"}
    for name, kind in files.items():
        answer = hub.get(f"/docs/{name}")
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        again = hub.get(f"/docs/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        if name != "icon.svg":
            assert "http://" not in answer.text.replace("http://www.w3.org", "")


def test_it_is_linked(hub: ServedHub) -> None:
    links = hub.get("/").json()["links"]
    assert (links["docs"], links["openapi"], links["schemas"]) == ("/docs", "/openapi.json", "/schemas")


def test_it_is_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        shipped = {Path(name).name for name in packed.namelist() if name.startswith("polywire/documents/page/")}
    assert shipped == {file.name for file in (ROOT / "polywire" / "documents" / "page").iterdir()}
    assert "index.html" in shipped


# --- who sees what ---------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[ServedHub]:
    hub = Hub("keyed", anonymous_allow=["call:public"])
    hub.operation(name="public")(lambda: 1)
    hub.operation(name="secret")(lambda: 2)
    hub.operation(name="readings")(lambda: 3)
    hub.topic("readings", application.Reading)
    with serving_hub(hub, tmp_path) as served:
        yield served


def make_key(hub: ServedHub, *allow: str) -> dict[str, str]:
    access = hub.core.access
    name = "+".join(allow).replace("*", "all").replace("#", "any")
    _, key = hub.run(access.create_key(access.system, name, list(allow)))
    return {"Authorization": f"Bearer {key}"}


def document_for(hub: ServedHub, headers: dict[str, str]) -> Any:
    answer = hub.get("/openapi.json", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_key_sees_what_it_may_use(keyed: ServedHub) -> None:
    root = make_key(keyed, "*:#")
    reader = make_key(keyed, "subscribe:readings.#")
    one_sensor = make_key(keyed, "publish:readings.attic")
    caller = make_key(keyed, "call:secret")
    everything = document_for(keyed, root)["paths"]
    assert {"/operations/public", "/operations/secret", "/topics/readings"} <= set(everything)
    assert list(document_for(keyed, reader)["paths"]["/topics/readings"]) == ["get"]
    assert list(document_for(keyed, one_sensor)["paths"]["/topics/readings"]) == ["post"]
    assert set(document_for(keyed, caller)["paths"]) == {"/operations/secret", "/jobs/{id}", "/jobs/{id}/events"}
    anonymous = document_for(keyed, {})
    assert "/operations/public" in anonymous["paths"]
    assert "/operations/secret" not in anonymous["paths"]
    assert anonymous["paths"]["/operations/public"]["post"]["security"][0] == {}
    assert anonymous["security"] == [{"bearer": []}, {"api_key": []}]
    assert keyed.get("/openapi.json", headers={"X-API-Key": "pw_unknown"}).status_code == 401


def test_a_schema_that_one_may_not_use_is_not_there(keyed: ServedHub) -> None:
    reader = make_key(keyed, "subscribe:readings.#")
    caller = make_key(keyed, "call:secret", "call:readings")
    assert keyed.get("/schemas/Reading", headers=reader).status_code == 200
    assert keyed.get("/schemas/Reading", headers=caller).status_code == 404
    assert keyed.get("/schemas", headers=caller).json() == {"schemas": []}


def test_who_may_do_nothing_is_asked_for_a_key(tmp_path: Path) -> None:
    with serving_hub(small(), tmp_path) as served:
        assert served.get("/openapi.json").status_code == 200
        make_key(served, "*:#")
        for path in ("/openapi.json", "/schemas", "/schemas/Reading"):
            answer = served.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert served.get("/docs").status_code == 200, "the page has nothing to hide, and asks for the key"
        assert document_for(served, make_key(served, "call:none"))["paths"] == {}


async def test_documents_are_kept_within_bounds() -> None:
    async with polywire.testing.serve(small()) as served:
        hub = served.hub
        documents = Documents(application.hub.describe(), strict=True, most=2)
        shown = documents.shown(hub.core.access, hub.core.access.anonymous)
        bodies = await asyncio.gather(*(documents.openapi(shown, "http://a") for _ in range(20)))
        assert (len(set(bodies)), documents.kept) == (1, 1)
        for number in range(20):
            some = shown._replace(allowed=frozenset(list(shown.allowed)[: number + 1]))
            await documents.openapi(some, "http://a")
            assert documents.kept <= 2
