"""The retained messages of a memory topic, which no table holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from polywire.core.message import Message, Record
from polywire.core.sorted_keys import SortedKeys

__all__ = ["Kept", "alive"]

_OVERHEAD = 400  # bytes a message costs in memory beside its own, about
_LOOK = 1_000  # keys that one page looks at: about a millisecond
_PAUSE = 1_000  # ms between looks for what has expired


class Kept:
    """By stored key. ``size``: the bytes that all of them take in memory, about."""

    def __init__(self) -> None:
        self.size = 0
        self._by_key: dict[bytes, Message] = {}
        self._keys = SortedKeys()
        self._looked = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> Message | None:
        return self._by_key.get(key)

    def __setitem__(self, key: bytes, message: Message) -> None:
        replaced = self._by_key.get(key)
        if replaced is None:
            self._keys.add(key)
        else:
            self.size -= _cost(replaced.record)
        self._by_key[key] = message
        self.size += _cost(message.record)

    def pop(self, key: bytes, default: None = None) -> Message | None:
        message = self._by_key.pop(key, default)
        if message is not None:
            self._keys.discard(key)
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
        return self.range(b"" if after is None else after + b"\0", None, None, limit, size, now)

    def range(
        self,
        first: bytes,
        before: bytes | None,
        wanted: Callable[[bytes], object] | None,
        limit: int,
        size: int,
        now: int,
    ) -> tuple[list[Message], bytes | None]:
        """See `polywire.core.engine.Engine.retained_range`. What has expired is left out."""
        found: list[Message] = []
        last = first
        for looked, key in enumerate(self._keys.from_(first)):
            if before is not None and key >= before:
                break
            if len(found) >= limit or size <= 0 or looked == _LOOK:
                return found, last
            last = key
            message = self._by_key[key]
            if (wanted is None or wanted(key)) and alive(message.record, now):
                found.append(message)
                size -= message.record.size()
        return found, None


def alive(record: Record, now: int) -> bool:
    return record.expires is None or record.expires > now


def _cost(record: Record) -> int:
    texts = (record.id, record.content_type, record.reply_to, record.correlation_id, record.native)
    return record.size() + sum(len(text) for text in texts if text) + _OVERHEAD
