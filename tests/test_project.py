"""The project's own promises: what is pinned, what is published, what a skip means in CI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]

# In two parts, so that this file does not name them.
REGISTRIES = ["pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org", "repo.maven" + ".apache.org"]


def committed_files(git: str) -> list[Path]:
    """Every file in git, and every new one that git would take."""
    listing = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    names = {ROOT / os.fsdecode(name) for name in listing.stdout.split(b"\0") if name}
    return sorted(path for path in names if path.is_file())


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.partition("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in pins}


def declared() -> list[Requirement]:
    texts = PROJECT["project"]["dependencies"] + [text for extra in EXTRAS.values() for text in extra]
    return [Requirement(text) for text in texts if not text.startswith("polywire[")]


def installed_closure() -> dict[str, str]:
    """Everything installed because the project, with every extra, asks for it: name to version."""
    found: dict[str, str] = {}
    todo = declared()
    visited = set()
    while todo:
        requirement = todo.pop()
        if str(requirement) in visited or not wanted(requirement):
            continue
        visited.add(str(requirement))
        found[canonicalize_name(requirement.name)] = metadata.version(requirement.name)
        todo += dependencies(requirement)
    return found


def wanted(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def dependencies(requirement: Requirement) -> list[Requirement]:
    """What it needs here, with its extras; the markers are settled, so the result carries none."""
    chosen = []
    for text in metadata.requires(requirement.name) or []:
        child = Requirement(text)
        marker, child.marker = child.marker, None
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            chosen.append(child)
    return chosen


def test_no_file_names_a_registry(require):
    files = committed_files(require("git"))
    assert ROOT / "pyproject.toml" in files
    naming = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in files
        for host in REGISTRIES
        if host.encode() in path.read_bytes()
    ]
    assert naming == []


def test_git_takes_no_environment(require):
    strays = {".venv", "node_modules", "__pycache__", "package-lock.json"}
    files = [path.relative_to(ROOT) for path in committed_files(require("git"))]
    assert [str(path) for path in files if strays.intersection(path.parts)][:10] == []


def test_constraints_are_names_and_versions_only():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


def test_constraints_pin_what_is_installed():
    installed = installed_closure()
    assert {"starlette", "uvicorn", "fastapi", "pytest", "anyio"} <= installed.keys()
    pins = constraints()
    differing = {name: (version, pins.get(name)) for name, version in installed.items() if pins.get(name) != version}
    assert differing == {}, "installed version, pinned version"


def test_constraints_satisfy_every_lower_bound():
    pins = constraints()
    for requirement in declared():
        pinned = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), f"{requirement} is pinned to {pinned}"


def test_all_means_every_extra_for_users():
    named = {extra for text in EXTRAS["all"] for extra in Requirement(text).extras}
    assert named == EXTRAS.keys() - {"all", "bench", "dev"}


def test_node_clients_are_pinned_exactly():
    package = json.loads((ROOT / "tests" / "node" / "package.json").read_text())
    for name, version in package["dependencies"].items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), f"{name} {version}"


SKIPPING = """
import pytest

def test_skips(): pytest.skip("why")

@pytest.mark.skip(reason="marked")
def test_marked(): raise AssertionError

def test_tool(require): require("no-such-tool")

@pytest.mark.xfail(reason="known")
def test_expected(): raise AssertionError
"""


@pytest.fixture
def skipping_suite(tmp_path):
    """A project with this conftest and tests that skip; returns how the run ended and the summary line."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")

    def run(file: str, require_all: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
        environment = {**os.environ, "POLYWIRE_REQUIRE_ALL": require_all}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout.splitlines()[-1]

    return run


def test_a_skip_is_a_skip_on_a_laptop(skipping_suite):
    code, summary = skipping_suite("test_skipping.py", require_all="0")
    assert code == 0
    assert summary.startswith("3 skipped, 1 xfailed")


def test_a_skip_is_a_failure_when_everything_is_required(skipping_suite):
    code, summary = skipping_suite("test_skipping.py", require_all="1")
    assert code == 1
    assert summary.startswith("2 failed, 1 xfailed, 1 error")


def test_a_skipped_module_is_an_error_when_everything_is_required(skipping_suite):
    code, summary = skipping_suite("test_module.py", require_all="1")
    assert code != 0
    assert summary.startswith("1 error")
