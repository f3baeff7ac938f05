"""Taking in what the engine holds at start (docs/promises.md).

Pending lists are stored as they stood at some commit; what was appended after that is routed again, from the log, by
the same rules. A chunk says through which sequence number its subscription is routed, which may be further than the
last
checkpoint.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from polywire.core.cursors import CURSOR_STATE, StoredCursor
from polywire.core.dedup import ORIGINAL_STATE, DedupWindow, StoredOriginal
from polywire.core.engine import Engine, StateChange
from polywire.core.message import Flag
from polywire.core.position import Position
from polywire.core.registry import SUBSCRIPTION_STATE
from polywire.core.routing import FOREVER, route
from polywire.core.subscription import StoredSubscription, Subscription
from polywire.core.topics import StoredTopic, Topic

if TYPE_CHECKING:
    from polywire.core.core import Core

__all__ = ["rebuild_dedup", "recover"]

Originals = deque[tuple[str, StoredOriginal]]

_logger = logging.getLogger("polywire.recovery")


def recover(core: Core, engine: Engine) -> Originals:
    """Before the engine is started. What has to change in the store goes into the first commit.

    Returns the delayed publishes that later ones are compared to, by when they were published.
    """
    meta = dict(engine.load("meta"))
    _load_topics(core, engine, _restored_at(meta))
    subscriptions = _load_subscriptions(core, engine)
    for _, value in engine.load(CURSOR_STATE):
        core.cursors.restore(msgspec.msgpack.decode(value, type=StoredCursor))
    core.log.next_seq = max(engine.next_seq(), int(meta.get("routed", b"1")), *_places(subscriptions))
    _route_again(core, engine, subscriptions, int(meta.get("routed", b"1")))
    if "restored" in meta:
        core.log.change(StateChange("meta", "restored", None))
    for subscription in subscriptions:
        subscription.begin()
    return _load_originals(core, engine)


def _restored_at(meta: dict[str, bytes]) -> int | None:
    """When the data folder was restored from a backup, in seconds: above any epoch the lost hub can have given."""
    value = meta.get("restored")
    return int(value) if value is not None else None


def _load_topics(core: Core, engine: Engine, restored: int | None) -> None:
    for name, value in engine.load("epoch"):
        core.catalog.restore_epoch(name, int(value))
    stats = engine.stats()
    for key, value in engine.load("topic"):
        stored = msgspec.msgpack.decode(value, type=StoredTopic)
        epoch = stored.epoch
        if not stored.deleted and (restored is not None or stored.settings.durability == "memory"):
            epoch = max(core.catalog.last_epoch(stored.name) + 1, restored or 0)
            core.catalog.restore_epoch(stored.name, epoch)
            core.log.change(StateChange("epoch", stored.name, str(epoch).encode()))
        topic = core.catalog.restore(int(key), stored, epoch)
        held = stats.get(topic.id)
        topic.next = topic.head = 0 if topic.volatile else max(stored.next, held.next if held else 0)
        topic.oldest = 0 if topic.volatile else stored.oldest
        if held is not None:
            topic.count, topic.size = held.messages, held.size
        if epoch != stored.epoch:
            core.log.change(core.catalog.state(topic))
    if restored is not None:
        for name, _ in engine.load("epoch"):
            epoch = max(core.catalog.last_epoch(name), restored)
            core.catalog.restore_epoch(name, epoch)
            core.log.change(StateChange("epoch", name, str(epoch).encode()))
    tables = {table.name: table for table in core.tables}
    for topic_id, retained in engine.load_retained_keys():
        holder = core.log.by_id.get(topic_id)
        if holder is not None and holder.name in tables:
            tables[holder.name].restore(retained)
        elif holder is not None:
            holder.retained_keys.add(retained)


def _load_subscriptions(core: Core, engine: Engine) -> list[Subscription]:
    by_id: dict[int, Subscription] = {}
    for key, value in engine.load(SUBSCRIPTION_STATE):
        stored = msgspec.msgpack.decode(value, type=StoredSubscription)
        by_id[int(key)] = core.subscriptions.restore(int(key), stored)
    for chunk in engine.load_pending():
        subscription = by_id.get(chunk.subscription)
        if subscription is not None:
            subscription.load(chunk.chunk, chunk.through, chunk.bits, chunk.extras)
    return list(by_id.values())


def _places(subscriptions: Sequence[Subscription]) -> Iterator[int]:
    """Where sources began and ended:

    numbers given to messages of memory topics are not stored, but may not come twice.
    """
    for subscription in subscriptions:
        for binding in subscription.bindings:
            yield binding.start
            if binding.end != FOREVER:
                yield binding.end


def _route_again(core: Core, engine: Engine, subscriptions: Sequence[Subscription], routed: int) -> None:
    for subscription in subscriptions:
        subscription.through = max(subscription.through, routed)
    woken: dict[Subscription, None] = {}
    count = 0
    for batch in engine.scan(routed):
        topic = core.log.by_id.get(batch.topic_id)
        if topic is not None:
            route(topic, batch, woken, again=True)
            count += len(batch)
    core.log.routed = core.log.next_seq
    core.log.unsaved.update(woken)
    if count:
        _logger.info("routed %d messages again after the last checkpoint", count)


def _load_originals(core: Core, engine: Engine) -> Originals:
    since = core.clock.now() - core.limits.dedup_window
    found: list[tuple[str, StoredOriginal]] = []
    for waits_as, value in engine.load(ORIGINAL_STATE):
        stored = msgspec.msgpack.decode(value, type=StoredOriginal)
        topic = core.log.by_id.get(stored.topic_id)
        if topic is None or topic.deleted or stored.seen < since:
            core.log.change(StateChange(ORIGINAL_STATE, waits_as, None))
        else:
            found.append((waits_as, stored))
    return deque(sorted(found, key=lambda one: one[1].seen))


async def rebuild_dedup(core: Core, engine: Engine, delayed: Originals) -> None:
    """The windows of recent idempotency keys, from the log and of ``delayed`` publishes, in the order they came.

    After the engine was started.
    """
    async for batch in engine.dedup_since(core.clock.now() - core.limits.dedup_window):
        while delayed and delayed[0][1].seen <= batch.appended:
            _restore_delayed(core, *delayed.popleft())
        topic = core.log.by_id.get(batch.topic_id)
        if topic is None:
            continue
        window = _window(core, topic)
        for index, record in enumerate(batch.records):
            if record.flags & Flag.DEDUP:
                window.restore(record, topic.name, Position(topic.epoch, 0, batch.offset + index), batch.appended)
    while delayed:
        _restore_delayed(core, *delayed.popleft())
    for topic in core.log.by_id.values():
        if topic.dedup is not None and (outlived := topic.dedup.take_outlived()):
            core.log.change(*outlived)


def _restore_delayed(core: Core, waits_as: str, stored: StoredOriginal) -> None:
    topic = core.log.by_id[stored.topic_id]
    _window(core, topic).restore_delayed(waits_as, stored, topic.name)


def _window(core: Core, topic: Topic) -> DedupWindow:
    if topic.dedup is None:
        topic.dedup = DedupWindow(core.limits.dedup_window, core.limits.dedup_ids)
    return topic.dedup
