from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.hub_process import Hub

_NAMES = itertools.count()


APP = """
from collections.abc import AsyncIterator
from dataclasses import dataclass
from polywire import Hub, Reject

hub = Hub("shop")

@dataclass
class Order:
    number: int
    customer: str

orders = hub.topic("orders", Order, key="customer")
notes = hub.topic("notes")

@hub.subscribe(orders)
async def check(order: Order) -> None:
    if order.number < 0:
        raise Reject("a negative number")

@hub.operation
def add(a: int, b: int) -> int:
    \"\"\"Add two numbers.\"\"\"
    return a + b

@hub.operation
async def countdown(start: int) -> AsyncIterator[int]:
    \"\"\"Count down to one.\"\"\"
    for number in range(start, 0, -1):
        yield number
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """An open hub whose topics are made on use; shared by a module, so take names from `name`."""
    folder = tmp_path_factory.mktemp("hub")
    with Hub(data=folder / "data") as running:
        yield running


@pytest.fixture
def name() -> str:
    return f"t{next(_NAMES)}"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A small application in a folder of its own."""
    file = tmp_path / "app.py"
    file.write_text(APP)
    return file


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """``start("app.py", …)``: a hub that is ready, with data in ``tmp_path/data``; ended with the test."""
    running: list[Hub] = []

    def start(*arguments: str, **given: object) -> Hub:
        found = Hub(*arguments, data=given.pop("data", tmp_path / "data"), cwd=tmp_path, **given)
        running.append(found)
        return found

    yield start
    for one in running:
        one.end()
