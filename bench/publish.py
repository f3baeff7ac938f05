"""Durable publish over REST: one small typed message a request, 64 connections."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from bench.figures import HUB, Measure, Missing, Report
from bench.load import wrk
from bench.processes import hub, serve_asgi
from bench.rabbitmq import broker
from bench.settings import Run

__all__ = ["run"]

GLUE = "FastAPI + aio-pika + RabbitMQ"
BARE = "bare ASGI, nothing stored"
CONNECTIONS = 64


def run(report: Report, run: Run) -> None:
    wrk.require()
    load = partial(wrk.post, connections=CONNECTIONS, seconds=run.seconds)
    with ExitStack() as servers:
        ours = servers.enter_context(hub("measured.py", run.place("publish")))
        sides: dict[str, Measure] = {HUB: partial(load, ours, "/topics/readings")}
        try:
            sides[GLUE] = _glue(servers, load, run)
        except Missing as why:
            report.omit(f"publish · {GLUE}", why)
        bare = servers.enter_context(serve_asgi("bare_asgi", run.folder / "bare.log"))
        sides[BARE] = partial(load, bare, "/readings")
        for measure in sides.values():  # warm
            measure()
        report.alternate("publish", f"{CONNECTIONS} connections", sides, run.repeat)


def _glue(servers: ExitStack, load: partial[dict[str, float]], run: Run) -> Measure:
    """The broker's CPU time counts as the server's, as the hub's log does."""
    queue = servers.enter_context(broker(run.place("rabbitmq")))
    url = f"amqp://guest:guest@127.0.0.1:{queue.port}/"
    app = servers.enter_context(serve_asgi("glue", run.folder / "glue.log", {"AMQP_URL": url}))
    return partial(load, app, "/readings", accounts=queue.pids)
