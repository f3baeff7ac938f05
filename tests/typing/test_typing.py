"""What mypy and pyright make of the public API: right uses are clean, each wrong one is an error on its own line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
SECONDS = 120


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(*files: Path) -> set[tuple[str, int]]:
    """File and line of each error."""
    said = run(sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", *map(str, files))
    assert "Found" in said or "Success" in said, said
    return {(Path(file).name, int(line)) for file, line in re.findall(r"^(\S+?):(\d+): error:", said, re.MULTILINE)}


def pyright(*files: Path) -> set[tuple[str, int]]:
    program = shutil.which("pyright", path=str(Path(sys.executable).parent))
    assert program is not None
    report = json.loads(run(program, "--outputjson", "--pythonpath", sys.executable, *map(str, files)))
    return {
        (Path(found["file"]).name, found["range"]["start"]["line"] + 1)
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    }


def marked(file: Path) -> set[tuple[str, int]]:
    lines = file.read_text().splitlines()
    return {(file.name, number) for number, line in enumerate(lines, 1) if "# wrong" in line}


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("check", [mypy, pyright])
def test_right_is_clean_and_wrong_is_refused(check: Callable[..., set[tuple[str, int]]]) -> None:
    right, wrong = FOLDER / "right.py", FOLDER / "wrong.py"
    expected = marked(wrong)
    assert len(expected) > 10
    assert check(right, wrong) == expected
