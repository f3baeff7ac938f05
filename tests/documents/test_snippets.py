"""Every snippet is run as it stands: curl by bash, Python by an interpreter with requests, JavaScript by node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from polywire.documents.jobs import SAMPLE_JOB
from polywire.documents.snippets import FilePart, Sample, snippets
from tests.conftest import require_tool
from tests.documents.described import each_operation
from tests.processes import run_hub

APPLICATION = Path(__file__).parent / "application.py"
ITEM = {"code": "ABC-1234", "name": "hammer", "kind": "tool"}
# Each runs all snippets of a file, and tells what each of them printed or how it failed.
RUN_PYTHON = """
import contextlib, io, json, sys, traceback
told = []
for source in json.load(sys.stdin):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(source, "snippet", "exec"), {})
        told.append([True, out.getvalue()])
    except Exception:
        told.append([False, source + traceback.format_exc()])
print(json.dumps(told))
"""
RUN_JAVASCRIPT = """
import { readFileSync } from "node:fs";
const told = [];
for (const source of JSON.parse(readFileSync(0))) {
  const lines = [];
  console.log = (value) => lines.push(typeof value === "string" ? value : JSON.stringify(value));
  try {
    await import("data:text/javascript," + encodeURIComponent(source));
    told.push([true, lines.join("\\n")]);
  } catch (error) {
    told.push([false, source + error]);
  }
}
process.stdout.write(JSON.stringify(told));
"""


class Shown(NamedTuple):
    id: str
    sources: dict[str, str]


@pytest.fixture(scope="module")
def hub_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_hub(str(APPLICATION), data=tmp_path_factory.mktemp("snippets") / "data") as hub:
        yield hub.http


def shown(url: str) -> list[Shown]:
    """Those that end by themselves, on what there is."""
    document = requests.get(f"{url}/openapi.json", timeout=10).json()
    found = []
    for _, _, one in each_operation(document):
        if not one["operationId"].startswith("follow_"):
            sources = {sample["label"]: sample["source"] for sample in one["x-codeSamples"]}
            found.append(Shown(one["operationId"], sources))
    assert len(found) > 25
    return found


def ready(url: str, one: Shown, language: str) -> str:
    """The source, and what it asks for is there."""
    source = one.sources[language]
    if "item" in one.id:
        requests.put(f"{url}/items/21", json=ITEM, timeout=10).raise_for_status()
    if SAMPLE_JOB in source:
        later = {"Prefer": "respond-async", "Polywire-Delay": "1h"}
        made = requests.post(f"{url}/operations/add", json={"a": 1, "b": 2}, headers=later, timeout=10).json()
        source = source.replace(SAMPLE_JOB, made["id"])
    return source


def expected(one: Shown) -> str:
    """A part of what it prints, of some."""
    return {
        "add": "42",
        "greet": "hello",
        "checksum": "907060870",
        "add_photo": "hello.txt",
        "primes": "2",
        "get_item": "hammer",
        "publish_readings": "readings",
        "billing.highest": "21.5",
        "depth": "1",
    }.get(one.id, "")


def run_all(command: list[str], sources: list[str], **environment: str) -> list[tuple[bool, str]]:
    ended = subprocess.run(
        command,
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **environment},
    )
    return [(bool(good), str(told)) for good, told in json.loads(ended.stdout)]


LAST = ("delete_item", "reset")
"""They take away what others ask for."""


def check(url: str, language: str, run: Any) -> None:
    some = sorted(shown(url), key=lambda one: one.id in LAST)
    for one, (good, told) in zip(some, run([ready(url, one, language) for one in some]), strict=True):
        assert good, told
        assert expected(one) in told, (one.id, told)


def test_curl(hub_url: str, tmp_path: Path) -> None:
    require_tool("curl")
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")

    def run(sources: list[str]) -> list[tuple[bool, str]]:
        ended = [
            subprocess.run(
                ["bash", "-euc", source + "; cat answer.bin 2>/dev/null || true"],
                cwd=tmp_path,
                env={**os.environ, "CURL_HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            for source in sources
        ]
        return [(one.returncode == 0, one.stdout + one.stderr) for one in ended]

    check(hub_url, "curl", run)


def test_python(hub_url: str) -> None:
    check(hub_url, "Python", lambda sources: run_all([sys.executable, "-c", RUN_PYTHON], sources))


def test_javascript(hub_url: str) -> None:
    node = require_tool("node")
    command = [node, "--input-type=module", "-e", RUN_JAVASCRIPT]
    check(hub_url, "JavaScript", lambda sources: run_all(command, sources))


# --- streams without an end ------------------------------------------------------------------------------------------


def follow(url: str, command: list[str], source: str, folder: Path) -> str:
    """The first line that a snippet prints, of a message that is published until it has come."""
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(0.1):
            requests.post(f"{url}/topics/notes", json={"text": "hello"}, timeout=10).raise_for_status()

    publishing = threading.Thread(target=publish)
    process = subprocess.Popen([*command, source], stdout=subprocess.PIPE, cwd=folder, env=os.environ)
    assert process.stdout is not None
    publishing.start()
    try:
        for line in process.stdout:
            if b"hello" in line:
                return line.decode()
        return ""
    finally:
        ended.set()
        publishing.join()
        process.kill()
        process.communicate()


def test_following(hub_url: str, node_clients: Path, tmp_path: Path) -> None:
    require_tool("curl")
    document = requests.get(f"{hub_url}/openapi.json", timeout=10).json()
    samples = document["paths"]["/topics/notes/events"]["get"]["x-codeSamples"]
    sources = {sample["label"]: sample["source"] for sample in samples}
    assert '"text":' in follow(hub_url, ["bash", "-euc"], "exec " + sources["curl"], tmp_path)
    assert "'text': 'hello'" in follow(hub_url, [sys.executable, "-u", "-c"], sources["Python"], tmp_path)
    # What a browser has, node takes from a package.
    imported = 'import { EventSource } from "eventsource";\n' + sources["JavaScript"]
    node = [require_tool("node"), "--input-type=module", "-e"]
    assert '"text":' in follow(hub_url, node, imported, node_clients)


# --- how they are written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["it's", 'a "quote"', "$HOME `date` \\", "line\nbreak", "ünï", "${x}", "</script>"])
def test_any_text_is_sent_as_it_is(hub_url: str, text: str) -> None:
    sample = Sample("POST", f"{hub_url}/operations/greet", json={"name": text})
    made = snippets(sample)
    said = subprocess.run(["bash", "-euc", made["curl"]], capture_output=True, text=True, timeout=20, check=True).stdout
    assert json.loads(said) == f"hello {text}"
    assert run_all([sys.executable, "-c", RUN_PYTHON], [made["python"]]) == [(True, f"hello {text}\n")]
    node = [require_tool("node"), "--input-type=module", "-e", RUN_JAVASCRIPT]
    assert run_all(node, [made["javascript"]]) == [(True, f"hello {text}")]


def test_the_key_is_not_in_them() -> None:
    made = snippets(Sample("GET", "http://hub/x", [("a", "1"), ("a", "b c")], key=True))
    assert made["curl"] == "curl 'http://hub/x?a=1&a=b%20c' \\\n  -H \"Authorization: Bearer $POLYWIRE_KEY\""
    assert 'params={"a": ["1", "b c"]}' in made["python"]
    assert 'headers={"Authorization": f"Bearer {os.environ[\'POLYWIRE_KEY\']}"}' in made["python"]
    assert "`Bearer ${process.env.POLYWIRE_KEY}`" in made["javascript"]
    events = snippets(Sample("GET", "http://hub/x", key=True, answer="events"))["javascript"]
    assert "http://hub/x?api_key=${process.env.POLYWIRE_KEY}" in events


def test_long_values_are_broken_into_lines() -> None:
    made = snippets(Sample("PUT", "http://hub/x", json={f"field{number}": [number] * 5 for number in range(12)}))
    assert max(len(line) for line in made["python"].splitlines()) <= 100
    compile(made["python"], "snippet", "exec")
    assert made["curl"].startswith("curl -X PUT ")


def test_files_and_fields() -> None:
    files = [FilePart("photo", "a.txt", "hello")]
    made = snippets(Sample("POST", "http://hub/x", files=files, fields=[("caption", "it's")]))
    assert "-F 'photo=hello;filename=a.txt;type=text/plain'" in made["curl"]
    assert 'files={"photo": ("a.txt", "hello", "text/plain")}' in made["python"]
    assert 'form.append("photo", new Blob(["hello"]' in made["javascript"]
