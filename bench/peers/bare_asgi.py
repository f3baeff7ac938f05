"""The ceiling of Python on uvicorn: JSON in, checked against a type, JSON out, and nothing stored."""

from __future__ import annotations

from typing import Any

import msgspec


class Reading(msgspec.Struct):
    sensor: str
    celsius: float
    at: str


class Answer(msgspec.Struct):
    ok: bool
    sensor: str
    celsius: float


decode = msgspec.json.Decoder(Reading).decode
encode = msgspec.json.Encoder().encode


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body = b""
    more = True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    reading = decode(body)
    answer = encode(Answer(True, reading.sensor, reading.celsius))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        event = await receive()
        await send({"type": event["type"] + ".complete"})
        if event["type"] == "lifespan.shutdown":
            return
