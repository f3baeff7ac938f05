"""Index, health, metrics, API keys, backup; and who may do what."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.wires.http_hub import HttpHub


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_the_index_speaks_to_programs_and_people(hub: HttpHub) -> None:
    shown = hub.get("/").json()
    assert (shown["hub"], shown["version"]) == ("greenhouse", "1.2.3")
    assert shown["links"]["topics"] == "/topics"
    page = hub.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert "<h1>greenhouse</h1>" in page.text


def test_health_and_readiness(hub: HttpHub) -> None:
    assert hub.get("/health").json()["status"] == "ok"
    assert hub.get("/ready").status_code == 200
    hub.run(hub.core.stop())
    late = hub.get("/ready")
    assert (late.status_code, late.headers["Retry-After"]) == (503, "1")
    assert hub.get("/health").status_code == 200


def test_metrics_are_what_prometheus_reads(hub: HttpHub) -> None:
    hub.put("/subscriptions/work", json={"sources": [{"topic": "readings"}]})
    for number in range(3):
        hub.post("/topics/readings", json=number)
    held = hub.post("/subscriptions/work/pull", json={"max": 1}).json()["deliveries"]
    assert len(held) == 1
    hub.get("/topics/readings", params={"limit": 0})
    answer = hub.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}

    def value(family: str, name: str | None = None, **labels: str) -> float:
        samples = families[family].samples
        return next(s.value for s in samples if s.name == (name or family) and labels.items() <= s.labels.items())

    assert value("polywire_up") == 1
    assert value("polywire_topic_messages", topic="readings") == 3
    assert value("polywire_topic_appended", "polywire_topic_appended_total", topic="readings") == 3
    assert value("polywire_topic_bytes", topic="readings") > 0
    assert value("polywire_subscription_pending", subscription="work") == 3
    assert value("polywire_subscription_unsettled", subscription="work") == 1
    assert 0 <= value("polywire_subscription_oldest_unsettled_seconds", subscription="work") < 60
    assert value("polywire_wire_received", "polywire_wire_received_total", wire="rest") == 3
    assert value("polywire_wire_delivered", "polywire_wire_delivered_total", wire="rest") == 1
    assert value("polywire_wire_errors", "polywire_wire_errors_total", wire="rest") == 1
    assert value("polywire_commit_seconds", "polywire_commit_seconds_count") > 0
    assert 0 < value("polywire_commit_seconds", "polywire_commit_seconds_sum") < 60
    assert value("polywire_wal_bytes") > 0


def test_an_api_key_opens_what_it_says(hub: HttpHub) -> None:
    made = hub.post("/api-keys", json={"name": "admin", "allow": ["*:#"]})
    assert made.status_code == 201
    admin = bearer(made.json()["key"])
    narrow = hub.post("/api-keys", json={"name": "sensor", "allow": ["publish:readings.#"]}, headers=admin).json()
    sensor = bearer(narrow["key"])
    listed = hub.get("/api-keys", headers=admin)
    assert {one["name"] for one in listed.json()["api_keys"]} == {"admin", "sensor"}
    assert narrow["key"] not in listed.text

    assert hub.post("/topics/readings", json=1, headers=sensor).status_code == 201
    assert hub.post("/topics/readings", json=1, headers={"X-API-Key": narrow["key"]}).status_code == 201
    assert hub.post("/topics/readings", json=1, auth=("anybody", narrow["key"])).status_code == 201
    in_url = hub.post("/topics/readings", json=1, params={"api_key": narrow["key"]})
    assert in_url.status_code == 401, "URLs end up in logs"
    nobody = hub.post("/topics/readings", json=1)
    assert (nobody.status_code, nobody.headers["WWW-Authenticate"]) == (401, 'Bearer realm="polywire"')
    for method, path in (
        ("POST", "/topics/other"),
        ("GET", "/topics/readings"),
        ("GET", "/api-keys"),
        ("GET", "/metrics"),
    ):
        assert hub.request(method, path, headers=sensor).status_code == 403, (method, path)
    assert hub.get("/metrics").status_code == 401
    assert hub.get("/metrics", headers=admin).status_code == 200
    assert hub.get("/health").status_code == 200
    assert hub.get("/ready").status_code == 200

    assert hub.delete("/api-keys/sensor", headers=admin).status_code == 204
    assert hub.delete("/api-keys/sensor", headers=admin).status_code == 404
    assert hub.post("/topics/readings", json=1, headers=sensor).status_code == 401


@pytest.mark.parametrize("body", ['{"name": "x"}', '{"name": "", "allow": []}', '{"name": "x", "allow": ["fly:#"]}'])
def test_a_key_that_makes_no_sense_is_refused(hub: HttpHub, body: str) -> None:
    assert hub.post("/api-keys", data=body).status_code == 400
    assert hub.core.access.open


def test_a_backup_is_made_where_it_is_told(hub: HttpHub, tmp_path: Path) -> None:
    hub.post("/topics/t", json=1)
    answer = hub.post("/backup", json={"folder": str(tmp_path / "copy")})
    assert answer.status_code == 200, answer.text
    assert any((tmp_path / "copy").iterdir())
    assert hub.post("/backup", json={"folder": str(tmp_path / "copy")}).status_code in {400, 409}
