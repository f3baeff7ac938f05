"""What people write in place of a hub: REST in, a durable RabbitMQ queue out, the confirm awaited before the answer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from fastapi import FastAPI
from pydantic import BaseModel


class Reading(BaseModel):
    sensor: str
    celsius: float
    at: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    app.state.channel = await connection.channel(publisher_confirms=True)
    await app.state.channel.declare_queue("readings", durable=True)
    yield
    await connection.close()


app = FastAPI(lifespan=lifespan)


@app.post("/readings", status_code=202)
async def post(reading: Reading) -> dict[str, bool]:
    message = aio_pika.Message(
        reading.model_dump_json().encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    await app.state.channel.default_exchange.publish(message, routing_key="readings")
    return {"accepted": True}
