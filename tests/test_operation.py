"""Operations in Python: declared, injected, called, in time, and their end."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from polywire import (
    Call,
    Conflict,
    DeadlineExceeded,
    Delivery,
    Depends,
    Hub,
    Internal,
    Invalid,
    Limits,
    NotFound,
    Operation,
    PolywireError,
    Principal,
    Router,
    Unavailable,
)
from polywire.testing import serve
from tests.application import Opaque, until
from tests.handlers.dependencies import AsyncDb, Database, Db, declare_counts, make


@dataclass
class Order:
    number: str
    cents: int = 0


@pytest.fixture(autouse=True)
def _no_database_yet() -> None:
    Database.opened = Database.closed = 0


# --- declared --------------------------------------------------------------------------------------------------------


async def test_it_stays_what_it_was(tmp_path: Path) -> None:
    hub = make(tmp_path)

    @hub.operation
    def add(a: int, b: int = 2) -> int:
        """Add two numbers."""
        return a + b

    @hub.operation(name="plus", safe=True)
    async def also_add(a: int, b: int) -> int:
        return a + b

    assert add(1) == 3
    assert add(a=1, b=1) == 2
    assert await also_add(1, 1) == 2
    assert (add.name, add.__name__, add.__doc__) == ("add", "add", "Add two numbers.")
    assert str(inspect.signature(add)) == "(a: 'int', b: 'int' = 2) -> 'int'"
    assert isinstance(also_add, Operation)
    assert repr(also_add) == "<Operation plus>"
    async with hub:
        assert await hub.call(add, 1, 2) == 3
        assert await hub.call("add", a=1) == 3
        assert await hub.call("plus", 1, b=1) == 2


async def test_one_function_may_be_several_operations(tmp_path: Path) -> None:
    hub = make(tmp_path)

    @hub.operation
    @hub.get("/twice/{number}", name="double")
    def twice(number: int) -> int:
        return 2 * number

    async with hub:
        assert await hub.call("twice", 2) == await hub.call("double", 2) == 4


async def test_operations_of_routers(tmp_path: Path) -> None:
    hub = make(tmp_path)
    billing = Router(prefix="billing.")

    @billing.operation
    async def pay(cents: int) -> str:
        return f"paid {cents}"

    with pytest.raises(Invalid, match="not part of a hub"):
        await pay.submit(5)
    hub.include(billing)
    assert pay.name == "billing.pay"
    async with hub:
        assert await hub.call(pay, 5) == "paid 5"
        assert await (await pay.submit(6)).result(10) == "paid 6"


def test_a_name_is_declared_once(tmp_path: Path) -> None:
    hub, router = make(tmp_path), Router()

    @hub.operation
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(ValueError, match=r"test_operation.py:\d+: an operation named 'add' is declared twice"):
        hub.operation(name="add")(add)
    router.operation(name="add")(add)
    with pytest.raises(ValueError, match="operation 'add' is declared twice"):
        hub.include(router)
    with pytest.raises(ValueError, match="not a name"):
        hub.operation(name="_add")(add)
    with pytest.raises(ValueError, match="concurrency"):
        hub.operation(name="none", concurrency=0)(add)


def opaque(order: Opaque) -> None: ...
def delivered(delivery: Delivery) -> None: ...
def positional(a: int, /) -> None: ...
def returns_opaque() -> Opaque:
    return Opaque()


def needs(what: str) -> str:
    return what


def unclaimed_dependency(value: Annotated[str, Depends(needs)]) -> None: ...
def unresolved(value: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (opaque, "order"),
        (delivered, "delivery"),
        (positional, "'a'"),
        (returns_opaque, "Opaque"),
        (unclaimed_dependency, "'what' of needs"),
        (unresolved, "Missing"),
    ],
)
async def test_what_nobody_can_call_fails_at_the_start(tmp_path: Path, function: Any, named: str) -> None:
    hub = make(tmp_path)
    hub.operation(function)
    with pytest.raises(TypeError, match=r"test_operation\.py:\d+") as told:
        await hub.start()
    assert named in str(told.value)


# --- given what it asks for ------------------------------------------------------------------------------------------


async def test_injection_by_annotation(tmp_path: Path) -> None:
    hub = make(tmp_path)
    seen: list[Any] = []

    @hub.operation
    async def look(order: Order, call: Call, who: Principal, h: Hub, db: Db, other: AsyncDb) -> bool:
        seen.append((order, call.operation, who.name, h is hub, call.arguments))
        return db.open and other.open and db is not other

    async with hub:
        assert await hub.call(look, number="A-1", cents=5)  # the fields of the only structured parameter
        assert await hub.call(look, Order("A-1", 5))
        assert Database.closed == 4
    assert seen[0] == seen[1] == (Order("A-1", 5), "look", "hub", True, {"order": Order("A-1", 5)})


def caller(call: Call) -> str:
    return call.principal.name


async def test_dependencies_are_closed_after_the_call_also_if_it_fails(tmp_path: Path) -> None:
    hub = make(tmp_path)
    open_then: list[int] = []

    @hub.operation
    async def fail(db: AsyncDb, same: AsyncDb, who: Annotated[str, Depends(caller)]) -> None:
        open_then.append(Database.opened - Database.closed)
        assert db is same
        raise Conflict(who)

    async with hub:
        with pytest.raises(Conflict, match="hub"):
            await hub.call(fail)
    assert (open_then, Database.closed) == ([1], 1)


async def test_arguments_are_checked_as_those_of_any_caller(tmp_path: Path) -> None:
    hub = make(tmp_path)

    @hub.operation
    def order(number: str, cents: int, tags: list[str] | None = None) -> dict[str, Any]:
        return {"number": number, "cents": cents, "tags": tags}

    async with hub:
        assert await hub.call(order, "A", 5, tags=["x"]) == {"number": "A", "cents": 5, "tags": ["x"]}
        with pytest.raises(Invalid) as told:
            await hub.call(order, 1, "many")
        assert {field.path for field in told.value.fields} == {"$.number", "$.cents"}
        with pytest.raises(Invalid):
            await hub.call(order, "A", 5, colour="red")
        with pytest.raises(Invalid):
            await hub.call(order, "A")
        for wrong in ({"args": ("A", 5, None, 1), "kwargs": {}}, {"args": ("A",), "kwargs": {"number": "B"}}):
            with pytest.raises(TypeError):
                await hub.call(order, *wrong["args"], **wrong["kwargs"])  # type: ignore[misc]
        with pytest.raises(NotFound):
            await hub.call("nothing")


async def test_parameters_may_have_any_name(tmp_path: Path) -> None:
    hub = make(tmp_path)

    @hub.operation
    def odd(function: int, arguments: int, self: int, operation: int) -> int:
        return function + arguments + self + operation

    async with hub:
        assert await hub.call("odd", 1, 2, 3, 4) == 10
        assert await hub.core.calls.call(
            hub.core.access.system, "odd", {"function": 1, "arguments": 1, "self": 1, "operation": 1}
        )


async def test_a_plain_function_runs_in_a_thread_with_a_blocking_twin(tmp_path: Path) -> None:
    hub = make(tmp_path)

    @hub.operation
    def outer(number: int) -> list[str]:
        assert threading.current_thread() is not threading.main_thread()
        return [threading.current_thread().name, hub.call_from_thread(inner, number), hub.call_from_thread("inner", 2)]

    @hub.operation
    async def inner(number: int) -> str:
        assert threading.current_thread() is threading.main_thread()
        return f"inner {number}"

    async with hub:
        assert await hub.call(outer, 1) == ["test-handler-1", "inner 1", "inner 2"]
        with pytest.raises(RuntimeError, match="blocks"):
            hub.call_from_thread(inner, 1)


# --- in time ---------------------------------------------------------------------------------------------------------


async def test_its_own_timeout_and_what_is_left_of_it(tmp_path: Path) -> None:
    hub = make(tmp_path, limits=Limits(call_timeout=600_000))
    remaining: list[float | None] = []
    ended: list[str] = []

    async def slow(call: Call) -> None:
        remaining.append(call.remaining)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(call.operation)

    hub.operation(name="own", timeout="90s")(slow)
    hub.operation(name="hubs")(slow)
    hub.operation(name="none", timeout=0)(slow)
    async with serve(hub, data=str(tmp_path / "data")) as t:
        tasks = [asyncio.ensure_future(hub.call(name)) for name in ("own", "hubs", "none")]
        await until(lambda: len(remaining) == 3)
        own, hubs, none = remaining
        assert own is not None
        assert 80 < own <= 90
        assert hubs is not None
        assert 590 < hubs <= 600
        assert none is None
        t.clock.advance("90s")
        with pytest.raises(DeadlineExceeded, match="'own'"):
            await tasks[0]
        assert ended == ["own"]
        t.clock.advance("1h")
        with pytest.raises(DeadlineExceeded, match="'hubs'"):
            await tasks[1]
        tasks[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
    assert ended == ["own", "hubs", "none"]


async def test_who_leaves_does_not_wait_for_a_thread_and_closes_nothing_under_it(tmp_path: Path) -> None:
    hub = make(tmp_path)
    begun, go = threading.Event(), threading.Event()
    saw: list[bool] = []

    @hub.operation
    def block(db: Db) -> None:
        begun.set()
        go.wait(10)
        saw.append(db.open)

    async with hub:
        task = asyncio.ensure_future(hub.call(block))
        await until(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert Database.closed == 0
        go.set()
        await until(lambda: Database.closed == 1)
    assert saw == [True]


async def test_what_no_thread_has_begun_never_is(tmp_path: Path) -> None:
    hub = make(tmp_path)
    hub.configure(threads=1)
    go = threading.Event()
    ran: list[str] = []

    @hub.operation
    def block(db: Db) -> None:
        go.wait(10)

    @hub.operation
    def late(db: Db) -> None:
        ran.append("late")

    async with hub:
        blocking = asyncio.ensure_future(hub.call(block))
        await until(lambda: Database.opened == 1)
        task = asyncio.ensure_future(hub.call(late))
        await until(lambda: Database.opened == 2)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert Database.closed == 1
        go.set()
        await blocking
    assert ran == []


# --- life ------------------------------------------------------------------------------------------------------------


async def test_operations_may_be_called_within_the_lifespan_and_end_before_it(tmp_path: Path) -> None:
    order: list[str] = []
    go, begun = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def lifespan(hub: Hub) -> AsyncIterator[None]:
        order.append(await hub.call("work", "at the start"))
        yield
        order.append("lifespan ends")

    hub = make(tmp_path, lifespan=lifespan)

    @hub.operation
    async def work(what: str) -> str:
        if what == "long":
            begun.set()
            await go.wait()
            order.append("long ends")
        return what

    async with hub:
        task = asyncio.ensure_future(hub.call("work", "long"))
        await begun.wait()
        stopping = asyncio.ensure_future(hub.stop())
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await hub.core.calls.call(hub.core.access.anonymous, "work", {"what": "x"})
        go.set()
        await stopping
        assert await task == "long"
    assert order == ["at the start", "long ends", "lifespan ends"]
    with pytest.raises(Unavailable, match="not started"):
        await hub.call("work", "x")


async def test_a_call_that_does_not_end_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    hub = make(tmp_path, limits=Limits(drain=500))
    begun = asyncio.Event()

    @hub.operation
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with hub:
        task = asyncio.ensure_future(hub.call(endless))
        await begun.wait()
    with pytest.raises(Unavailable, match="stopping"):
        await task


async def test_errors_of_others_are_internal_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = make(tmp_path)

    class Own(PolywireError):
        code = "own"

    @hub.operation
    def fail(how: str) -> None:
        raise {"own": Own("mine"), "bug": ZeroDivisionError("bug"), "exit": SystemExit(3), "stop": StopIteration()}[how]

    async with hub:
        with pytest.raises(Own):
            await hub.call(fail, "own")
        for how in ("bug", "exit", "stop"):
            with pytest.raises(Internal):
                await hub.call(fail, how)
    assert "ZeroDivisionError" in caplog.text


async def test_the_documents_know_what_is_declared(tmp_path: Path) -> None:
    hub = make(tmp_path)
    declare_counts(hub)

    @hub.post("/orders/{number}", status=201, timeout="5s", concurrency=2, name="order")
    async def create(number: str, order: Order) -> Order:
        """Create an order.

        At length.
        """
        return msgspec.structs.replace(order) if isinstance(order, msgspec.Struct) else order

    contract = hub.describe().operation("order")
    assert (contract.summary, contract.status, contract.streams) == ("Create an order.", 201, False)
    assert hub.describe().operation("count").streams
