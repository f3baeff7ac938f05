"""The judge of the crash test sees every kind of broken promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.record import Found, Stored, Told, faults


def honest() -> tuple[Told, Found]:
    names = [("r0", 0), ("w0", 0), ("r0", 1), ("r0", 3)]
    readings = [Stored(f"1-0-{offset}", name, f"filler {name}") for offset, name in enumerate(names)]
    told = Told(
        sent={name: f"filler {name}" for name in [*names, ("r0", 2)]},
        positions={"1-0-0": ("r0", 0), "1-0-2": ("r0", 1)},
        echoed={("w0", 0)},
        pulled={"1-0-0": ("r0", 0), "1-0-1": ("w0", 0)},
        settling={"1-0-0", "1-0-1"},
        settled={"1-0-0"},
    )
    found = Found(readings, results=[("r0", 0), ("w0", 0)], unhandled={"1-0-2", "1-0-3"}, unpulled={"1-0-2", "1-0-3"})
    return told, found


def test_an_honest_hub_has_no_faults() -> None:
    assert faults(*honest()) == []


def lose_acknowledged(told: Told, found: Found) -> None:
    told.positions["1-0-4"] = ("r0", 2)


def lose_echoed(told: Told, found: Found) -> None:
    told.echoed.add(("w0", 1))


def lose_pulled(told: Told, found: Found) -> None:
    told.pulled["1-0-9"] = ("r0", 2)


def use_an_offset_again(told: Told, found: Found) -> None:
    told.positions["1-0-3"] = ("r0", 2)


def store_twice(told: Told, found: Found) -> None:
    found.readings.append(Stored("1-0-4", ("r0", 3), "filler ('r0', 3)"))
    found.unhandled.add("1-0-4")
    found.unpulled.add("1-0-4")


def change_the_payload(told: Told, found: Found) -> None:
    found.readings[2] = found.readings[2]._replace(filler="other")


def invent(told: Told, found: Found) -> None:
    del told.sent["r0", 3]


def overtake(told: Told, found: Found) -> None:
    found.readings[2:] = [
        Stored("1-0-2", ("r0", 3), "filler ('r0', 3)"),
        Stored("1-0-3", ("r0", 1), "filler ('r0', 1)"),
    ]


def read_backwards(told: Told, found: Found) -> None:
    found.readings[0], found.readings[1] = found.readings[1], found.readings[0]


def forget_an_ack(told: Told, found: Found) -> None:
    found.unpulled.add("1-0-0")


def forget_a_pending_message(told: Told, found: Found) -> None:
    found.unpulled.discard("1-0-3")


def acknowledge_without_result(told: Told, found: Found) -> None:
    found.results.remove(("w0", 0))


def give_a_result_without_acknowledging(told: Told, found: Found) -> None:
    found.results.append(("r0", 1))


def give_two_results(told: Told, found: Found) -> None:
    found.results.append(("r0", 0))


def give_a_result_of_nothing(told: Told, found: Found) -> None:
    found.results.append(("r0", 2))


@pytest.mark.parametrize(
    "doctor",
    [
        lose_acknowledged,
        lose_echoed,
        lose_pulled,
        use_an_offset_again,
        store_twice,
        change_the_payload,
        invent,
        overtake,
        read_backwards,
        forget_an_ack,
        forget_a_pending_message,
        acknowledge_without_result,
        give_a_result_without_acknowledging,
        give_two_results,
        give_a_result_of_nothing,
    ],
    ids=lambda doctor: doctor.__name__,
)
def test_a_broken_promise_shows(doctor: Callable[[Told, Found], None]) -> None:
    told, found = honest()
    doctor(told, found)
    assert faults(told, found)
