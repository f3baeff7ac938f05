"""The wire's README says what the code says: files, errors, packets, properties."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import polywire.wires.mqtt
from polywire.core import errors
from polywire.wires.mqtt.binding import CONNECT_REASONS, PUBLISH_REASONS, SUBSCRIBE_REASONS
from polywire.wires.mqtt.properties import NAMES
from polywire.wires.mqtt.reading import REASONS
from polywire.wires.mqtt.reasons import connack_code
from polywire.wires.mqtt.settings import MqttSettings

FOLDER = Path(polywire.wires.mqtt.__file__).parent
NONE = "\N{EN DASH}"
README = (FOLDER / "README.md").read_text()


def section(heading: str) -> str:
    return README.partition(f"\n{heading}")[2].partition("\n## ")[0].partition("\n### ")[0]


def rows(heading: str) -> list[list[str]]:
    lines = re.findall(r"^\| (.+) \|$", section(heading), re.MULTILINE)
    return [line.split(" | ") for line in lines[1:] if not set(line) <= set("-| ")]


def test_every_file_has_its_place() -> None:
    named = re.findall(r"`(\w+\.py)`", section("## The files"))
    assert set(named) == {path.name for path in FOLDER.glob("*.py") if path.stem != "__init__"}


def test_every_error() -> None:
    shown = [[cell.strip("`") for cell in row] for row in rows("## Errors")]
    assert shown == [
        [
            code,
            f"0x{PUBLISH_REASONS[code]:02X}",
            f"0x{SUBSCRIBE_REASONS[code]:02X}",
            f"0x{CONNECT_REASONS[code]:02X}",
            NONE if (returned := connack_code(CONNECT_REASONS[code])) is None else str(returned),
        ]
        for code in PUBLISH_REASONS
    ]


@pytest.mark.parametrize(
    "reasons", [PUBLISH_REASONS, SUBSCRIBE_REASONS, CONNECT_REASONS], ids=["publish", "subscribe", "connect"]
)
def test_no_error_is_without_a_reason(reasons: dict[str, int]) -> None:
    tree = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "blame")}
    assert set(reasons) == tree - {errors.PolywireError.code} | {errors.Internal.code}


def test_every_packet() -> None:
    shown = " ".join(row[1] for row in rows("### Packets"))
    for packet in REASONS:
        assert packet.__name__.upper() in shown.replace(",", "").split()
    for name in ("CONNECT", "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE", "PINGREQ", "PINGRESP"):
        assert name in shown.replace(",", "").split()


def test_every_property() -> None:
    shown = [(int(row[0], 16), row[1]) for row in rows("### Properties")]
    assert shown == sorted(NAMES.items())


def test_settings_that_are_named_are_there() -> None:
    fields = MqttSettings.__struct_fields__
    for name in re.findall(r"`((?:max|connect|receive|in|topic_alias|session)_\w+)`", README):
        assert name in fields or name == "in_flight.py", name


def test_clauses_are_written_as_the_standard_writes_them() -> None:
    for clause in re.findall(r"\[((?:3\.1\.1: )?MQTT-\d[^\]]*)\]", README):
        for part in re.split(r", | to ", clause.removeprefix("3.1.1: ")):
            assert re.fullmatch(r"(3\.1\.1: )?(MQTT-\d+\.\d+\.\d+)?-\d+", part), clause
