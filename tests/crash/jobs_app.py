"""What the crash test of jobs runs and kills: each attempt of a job leaves a line in a file before it does anything."""

from __future__ import annotations

import asyncio
import os

from polywire import Call, Hub, Retry, Unavailable

hub = Hub("jobs")
RAN = os.open(os.environ["POLYWIRE_TEST_RAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@hub.operation(retry=Retry(attempts=None, first="20ms", factor=1), concurrency=8)
async def double(number: int, call: Call) -> int:
    """Some at once, some in a while, some only when they are tried again."""
    os.write(RAN, f"{call.job} {os.getpid()}\n".encode())
    call.progress(number)
    await asyncio.sleep(number % 5 * 0.01)
    if number % 7 == 0 and call.attempt == 1:
        raise Unavailable("not yet")
    return 2 * number


@hub.operation
async def charge(cents: int, call: Call) -> str:
    """Called, not submitted: with an idempotency key."""
    os.write(RAN, f"charge-{cents} {os.getpid()}\n".encode())
    return call.id
