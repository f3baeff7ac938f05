"""Each test that asks for ``broker`` or ``start_broker`` runs on the hub, and on a mosquitto where it is installed."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.wires.mqtt.brokers import BACKENDS, Broker, Settings
from tests.wires.mqtt.calling import Desk, Doors, desk, desk_of
from tests.wires.served_hub import serving_hub

_topics = itertools.count()


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[type[Broker]]:
    """The hub runs in this process: whatever a client did, it may not have logged a fault of its own."""
    yield BACKENDS[request.param]
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    faults = [f"{one.getMessage()} {one.exc_text or ''}" for one in errors if one.name.startswith("polywire")]
    assert not faults, "\n".join(faults)


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[type[Broker]], Broker]]:
    """One broker of each kind, with its usual settings, for all tests that leave it as it was."""
    with ExitStack() as stack:
        brokers: dict[type[Broker], Broker] = {}

        def running(backend: type[Broker]) -> Broker:
            if backend not in brokers:
                brokers[backend] = broker = backend(tmp_path_factory.mktemp(backend.name), Settings())
                broker.start()
                stack.callback(broker.stop)
            return brokers[backend]

        yield running


@pytest.fixture
def broker(backend: type[Broker], _running: Callable[[type[Broker]], Broker]) -> Iterator[Broker]:
    """A running broker that other tests use too: keep to names below ``topic``, and to client ids that begin so."""
    broker = _running(backend)
    try:
        yield broker
    finally:
        broker.close_clients()
    faults, broker.faults = broker.faults, []
    assert not faults, "\n".join(faults)


@pytest.fixture
def start_broker(backend: type[Broker], tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts a broker of the test's own; takes the fields of `Settings`."""
    started: list[Broker] = []
    with ExitStack() as stack:

        def start(**settings: Any) -> Broker:
            broker = backend(tmp_path / "broker", Settings(**settings))
            started.append(broker)
            stack.callback(broker.stop)
            stack.callback(broker.close_clients)
            broker.start()
            return broker

        yield start
    faults = [fault for broker in started for fault in broker.faults]
    assert not faults, "\n".join(faults)


@pytest.fixture
def topic() -> str:
    """A first level that no other test uses."""
    return f"t{next(_topics)}"


@pytest.fixture
def doors() -> Iterator[Doors]:
    found = Doors()
    yield found
    found.open.set()


@pytest.fixture
def at(tmp_path: Path, doors: Doors) -> Iterator[Desk]:
    """A hub with operations."""
    with serving_hub(desk(doors), tmp_path) as served:
        yield from desk_of(served, doors)
