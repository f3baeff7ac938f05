"""The retained messages of a memory topic, which no table holds."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from polywire.core.message import Message, Record

__all__ = ["Kept", "alive"]

_OVERHEAD = 400  # bytes a message costs in memory beside its own, about
_PAUSE = 1_000  # ms between looks for what has expired


class Kept:
    """By stored key. ``size``: the bytes that all of them take in memory, about."""

    def __init__(self) -> None:
        self.size = 0
        self._by_key: dict[bytes, Message] = {}
        self._looked = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> Message | None:
        return self._by_key.get(key)

    def __setitem__(self, key: bytes, message: Message) -> None:
        self.pop(key)
        self._by_key[key] = message
        self.size += _cost(message.record)

    def pop(self, key: bytes, default: None = None) -> Message | None:
        message = self._by_key.pop(key, default)
        if message is not None:
            self.size -= _cost(message.record)
        return message

    def growth(self, last: Mapping[bytes, Record]) -> int:
        """By how many bytes ``size`` grows when these take the place of what is there; an empty one removes it."""
        replaced = [message for key in last if (message := self._by_key.get(key)) is not None]
        new = sum(_cost(record) for record in last.values() if record.payload)
        return new - sum(_cost(message.record) for message in replaced)

    def expire(self, now: int) -> set[bytes]:
        """Drop what has expired, and say which keys these were. Looks once a second at most: it looks at every one."""
        if 0 <= now - self._looked < _PAUSE:
            return set()
        self._looked = now
        expired = {key for key, message in self._by_key.items() if not alive(message.record, now)}
        for key in expired:
            self.pop(key)
        return expired

    def page(self, after: bytes | None, limit: int, size: int, now: int) -> tuple[list[Message], bytes | None]:
        """See `polywire.core.pages.retained_page`."""
        behind = (key for key in self._by_key if after is None or key > after)
        keys = heapq.nsmallest(limit + 1, (key for key in behind if alive(self._by_key[key].record, now)))
        messages: list[Message] = []
        for key in keys:
            if len(messages) == limit or size <= 0:
                return messages, after
            message = self._by_key[key]
            messages.append(message)
            size -= message.record.size()
            after = key
        return messages, None


def alive(record: Record, now: int) -> bool:
    return record.expires is None or record.expires > now


def _cost(record: Record) -> int:
    texts = (record.id, record.content_type, record.reply_to, record.correlation_id, record.native)
    return record.size() + sum(len(text) for text in texts if text) + _OVERHEAD
