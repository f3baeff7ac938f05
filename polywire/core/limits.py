"""Every bound of the core, with its default (semantics §11). Sizes are bytes, times milliseconds."""

from __future__ import annotations

import msgspec

__all__ = ["Limits"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message_size: int = MIB
    headers_size: int = 64 * KIB
    key_size: int = 1024
    batch_messages: int = 10_000
    batch_size: int = 16 * MIB
    topics_on_use: int = 1_000
    subscriptions: int = 100_000
    retained_keys: int = 1_000_000
    retention: int = DAY
    retention_size: int = GIB
    topic_size: int = 10 * GIB
    memory_topic_size: int = 64 * MIB
    hub_size: int = 10 * GIB
    disk_fraction: float = 0.8
    tail_size: int = 64 * MIB
    uncommitted_size: int = 32 * MIB
    credit: int = 256
    delayed: int = 1_000_000
    delay: int = 365 * DAY
    dedup_window: int = 2 * MINUTE
    dedup_ids: int = 100_000
    lease: int = 30 * SECOND
    subscription_expires: int = 30 * DAY
    dead_letter_retention: int = 30 * DAY
    checkpoint_interval: int = SECOND
    maintenance_interval: int = 5 * SECOND
    dispatch_batch: int = 256
    out_buffer: int = MIB
    drain: int = 10 * SECOND
