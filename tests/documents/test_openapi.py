"""The OpenAPI document: valid, complete, the same each time, and of what its reader may use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from polywire import File, Hub
from polywire.documents.draft import Audience
from polywire.documents.shared import PROBLEMS
from polywire.formats.xml import read_xml
from polywire.wires.rest.binding import STATUS
from tests.documents import application
from tests.documents.described import BASE, document, each_operation, resolved


def problems_of(document: dict[str, Any]) -> list[str]:
    return [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()]


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document(application.hub)


def test_it_is_valid(described):
    assert problems_of(described) == []
    assert problems_of(document(application.hub, strict=False)) == []
    assert problems_of(document(Hub("empty"), strict=False)) == []


def test_it_is_the_same_each_time(described):
    assert json.dumps(document(application.hub)) == json.dumps(described)


def test_info_and_server(described):
    assert described["openapi"] == "3.1.0"
    assert described["info"] == {
        "title": "warehouse",
        "version": "2.1",
        "description": "Things, and what can be done with them.",
    }
    assert described["servers"] == [{"url": BASE}]
    assert document(Hub("unversioned"))["info"] == {"title": "unversioned", "version": "0.0.0"}


def test_every_operation_has_its_place(described):
    places = {(method.upper(), path) for path, method, _ in each_operation(described)}
    for contract in application.hub.describe().operations:
        if contract.route is not None:
            assert (contract.route.method, contract.route.path) in places
            assert ("POST", f"/operations/{contract.name}") not in places
        else:
            assert ("POST", f"/operations/{contract.name}") in places
            assert (("GET", f"/operations/{contract.name}") in places) == contract.safe
    for topic in ("readings", "notes", "frames"):
        expected = {("POST", f"/topics/{topic}"), ("GET", f"/topics/{topic}"), ("GET", f"/topics/{topic}/events")}
        assert expected <= places
    assert {("GET", "/jobs/{id}"), ("DELETE", "/jobs/{id}"), ("GET", "/jobs/{id}/events")} <= places


def test_ids_are_unique_and_tags_declared(described):
    operations = [one for _, _, one in each_operation(described)]
    ids = [one["operationId"] for one in operations]
    assert len(set(ids)) == len(ids)
    assert "add" in ids
    assert {"greet", "greet.get", "billing.highest", "publish_readings"} <= set(ids)
    known = [tag["name"] for tag in described["tags"]]
    assert known == ["operations", "billing", "jobs", "topics"]
    assert {tag for one in operations for tag in one["tags"]} == set(known)
    assert described["paths"]["/operations/billing.highest"]["post"]["tags"] == ["billing"]


def test_texts_come_from_docstrings(described):
    reserve = described["paths"]["/operations/reserve"]["post"]
    assert reserve["summary"] == "Put some aside."
    assert reserve["description"] == "There is never enough of `ZZZ-9999`."
    assert "description" not in described["paths"]["/operations/add"]["post"]
    assert described["components"]["schemas"]["Size"]["description"] == "In centimetres."


def test_path_and_query(described):
    listed = {one["name"]: one for one in described["paths"]["/items"]["get"]["parameters"] if "name" in one}
    assert listed["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    assert listed["limit"]["description"] == "How many; at most a hundred."
    assert listed["tags"]["schema"]["type"] == "array"
    assert not any(one.get("required") for one in listed.values())
    day, room = described["paths"]["/days/{day}/rooms/{room}"]["get"]["parameters"][:2]
    assert (day["in"], day["required"], day["schema"]) == ("path", True, {"type": "string", "format": "date"})
    assert (room["name"], room["schema"]["format"]) == ("room", "uuid")


def test_bodies(described):
    paths = described["paths"]
    added = paths["/operations/add"]["post"]["requestBody"]
    assert added["required"] is True
    form = "application/x-www-form-urlencoded"
    assert list(added["content"]) == ["application/json", "application/xml", form, "multipart/form-data"]
    assert added["content"]["application/json"]["schema"] == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    created = paths["/items"]["post"]["requestBody"]["content"]
    assert created["application/json"]["schema"] == {"$ref": "#/components/schemas/NewItem"}
    assert form not in created, "an object within an object is not told in a form"
    assert "requestBody" not in paths["/operations/reset"]["post"]
    assert paths["/operations/greet"]["post"]["requestBody"]["required"] is False
    assert next(iter(paths["/operations/checksum"]["post"]["requestBody"]["content"])) == "application/octet-stream"


def test_files(described):
    content = described["paths"]["/photos"]["post"]["requestBody"]["content"]
    assert next(iter(content)) == "multipart/form-data"
    photo = content["multipart/form-data"]["schema"]["properties"]["photo"]
    assert photo == {"type": "string", "format": "binary"}
    hub = Hub("files")

    @hub.get("/report")
    def report() -> File:
        return File(b"")

    @hub.post("/many")
    def many(files: list[File]) -> int:
        return len(files)

    made = document(hub)
    assert "*/*" in made["paths"]["/report"]["get"]["responses"]["200"]["content"]
    several = made["paths"]["/many"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert several["properties"]["files"]["items"] == {"type": "string", "format": "binary"}
    assert problems_of(made) == []


def test_answers(described):
    paths = described["paths"]
    assert "201" in paths["/items"]["post"]["responses"]
    assert "content" not in paths["/items/{item_id}"]["delete"]["responses"]["204"]
    found = paths["/items/{item_id}"]["get"]["responses"]
    assert "ETag" in found["200"]["headers"]
    assert "304" in found
    assert {"text/plain", "application/xml"} < set(paths["/operations/greet"]["get"]["responses"]["200"]["content"])
    lines = paths["/primes"]["get"]["responses"]["200"]["content"]["application/x-ndjson"]["schema"]
    assert lines["items"]["anyOf"][0] == {"type": "integer"}
    assert "202" in paths["/operations/add"]["post"]["responses"]
    assert "202" not in paths["/operations/words"]["post"]["responses"], "a stream is no job"


def test_every_problem_is_one_the_wire_answers_with(described):
    assert {status for status, _ in PROBLEMS.values()} == {*STATUS.values()} - {405}
    for _, _, one in each_operation(described):
        for status in ("400", "401", "403", "404", "500", "503"):
            response = resolved(described, one["responses"][status])
            assert "application/problem+json" in response["content"]


def test_topics(described):
    path = described["paths"]["/topics/readings"]
    content = path["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Reading"}
    assert {"application/x-ndjson", "application/xml", "application/cloudevents+json"} < set(content)
    assert "`sensor`" in path["post"]["description"]
    page = path["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert page["properties"]["messages"]["items"]["allOf"][1]["properties"]["data"] == {
        "$ref": "#/components/schemas/Reading"
    }
    assert "text/event-stream" in described["paths"]["/topics/readings/events"]["get"]["responses"]["200"]["content"]
    assert set(described["paths"]["/topics/frames"]["post"]["requestBody"]["content"]) == {"*/*"}


def test_a_hub_that_makes_topics_on_use():
    made = document(Hub("open"), strict=False)
    assert set(made["paths"]) == {"/topics/{topic}", "/topics/{topic}/events"}
    assert made["paths"]["/topics/{topic}"]["post"]["parameters"][0]["in"] == "path"


def test_every_example_is_taken(described):
    """By the operation itself, in JSON and in XML."""
    contracts = {one.name: one for one in application.hub.describe().operations}
    seen = 0
    for _, _, one in each_operation(described):
        contract = contracts.get(one["operationId"])
        if contract is None or "requestBody" not in one:
            continue
        arguments = contract.route.in_body if contract.route is not None else contract.request
        assert arguments is not None
        content = one["requestBody"]["content"]
        arguments.from_builtins(content["application/json"]["example"])
        arguments.from_builtins(read_xml(content["application/xml"]["example"].encode(), arguments.codec.tree))
        seen += 1
    assert seen > 12


def test_references_lead_somewhere_and_nothing_is_left_over(described):
    text = json.dumps(described)
    named = {reference.split('"')[0] for reference in text.split('"$ref": "#/components/')[1:]}
    for kind in ("schemas", "parameters", "responses"):
        used = {one.partition("/")[2] for one in named if one.startswith(f"{kind}/")}
        known = set(described["components"][kind])
        assert used <= known
        if kind == "parameters":
            assert used == known


# --- who asks --------------------------------------------------------------------------------------------------------


def only(*allowed: tuple[str, str]) -> Any:
    return lambda action, name: (action, name) in allowed


def test_a_reader_sees_what_it_may_use():
    made = document(application.hub, audience=Audience(only(("call", "add"), ("subscribe", "readings"))))
    assert set(made["paths"]) == {
        "/operations/add",
        "/jobs/{id}",
        "/jobs/{id}/events",
        "/topics/readings",
        "/topics/readings/events",
    }
    assert set(made["paths"]["/topics/readings"]) == {"get"}
    assert {"Reading", "Problem", "Message", "Job"} <= set(made["components"]["schemas"])
    assert "Item" not in made["components"]["schemas"]
    assert problems_of(made) == []
    nothing = document(application.hub, audience=Audience(only()))
    assert nothing["paths"] == {}
    assert problems_of(nothing) == []


def test_security():
    may = only(("call", "add"), ("call", "reset"))
    keyless = document(application.hub, audience=Audience(may))
    assert "security" not in keyless
    assert set(keyless["components"]["securitySchemes"]) == {"bearer", "api_key"}
    made = document(application.hub, audience=Audience(may, only(("call", "reset"))))
    assert made["security"] == [{"bearer": []}, {"api_key": []}]
    assert "security" not in made["paths"]["/operations/add"]["post"]
    assert made["paths"]["/operations/reset"]["post"]["security"] == [{}, {"bearer": []}, {"api_key": []}]
    assert problems_of(made) == []
    sources = {
        path: made["paths"][path]["post"]["x-codeSamples"][0]["source"]
        for path in ("/operations/add", "/operations/reset")
    }
    assert "POLYWIRE_KEY" in sources["/operations/add"]
    assert "POLYWIRE_KEY" not in sources["/operations/reset"]


# --- names -----------------------------------------------------------------------------------------------------------


@dataclass
class Problem:
    """The application's own."""

    number: int


OTHER_PROBLEM = msgspec.defstruct("Problem", [("other", int)])
OTHER_FILE = msgspec.defstruct("File", [("other", int)])


def test_types_of_one_name_are_told_apart():
    hub = Hub("names")
    hub.topic("first", Problem)
    hub.topic("second", OTHER_PROBLEM)
    hub.topic("file", OTHER_FILE)
    made = document(hub)
    schemas = made["components"]["schemas"]
    assert schemas["Problem"]["description"] == "The application's own."
    assert list(schemas["Problem2"]["properties"]) == ["other"]
    assert "RFC 9457" in schemas["Problem3"]["description"]
    assert list(schemas["File"]["properties"]) == ["other"]
    told = resolved(made, made["components"]["responses"]["Invalid"])
    assert told["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem3"}
    assert problems_of(made) == []


def test_ids_that_an_operation_has_taken():
    hub = Hub("ids")
    hub.topic("news")
    hub.operation(name="read_news")(lambda: None)
    made = document(hub)
    assert made["paths"]["/operations/read_news"]["post"]["operationId"] == "read_news"
    assert made["paths"]["/topics/news"]["get"]["operationId"] == "read_news2"
