"""The table of differences is the README's, and every row of it is tried."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT
from tests.wires.mqtt.differences import DIFFERENCES

TESTS = Path(__file__).parent


def test_each_is_expected_by_a_test() -> None:
    sources = (path.read_text() for folder in ("behaviours", "clients") for path in (TESTS / folder).glob("test_*.py"))
    expected = {name for source in sources for name in re.findall(r'differs\("([^"]+)"\)', source)}
    assert expected == set(DIFFERENCES)


def test_the_readme_has_them_all() -> None:
    readme = (ROOT / "polywire" / "wires" / "mqtt" / "README.md").read_text()
    section = readme.partition("\n## Beside mosquitto\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    assert [row for row in rows if row[0] not in ("behaviour", "---")] == [
        (name, *difference) for name, difference in DIFFERENCES.items()
    ]
