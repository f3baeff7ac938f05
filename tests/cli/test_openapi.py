"""``polywire openapi``."""

from __future__ import annotations

import json
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.cli.hub_process import last_line, polywire

APPLICATION = Path(__file__).parent.parent / "documents" / "application.py"


def test_of_an_application():
    ended = polywire("openapi", str(APPLICATION), "--url", "https://api.example.com/hub/")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    assert document["servers"] == [{"url": "https://api.example.com/hub"}]
    assert "/topics/{topic}" not in document["paths"]
    assert polywire("openapi", str(APPLICATION), "--url", "https://api.example.com/hub/").stdout == ended.stdout


def test_it_is_what_the_hub_says(start):
    running = start(str(APPLICATION))
    said = running.polywire("openapi").stdout
    assert json.loads(said) == json.loads(polywire("openapi", str(APPLICATION), "--url", running.url).stdout)


def test_of_an_open_hub(hub):
    assert "/topics/{topic}" in json.loads(hub.polywire("openapi").stdout)["paths"]


def test_nothing_else_is_on_stdout(tmp_path):
    (tmp_path / "app.py").write_text('from polywire import Hub\nprint("loaded")\nhub = Hub("talks")\n')
    ended = polywire("openapi", "app.py", cwd=tmp_path)
    assert json.loads(ended.stdout)["info"]["title"] == "talks"
    assert "loaded" in ended.stderr
    assert not (tmp_path / "polywire-data").exists()


def test_what_cannot_be_described(tmp_path):
    (tmp_path / "app.py").write_text(
        "from polywire import Hub\nhub = Hub('x')\n@hub.operation\ndef f(value: complex) -> int:\n    return 1\n"
    )
    ended = polywire("openapi", "app.py", cwd=tmp_path)
    assert ended.returncode == 1
    assert "app.py:3" in last_line(ended.stderr)
    assert polywire("openapi", "missing.py", cwd=tmp_path).returncode == 2
    assert polywire("openapi", "--url", "http://127.0.0.1:1").returncode == 1
