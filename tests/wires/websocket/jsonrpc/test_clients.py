"""Clients that other people wrote: jsonrpcclient over websocket-client, json-rpc-2.0 over ws in Node.js."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from jsonrpcclient import Error, Ok, notification, parse, request
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import connect

from polywire import Hub
from tests.hosts import hosted
from tests.wires.websocket.jsonrpc.conftest import Serve


def shop() -> Hub:
    hub = Hub("shop", strict=False)

    @hub.operation
    def add(a: int, b: int) -> int:
        return a + b

    @hub.operation
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    return hub


def converse(url: str) -> dict[str, Any]:
    """Blocking, as their READMEs show it."""
    heard: dict[str, Any] = {}
    ws = websocket.create_connection(url, timeout=10)
    ws.send(json.dumps(request("add", params=(1, 2))))
    heard["add"] = parse(json.loads(ws.recv()))
    ws.send(json.dumps(request("add", params={"a": "one"})))
    heard["wrong"] = parse(json.loads(ws.recv()))
    ws.send(json.dumps([request("add", params=[n, n]) for n in range(3)]))
    heard["batch"] = list(parse(json.loads(ws.recv())))
    ws.send(json.dumps(request("subscribe", params={"topic": "news"})))
    heard["subscribe"] = parse(json.loads(ws.recv()))
    ws.send(json.dumps(notification("publish", params={"topic": "news", "data": "hello"})))
    heard["message"] = json.loads(ws.recv())
    ws.send_bytes(json.dumps(request("ping")).encode())
    heard["ping"] = parse(json.loads(ws.recv()))
    ws.close()
    return heard


async def test_jsonrpcclient_over_websocket_client(serve: Serve) -> None:
    hub = await serve(shop())
    heard = await asyncio.to_thread(converse, hub.url)
    assert isinstance(heard["add"], Ok)
    assert heard["add"].result == 3
    assert isinstance(heard["wrong"], Error)
    assert heard["wrong"].code == -32602
    assert {field["path"] for field in heard["wrong"].data["errors"]} == {"$.a", "$.b"}
    assert sorted(one.result for one in heard["batch"]) == [0, 2, 4]
    assert heard["subscribe"].result["subscription"] == 1
    assert heard["message"]["params"]["messages"][0]["data"] == "hello"
    assert heard["ping"].result == "pong"


NODE = """
    const WebSocket = require('ws');
    const { JSONRPCClient } = require('json-rpc-2.0');
    const ws = new WebSocket(process.argv[1], ['jsonrpc']);
    const client = new JSONRPCClient((request) => { ws.send(JSON.stringify(request)); });
    const told = [];
    let heard = () => {};
    ws.on('message', (data) => {
        const said = JSON.parse(data);
        if (said.method) { told.push(said); heard(); } else client.receive(said);
    });
    const until = async (count) => {
        while (told.length < count) await new Promise((resolve) => { heard = resolve; });
    };
    ws.on('open', async () => {
        const shown = { subprotocol: ws.protocol };
        shown.add = await client.request('add', { a: 2, b: 3 });
        shown.wrong = await client.request('add', { a: 1, b: 'x' }).catch((error) => [error.code, error.data.errors]);
        shown.missing = await client.request('nope', {}).catch((error) => error.code);
        shown.both = await Promise.all([client.request('add', [1, 1]), client.request('add', [2, 2])]);
        shown.count = await client.request('count', { to: 3 });
        const { subscription } = await client.request('consume', { queue: 'q', topic: 'jobs', credit: 10 });
        client.notify('publish', { topic: 'jobs', data: { n: 1 } });
        await until(4);
        shown.items = told.slice(0, 3).map((said) => said.params.item);
        const { deliveries } = told[3].params;
        shown.delivery = [told[3].method, told[3].params.subscription === subscription, deliveries[0].message.data];
        shown.acked = await client.request('ack', { deliveries: deliveries.map((one) => one.delivery) });
        console.log(JSON.stringify(shown));
        ws.close();
    });
"""


@pytest.mark.needs_node
async def test_json_rpc_2_0_over_ws(serve: Serve, node_clients: Path) -> None:
    hub = await serve(shop())
    node = await asyncio.create_subprocess_exec(
        "node", "-e", NODE, hub.url, cwd=node_clients, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(node.communicate(), 20)
    shown = json.loads(out)
    code, errors = shown.pop("wrong")
    assert (code, [error["path"] for error in errors]) == (-32602, ["$.b"])
    assert shown == {
        "subprotocol": "jsonrpc",
        "add": 5,
        "missing": -32601,
        "both": [2, 4],
        "count": {"items": 3},
        "items": [0, 1, 2],
        "delivery": ["delivery", True, {"n": 1}],
        "acked": {"settled": 1},
    }
    assert hub.core.subscriptions.info(hub.system, "q").pending == 0


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["jsonrpc"], "jsonrpc"),
        (["json-rpc-2.0"], "json-rpc-2.0"),
        (["mqtt", "json-rpc-2.0", "jsonrpc"], "json-rpc-2.0"),
        (["graphql-ws"], None),
    ],
)
async def test_subprotocols(serve: Serve, offered: list[str], chosen: str | None) -> None:
    hub = await serve(shop())
    async with connect(hub.url, subprotocols=offered or None) as client:  # type: ignore[arg-type]
        assert client.subprotocol == chosen
        await client.send('{"jsonrpc":"2.0","method":"add","params":[1,1],"id":1}')
        assert json.loads(await client.recv())["result"] == 2


async def test_in_somebody_elses_server(tmp_path: Path) -> None:
    """The hub is mounted in Starlette and served by uvicorn, with its WebSockets."""
    hub = shop()
    hub.configure(data=str(tmp_path / "data"))
    app = Starlette(routes=[Mount("/hub", hub.asgi())], lifespan=hub.lifespan)
    async with (
        hosted(app, lifespan="on") as host,
        connect(f"{host.ws_url}/hub/ws", subprotocols=["jsonrpc"], max_size=4 << 20) as client,  # type: ignore[list-item]
    ):
        assert client.subprotocol == "jsonrpc"
        await client.send('{"jsonrpc":"2.0","method":"add","params":[1,1],"id":1}')
        assert json.loads(await client.recv())["result"] == 2
        await client.send('{"jsonrpc":"2.0","method":"subscribe","params":{"topic":"t"},"id":2}')
        assert json.loads(await client.recv())["result"]["subscription"] == 1
        large = "x" * 1_000_000
        publish = {"jsonrpc": "2.0", "method": "publish", "params": {"topic": "t", "data": large}}
        await client.send(json.dumps(publish))
        assert json.loads(await client.recv())["params"]["messages"][0]["data"] == large
