"""Consuming by request: a consumer that lives for one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from polywire.core.delivery import Consumer, Delivery
from polywire.core.errors import PolywireError

__all__ = ["Pull"]


class Pull:
    """Takes what is ready, or the first that comes, and nothing after."""

    def __init__(self) -> None:
        self._got: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()
        self.consumer: Consumer | None = None

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        if self.consumer is not None:
            self.consumer.credit = 0
        if self._got.done():
            for delivery in deliveries:
                delivery.release()
        else:
            self._got.set_result(list(deliveries))

    def ended(self, error: PolywireError) -> None:
        if not self._got.done():
            self._got.set_exception(error)

    async def run(self, consumer: Consumer, wait: int) -> list[Delivery]:
        """What ``consumer`` got within ``wait`` ms, leased to it though it leaves. Raises what it was ended with."""
        self.consumer = consumer
        subscription = consumer.subscription
        subscription.join(consumer)
        try:
            if not self._got.done():
                # Even a pull that does not wait gives a read from the disk the time it needs.
                await subscription.fetched()
                await asyncio.wait([self._got], timeout=wait / 1000)
        except asyncio.CancelledError:
            consumer.close()
            raise
        deliveries = self._got.result() if self._got.done() else []
        if deliveries:
            subscription.retire(consumer)
        else:
            consumer.close()
        return deliveries
