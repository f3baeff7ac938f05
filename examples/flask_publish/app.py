"""A Flask view that publishes to a hub in another process. Run it: flask run"""

import os

import requests
from flask import Flask, request
from flask.typing import ResponseReturnValue

HUB = os.environ.get("POLYWIRE_URL", "http://127.0.0.1:8000")

app = Flask(__name__)


@app.post("/orders")
def order() -> ResponseReturnValue:
    """Answer once the order is stored in the hub's log."""
    fields = request.get_json()
    answer = requests.post(
        f"{HUB}/topics/orders",
        json=fields,
        headers={"Idempotency-Key": request.headers.get("Idempotency-Key", str(fields.get("number")))},
        timeout=10,
    )
    if answer.status_code == 400:  # the hub names every wrong field
        return {"errors": answer.json()["errors"]}, 400
    answer.raise_for_status()
    return {"id": answer.json()["id"]}, 201
