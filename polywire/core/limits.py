"""Every bound of the core, with its default (docs/promises.md, "Limits"). Sizes are bytes, times milliseconds."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from polywire.core.units import count, milliseconds, size

__all__ = ["Limits"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message_size: Annotated[int, size("of a message's payload")] = MIB
    headers_size: Annotated[int, size("of a message's headers, names and values")] = 64 * KIB
    key_size: Annotated[int, size("of a message's key; a pattern of keys has no more characters")] = 1024
    batch_messages: Annotated[int, count("messages published at once")] = 10_000
    batch_size: Annotated[int, size("of messages published at once")] = 16 * MIB
    topics: Annotated[int, count("topics, declared or made")] = 10_000
    api_keys: Annotated[int, count("API keys")] = 10_000
    topics_on_use: Annotated[int, count("topics that nobody declared, made as clients name them")] = 1_000
    subscriptions: Annotated[int, count("subscriptions of the hub")] = 100_000
    sources: Annotated[int, count("sources of a subscription")] = 10_000
    retained_keys: Annotated[int, count("keys whose last message a topic retains")] = 1_000_000
    retention: Annotated[
        int, milliseconds("how long a topic's messages can be replayed, unless it declares another time")
    ] = DAY
    retention_size: Annotated[int, size("how much of a topic can be replayed, unless it declares another size")] = GIB
    topic_size: Annotated[int, size("of a topic in all, with what queues still hold")] = 10 * GIB
    memory_topic_size: Annotated[int, size("the same of a topic with durability memory")] = 64 * MIB
    hub_size: Annotated[int, size("of the whole log; above it publishing is refused")] = 10 * GIB
    disk_fraction: Annotated[
        float, Meta(ge=0, le=1, description="of the disk's room that the log may take; above it publishing is refused")
    ] = 0.8
    tail_size: Annotated[int, size("messages of all topics kept in memory for live readers")] = 64 * MIB
    uncommitted_size: Annotated[
        int, size("what waits for the log before publishers are held; at four times as much they are refused")
    ] = 32 * MIB
    credit: Annotated[int, count("deliveries a consumer may have unsettled")] = 256
    credit_size: Annotated[int, size("of deliveries a consumer may have unsettled, and one more")] = 16 * MIB
    parked: Annotated[int, count("messages of busy keys that an ordered subscription looks past, before it waits")] = (
        10_000
    )
    delayed: Annotated[int, count("messages that wait for their time")] = 1_000_000
    delay: Annotated[int, milliseconds("the longest delay of a message")] = 365 * DAY
    dedup_window: Annotated[int, milliseconds("how long an idempotency key is remembered")] = 2 * MINUTE
    dedup_ids: Annotated[int, count("idempotency keys a topic remembers")] = 100_000
    lease: Annotated[
        int, milliseconds("how long a pulled delivery is the puller's, unless it asks for another time")
    ] = 30 * SECOND
    subscription_expires: Annotated[
        int, milliseconds("a durable subscription nobody uses for this long is removed")
    ] = 30 * DAY
    dead_letter_retention: Annotated[int, milliseconds("how long dead letters are kept")] = 30 * DAY
    dead_letter_rate: Annotated[
        int, count("dead letters a second of what no topic took and no protocol could refuse; more is dropped")
    ] = 1_000
    checkpoint_interval: Annotated[int, milliseconds("how often the state of subscriptions is stored")] = SECOND
    maintenance_interval: Annotated[int, milliseconds("how often retention, expiry and sizes are looked at")] = (
        5 * SECOND
    )
    dispatch_batch: Annotated[int, count("deliveries handed to a consumer at once")] = 256
    calls: Annotated[int, count("calls of operations that run at the same time")] = 10_000
    call_timeout: Annotated[
        int, milliseconds("how long a call may take, unless its operation declares another time")
    ] = MINUTE
    jobs: Annotated[
        int, count("jobs kept, waiting, running or ended; above it those that ended first are forgotten")
    ] = 1_000_000
    job_retention: Annotated[int, milliseconds("how long a job is kept after its end, with its result")] = DAY
    job_timeout: Annotated[
        int, milliseconds("how long an attempt of a job may take, unless its operation declares another time")
    ] = DAY
    progress_size: Annotated[int, size("of what a job reports as its progress")] = 64 * KIB
    replies: Annotated[
        int, count("replies to calls with an idempotency key that are kept; above it the oldest are forgotten")
    ] = 1_000_000
    reply_retention: Annotated[int, milliseconds("how long such a reply is kept, and its key remembered")] = DAY
    drain: Annotated[int, milliseconds("how long a stopping hub lets work finish")] = 10 * SECOND
