"""A call over REST: a small JSON object in, checked against a type, a small JSON object out; 64 connections."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from bench.figures import HUB, Measure, Report
from bench.load import wrk
from bench.processes import hub, serve_asgi
from bench.settings import Run

__all__ = ["run"]

FASTAPI = "FastAPI, one uvicorn worker"
BARE = "bare ASGI"
CONNECTIONS = 64


def run(report: Report, run: Run) -> None:
    wrk.require()
    load = partial(wrk.post, connections=CONNECTIONS, seconds=run.seconds)
    with ExitStack() as servers:
        ours = servers.enter_context(hub("calls.py", run.place("calls")))
        fastapi = servers.enter_context(serve_asgi("fastapi_calls", run.folder / "fastapi.log"))
        bare = servers.enter_context(serve_asgi("bare_asgi", run.folder / "bare.log"))
        cases: dict[str, dict[str, Measure]] = {
            "dataclass": {
                HUB: partial(load, ours, "/operations/check"),
                FASTAPI: partial(load, fastapi, "/check"),
                BARE: partial(load, bare, "/check"),
            },
            "pydantic model": {
                HUB: partial(load, ours, "/operations/check_model"),
                FASTAPI: partial(load, fastapi, "/check_model"),
                BARE: partial(load, bare, "/check"),
            },
            "own path": {
                HUB: partial(load, ours, "/sensors/check"),
                FASTAPI: partial(load, fastapi, "/check"),
            },
        }
        for case, sides in cases.items():
            for measure in sides.values():  # warm
                measure()
            report.alternate("calls", case, sides, run.repeat)
