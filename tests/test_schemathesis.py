"""schemathesis reads the hub's own OpenAPI document and asks what it says and what it forbids: no server error, no
status, content type or body that is not documented, and nothing taken that is documented as wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.processes import run_hub

DOCUMENTS = Path(__file__).parent / "documents"
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


def ended_job(url: str) -> str:
    asked = {"json": {"a": 1, "b": 2}, "headers": {"Prefer": "respond-async"}}
    made = requests.post(f"{url}/operations/add", **asked, timeout=10).json()
    assert requests.get(f"{url}/jobs/{made['id']}", params={"wait": "10s"}, timeout=20).json()["result"] == 3
    return str(made["id"])


def ask(folder: Path, *options: str, seconds: float, but: str = "^$") -> None:
    """``but``: paths to leave out."""
    with run_hub(str(DOCUMENTS / "application.py"), data=folder / "data") as hub:
        described = requests.get(f"{hub.http}/openapi.json", timeout=10).json()["paths"]
        hooks = {"SCHEMATHESIS_HOOKS": str(DOCUMENTS / "schemathesis_hooks.py"), "JOB": ended_job(hub.http)}
        # One worker: in two threads CPython 3.11's parser fails at times, which hypothesis asks for lambdas' text.
        command = [str(SCHEMATHESIS), "--config-file", str(DOCUMENTS / "schemathesis.toml"), "run", "--workers", "1"]
        asked = subprocess.run(
            [*command, *options, "--exclude-path-regex", but, f"{hub.http}/openapi.json"],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, **hooks},
            timeout=seconds,
            check=False,
        )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    tested = re.search(r"Tested: (\d+)", asked.stdout)
    assert tested is not None
    assert int(tested[1]) == sum(len(methods) for path, methods in described.items() if not re.search(but, path))


@pytest.mark.timeout(120)
def test_the_document_is_true(tmp_path: Path) -> None:
    ask(tmp_path, "--max-examples", "3", "--generation-deterministic", seconds=110, but="^/topics/notes")


@pytest.mark.long
def test_the_document_is_true_of_many_requests(tmp_path: Path) -> None:
    ask(tmp_path, "--max-examples", "200", seconds=3_000)
