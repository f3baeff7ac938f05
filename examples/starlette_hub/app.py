"""A Starlette application with a hub on /hub. Run it: uvicorn app:app --timeout-graceful-shutdown 10"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from polywire import Hub

hub = Hub("greenhouse")


@dataclass
class Reading:
    sensor: str
    celsius: float


readings = hub.topic("readings", Reading, key="sensor", latest=True)


async def measure(request: Request) -> JSONResponse:
    """Starlette's own route: it answers once the reading is stored, and whoever follows the topic hears of it."""
    celsius = float(request.query_params["celsius"])
    receipt = await readings.publish(Reading(request.path_params["sensor"], celsius))
    return JSONResponse({"position": str(receipt.position)}, status_code=201)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """One of the application's own, with the hub inside."""
    async with hub.lifespan(app):
        yield


app = Starlette(
    routes=[Route("/measurements/{sensor}", measure, methods=["POST"]), Mount("/hub", hub.asgi())],
    lifespan=lifespan,
)
