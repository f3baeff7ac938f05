"""Operations over JSON-RPC: by their own names, with ``call``, streamed, cancelled."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from polywire import Hub
from polywire.core.errors import Invalid, NotFound
from tests.wires.websocket.jsonrpc.conftest import RpcHub, Serve


@dataclass
class Order:
    number: int
    lines: list[str]


class Workshop:
    """A hub whose slow operations tell when they begin and end."""

    def __init__(self) -> None:
        self.hub = Hub("workshop", strict=False)
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.made = 0
        self._quick(self.hub)
        self._faulty(self.hub)
        self._slow(self.hub)

    def _quick(self, hub: Hub) -> None:
        @hub.operation
        def add(a: int, b: int = 5) -> int:
            """Add two numbers."""
            return a + b

        @hub.operation
        async def place(order: Order) -> Order:
            if order.number < 0:
                raise NotFound("no such order", hint="count from 0", extra={"number": order.number})
            return order

        @hub.operation
        async def nothing() -> None:
            pass

        @hub.operation
        async def blob(data: bytes) -> bytes:
            return data + b"\xff"

        @hub.operation
        async def anything(value: Any) -> Any:
            return value

        @hub.operation
        async def fail() -> None:
            raise RuntimeError("a secret")

        @hub.operation
        async def refuse() -> None:
            raise Invalid("not today")

        @hub.operation(name="ping")
        async def own_ping() -> str:
            return "mine"

    def _faulty(self, hub: Hub) -> None:
        @hub.operation
        async def unsayable() -> float:
            return math.nan

        @hub.operation
        async def unsayable_item() -> AsyncIterator[float]:
            yield 1.0
            yield math.inf

        @hub.operation
        async def not_as_declared() -> int:
            return "five"  # type: ignore[return-value]

    def _slow(self, hub: Hub) -> None:
        @hub.operation
        async def wait() -> str:
            self.begun.set()
            try:
                await asyncio.sleep(3_600)
            finally:
                self.ended.set()
            return "never"

        @hub.operation
        async def count(to: int) -> AsyncIterator[int]:
            try:
                for number in range(to):
                    self.made = number + 1
                    yield number
            finally:
                self.ended.set()

        @hub.operation
        async def broken() -> AsyncIterator[int]:
            yield 1
            raise Invalid("no more")


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


async def test_a_method_is_an_operations_name(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        assert await client.call("add", a=1, b=2) == 3
        assert await client.call("add", [1, 2]) == 3
        assert await client.call("add", [1]) == 6
        assert await client.call("place", number=1, lines=["a"]) == {"number": 1, "lines": ["a"]}
        assert await client.call("place", [{"number": 1, "lines": []}]) == {"number": 1, "lines": []}
        assert await client.call("nothing") is None
        assert await client.call("nothing", []) is None
        assert await client.call("blob", data="AA==") == "AP8="
        assert await client.call("anything", value={"a": [1.5, None]}) == {"a": [1.5, None]}


async def test_a_built_in_name_wins_and_call_reaches_the_operation(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        assert await client.call("ping") == "pong"
        assert await client.call("call", operation="ping") == "mine"
        assert await client.call("call", operation="add", arguments={"a": 1}) == 6
        assert await client.call("call", operation="add", arguments=[1, 1]) == 2


@pytest.mark.parametrize("given", [{"a": "x", "b": "y", "c": 1}, ["x", "y"]])
async def test_wrong_arguments_are_named(serve: Serve, workshop: Workshop, given: Any) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        error = await client.error("add", given)
        assert error.code == -32602
        assert "$.a" in error.paths
        named = await client.error("call", operation="add", arguments=given)
        assert "$.arguments.a" in named.paths
        assert (await client.error("add")).paths == ["$.a"]
        assert (await client.error("add", [1, 2, 3, 4])).paths == ["$[2]", "$[3]"]
        assert len((await client.error("add", [1] * 500_000)).paths) == 100
        assert (await client.error("place", number=1)).paths == ["$.lines"]


async def test_what_there_is_not(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        error = await client.error("ad", a=1)
        assert (error.code, error.data["hint"]) == (-32601, "did you mean 'add'?")
        assert (await client.error("rpc.discover")).code == -32601
        assert (await client.error("")).code == -32601
        assert (await client.error("x" * 100_000)).code == -32601
        assert (await client.error("call", operation="ad")).code == -32004
        assert (await client.error("call", operation="add", arguments=5)).code == -32602
        assert (await client.error("call", {"operation": 5, "argument": {}})).paths == ["$.argument", "$.operation"]


async def test_errors_of_operations(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        error = await client.error("place", number=-1, lines=[])
        assert (error.code, str(error)) == (-32004, "no such order")
        assert error.data == {
            "code": "not_found", "title": "Not found", "detail": "no such order", "hint": "count from 0", "number": -1,
        }  # fmt: skip
        error = await client.error("fail")
        assert (error.code, "secret" in json.dumps(error.data)) == (-32603, False)
        assert (await client.error("refuse")).code == -32602
        await client.notify("fail")
        await client.notify("nothing")
        assert await client.call("ping") == "pong"
        assert client.stray.empty()


async def test_a_result_that_is_not_as_declared_is_the_hubs_fault(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        for name in ("unsayable", "unsayable_item"):
            error = await client.error(name)
            assert (error.code, error.data["detail"]) == (-32603, f"operation {name!r} failed")
        kept = {"operation": "not_as_declared", "idempotency_key": "k"}
        assert (await client.error("call", kept)).code == -32603
        assert (await client.error("call", kept)).code == -32603


async def test_calls_run_side_by_side(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        waiting = await client.start("wait", id="w")
        assert await client.call("add", a=1) == 6
        assert not waiting.done()


async def test_a_call_has_its_time(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        error = await client.error("call", operation="wait", timeout="20ms")
        assert (error.code, error.data["retryable"]) == (-32054, True)
        await asyncio.wait_for(workshop.ended.wait(), 10)
        assert (await client.error("call", operation="add", timeout="soon")).paths == ["$.timeout"]


async def test_cancel(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        waiting = await client.start("wait", id="w")
        await asyncio.wait_for(workshop.begun.wait(), 10)
        assert await client.call("cancel", id="w") == {"cancelled": True}
        with pytest.raises(Exception, match="cancelled") as caught:
            await asyncio.wait_for(waiting, 10)
        assert caught.value.code == -32099  # type: ignore[attr-defined]
        await asyncio.wait_for(workshop.ended.wait(), 10)
        assert await client.call("cancel", id="w") == {"cancelled": False}
        assert (await client.error("cancel", id=[1])).paths == ["$.id"]
        assert (await client.error("cancel")).paths == ["$.id", "$.job"]


async def test_cancelled_before_it_began(serve: Serve, workshop: Workshop) -> None:
    """Both stand in one frame: the call has not run a step when it is cancelled."""
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        batch = [
            {"jsonrpc": "2.0", "method": "wait", "id": "w"},
            {"jsonrpc": "2.0", "method": "cancel", "params": {"id": "w"}, "id": "c"},
        ]
        await client.socket.send(json.dumps(batch))
        answers = {one["id"]: one for one in [await client.stray.get(), await client.stray.get()]}
        assert answers["c"]["result"] == {"cancelled": True}
        assert answers["w"]["error"]["code"] == -32099
    assert not workshop.begun.is_set()


async def test_a_connection_that_ends_cancels_its_calls(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        await client.start("wait")
        await client.notify("wait")
        await asyncio.wait_for(workshop.begun.wait(), 10)
        client.socket.transport.abort()
        await asyncio.wait_for(workshop.ended.wait(), 10)
    await hub.until(lambda: running(hub, "wait") == 0)


def running(hub: RpcHub, name: str) -> int:
    return next(one.counters.running for one in hub.core.calls if one.name == name)


async def test_streamed_items_and_then_their_number(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        assert await client.call("count", to=3) == {"items": 3}
        assert [await client.told("item") for _ in range(3)] == [{"call": 1, "item": n} for n in range(3)]
        assert await client.call("count", to=0) == {"items": 0}
        error = await client.error("broken")
        assert (error.code, str(error)) == (-32602, "no more")
        assert (await client.told("item"))["item"] == 1
        errors = hub.core.counters.wire("websocket").errors
        await client.notify("count", to=3)
        await client.call("ping")
        assert hub.core.counters.wire("websocket").errors == errors + 1


async def test_a_stream_waits_for_its_reader_and_ends_with_it(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub, websocket={"out_buffer": 16 << 10})
    async with hub.client(max_queue=1) as client:
        client.close()  # nobody takes what comes
        client.socket.transport.pause_reading()
        await client.start("count", {"to": 10_000_000})
        await hub.until(lambda: workshop.made > 100)
        before = -1
        while before != workshop.made:  # it comes to a stand
            before = workshop.made
            await asyncio.sleep(0.1)
        assert workshop.made < 9_000_000
        client.socket.transport.abort()
        await asyncio.wait_for(workshop.ended.wait(), 10)


async def test_a_stream_can_be_cancelled(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        counting = await client.start("count", {"to": 10_000_000}, id="c")
        await client.told("item")
        assert await client.call("cancel", id="c") == {"cancelled": True}
        with pytest.raises(Exception, match="cancelled"):
            await asyncio.wait_for(counting, 10)
        await asyncio.wait_for(workshop.ended.wait(), 10)


async def test_a_batch_is_answered_together(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        batch = [
            {"jsonrpc": "2.0", "method": "publish", "params": {"topic": "t", "data": 1}, "id": "p"},
            {"jsonrpc": "2.0", "method": "add", "params": [1], "id": "a"},
            {"jsonrpc": "2.0", "method": "nope", "id": "n"},
            {"jsonrpc": "2.0", "method": "add", "params": [1]},
            {"foo": "boo"},
        ]
        client.close()
        await client.socket.send(json.dumps(batch))
        answers = json.loads(await asyncio.wait_for(client.socket.recv(), 10))
        assert len(answers) == 4
        shown = {one["id"]: one.get("result", one.get("error", {}).get("code")) for one in answers}
        assert shown.pop("p")["topic"] == "t"
        assert shown == {"a": 6, "n": -32601, None: -32600}


# once, and as jobs ----------------------------------------------------------------------------------------------------


async def test_an_idempotency_key_runs_once(serve: Serve) -> None:
    hub = Hub("once", strict=False)
    runs: list[int] = []

    @hub.operation
    async def pay(amount: int) -> int:
        runs.append(amount)
        return len(runs)

    running_hub = await serve(hub)
    asked = {"operation": "pay", "arguments": {"amount": 5}, "idempotency_key": "k"}
    async with running_hub.client() as client:
        assert await client.call("call", asked) == 1
        assert await client.call("call", asked) == 1
        error = await client.error("call", {**asked, "arguments": {"amount": 6}})
        assert error.code == -32009
    assert runs == [5]


async def test_a_job(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        submitted = await client.call("submit", operation="add", arguments={"a": 1})
        assert (submitted["operation"], submitted["status"]) == ("add", "waiting")
        ended = await client.call("job", job=submitted["id"], wait="10s")
        assert (ended["status"], ended["result"]) == ("succeeded", 6)
        assert await client.call("follow", job=submitted["id"]) == {"items": 3}
        happened = [(await client.told("item"))["item"] for _ in range(3)]
        assert [one["event"] for one in happened] == ["submitted", "started", "succeeded"]
        assert await client.call("follow", job=submitted["id"], after=happened[1]["cursor"]) == {"items": 1}
        assert (await client.told("item"))["item"] == happened[2]
        assert (await client.error("job", job="nope")).code == -32004
        assert (
            (await client.error("submit", operation="add", arguments={"b": "x"})).paths[-1].startswith("$.arguments.")
        )
        assert (await client.error("submit", operation="count", arguments={"to": 1})).code == -32015
        assert (await client.error("cancel", job=submitted["id"])).code == -32009


async def test_a_job_is_cancelled(serve: Serve, workshop: Workshop) -> None:
    hub = await serve(workshop.hub)
    async with hub.client() as client:
        later = await client.call("submit", operation="add", arguments=[1], delay="1h")
        assert later["due"] > later["submitted"]
        assert (await client.call("cancel", job=later["id"]))["status"] == "cancelled"
        now = await client.call("submit", operation="wait")
        await asyncio.wait_for(workshop.begun.wait(), 10)
        await client.call("cancel", job=now["id"])
        assert (await client.call("job", job=now["id"], wait="10s"))["status"] == "cancelled"
        await asyncio.wait_for(workshop.ended.wait(), 10)
