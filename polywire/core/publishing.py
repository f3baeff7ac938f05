"""Publishing: what may refuse a publish, idempotency, delay, and results that settle deliveries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from polywire.core.access import Access, Action, Principal
from polywire.core.address import is_reserved, key_text
from polywire.core.admission import check_record
from polywire.core.catalog import ON_USE_RESERVED, Catalog
from polywire.core.dedup import DedupWindow, Original
from polywire.core.errors import Conflict, FieldError, Invalid, LimitExceeded, PolywireError, TooLarge
from polywire.core.limits import Limits
from polywire.core.log import Log, Told, stored_key
from polywire.core.message import Flag, Origin, Receipt, Record, new_id
from polywire.core.position import Position
from polywire.core.topics import Topic

if TYPE_CHECKING:
    from polywire.core.delays import Delays
    from polywire.core.delivery import Delivery

__all__ = ["Publishing", "check_retained"]

Store = Callable[[Topic, Sequence[Record], int, Told], list[Receipt]]
_WRONG = 100  # records of a refused batch that the error names
_ORIGINS = 1_000


class Publishing:
    """The only way into the log for what clients and the application publish."""

    def __init__(self, log: Log, catalog: Catalog, access: Access, delays: Delays) -> None:
        self._log = log
        self._catalog = catalog
        self._access = access
        self._delays = delays
        self._limits = log.limits
        self._clock = log.clock
        self._origins: dict[str, Origin] = {}

    def publish(
        self, principal: Principal, name: str, records: list[Record], due: int | None, told: Told
    ) -> list[Receipt]:
        """See `Core.publish`; ``told`` hears of the commit. Receipts are good once it has."""
        topic, size = self._prepare(principal, name, records)
        store: Store = self._append
        if due is not None and due > self._clock.now():
            store = partial(self._delay, due)
        for record in records:
            if record.flags & Flag.DEDUP:
                return self._publish_once(topic, records, told, store)
        return store(topic, records, size, told)

    def send(self, principal: Principal, name: str, records: list[Record], told: Told) -> None:
        """As `publish`, for who needs no receipts: in large batches they cost a third of it."""
        topic, size = self._prepare(principal, name, records)
        for record in records:
            if record.flags & Flag.DEDUP:
                self._publish_once(topic, records, told, self._append)
                return
        self._log.append(topic, records, size, told)

    def settling(
        self, principal: Principal, deliveries: Sequence[Delivery], results: Sequence[tuple[str, list[Record]]]
    ) -> None:
        """Acknowledge deliveries and publish what came of them, in one commit. Raises what `publish` raises, with
        nothing done.

        If the commit fails, the deliveries are pending again and come again.
        """
        prepared = [(*self._prepare(principal, topic, records), records) for topic, records in results]

        def told(error: PolywireError | None) -> None:
            if error is not None:
                for delivery in settled:
                    delivery.subscription.undo(delivery)

        settled = [delivery for delivery in deliveries if delivery.ack()]
        if not settled:  # all went back to their subscription meanwhile: what came of them comes of another attempt
            return
        durable = 0
        for topic, size, records in prepared:
            durable += not topic.volatile
            undo = told if durable == 1 and not topic.volatile else None
            self._log.append(topic, records, size, undo)

    def internal(self, topic: str, records: Sequence[Record], told: Told | None, *, refusable: bool = False) -> None:
        """The hub's own messages: dead letters, events, redriven ones.

        Raises `Unavailable`, `LimitExceeded` for ``refusable`` ones, where the log has no room.
        """
        place = self._catalog.ensure(topic, internal=True)
        size = sum(record.size() for record in records)
        if refusable:
            self._log.admit(place, size)
        for record in records:
            record.id = record.id or new_id()
        self._log.append(place, records, size, told)

    def _prepare(self, principal: Principal, name: str, records: list[Record]) -> tuple[Topic, int]:
        """Everything that can refuse a publish, before anything is done. Returns the topic and the records' size."""
        limits = self._limits
        if not records:
            raise Invalid("nothing to publish")
        if len(records) > limits.batch_messages:
            raise TooLarge(f"a batch has at most {limits.batch_messages} messages, not {len(records)}")
        if not principal.everything:
            for record in records:
                address = name if record.key is None else f"{name}.{key_text(record.key)}"
                self._access.require(principal, Action.PUBLISH, address)
        topic = self._catalog.get(name) or self._catalog.ensure(name)
        if name in ON_USE_RESERVED or not is_reserved(name):
            size = self._admit(topic, records, self._origin(principal))
        else:
            raise Invalid(f"nobody may publish to {name!r}: the name is reserved")
        if size > limits.batch_size:
            raise TooLarge(f"a batch has at most {limits.batch_size} bytes, not {size}")
        check_retained(topic, records, self._limits, self._clock.now())
        self._log.admit(topic, size)
        return topic, size

    def _admit(self, topic: Topic, records: list[Record], origin: Origin) -> int:
        """Check and complete every record; returns their size."""
        size = 0
        admit = topic.admit
        wrong: list[tuple[int, PolywireError]] = []
        for index, record in enumerate(records):
            try:
                check_record(record, self._limits)
                if topic.settings.latest:
                    record.flags |= Flag.RETAINED
                if record.expires is not None:
                    self._log.expiring = True
                if admit is not None:
                    admit(record)
            except (Invalid, TooLarge) as error:
                if len(records) == 1:
                    raise
                wrong.append((index, error))
                continue
            if record.origin is None:
                record.origin = origin
            if not record.id:
                record.id = new_id()
            size += record.size()
        if wrong:
            raise _in_batch(wrong)
        return size

    def _origin(self, principal: Principal) -> Origin:
        origin = self._origins.get(principal.name)
        if origin is None:
            if len(self._origins) >= _ORIGINS:
                self._origins.clear()
            origin = self._origins[principal.name] = Origin(principal.name)
        return origin

    def _append(self, topic: Topic, records: Sequence[Record], size: int, told: Told) -> list[Receipt]:
        now = self._clock.now()
        _, offset = self._log.append(topic, records, size, told)
        epoch = topic.epoch
        return [
            Receipt(record.id, topic.name, record.key, Position(epoch, 0, offset + index), now)
            for index, record in enumerate(records)
        ]

    def _delay(self, due: int, topic: Topic, records: Sequence[Record], _size: int, told: Told) -> list[Receipt]:
        ids = self._delays.add(topic, records, due, told)
        return [Receipt(name, topic.name, record.key, None, due) for name, record in zip(ids, records, strict=True)]

    def _publish_once(self, topic: Topic, records: Sequence[Record], told: Told, store: Store) -> list[Receipt]:
        """Leave out what was published before; its receipt is the original's."""
        window = topic.dedup
        if window is None:
            window = topic.dedup = DedupWindow(self._limits.dedup_window, self._limits.dedup_ids)
        now = self._clock.now()
        originals = _originals(window, records, now)
        fresh = [record for record, original in zip(records, originals, strict=True) if original is None]
        remembered: list[tuple[str, str, Original]] = []
        waits = len({id(o) for o in originals if isinstance(o, Original)}) + (1 if fresh else 0)

        def one_done(error: PolywireError | None) -> None:
            nonlocal waits
            waits -= 1
            if error is not None and waits >= 0:
                waits = -1
                told(error)
            elif waits == 0:
                told(None)

        def fresh_done(error: PolywireError | None) -> None:
            for owner, name, original in remembered:
                window.settle(owner, name, original, error)
            one_done(error)

        receipts = iter(store(topic, fresh, sum(r.size() for r in fresh), fresh_done) if fresh else [])
        answers: list[Receipt] = []
        for record, original in zip(records, originals, strict=True):
            if original is None:
                receipt = next(receipts)
                answers.append(receipt)
                if record.flags & Flag.DEDUP:
                    remembered.append(self._remember(topic, window, record, receipt, now))
            else:
                first = original.receipt if isinstance(original, Original) else answers[original]
                answers.append(msgspec.structs.replace(first, duplicate=True))
        for original in {id(o): o for o in originals if isinstance(o, Original)}.values():
            original.when_committed(one_done)
        return answers

    def _remember(
        self, topic: Topic, window: DedupWindow, record: Record, receipt: Receipt, now: int
    ) -> tuple[str, str, Original]:
        owner = _principal_of(record)
        original = window.remember(owner, record, receipt, now)
        changes = window.take_outlived()
        if receipt.position is None:
            changes.append(window.stored(topic.id, owner, record.id, original))
        if changes:
            self._log.change(*changes)
        return owner, record.id, original


def check_retained(topic: Topic, records: Sequence[Record], limits: Limits, now: int) -> None:
    """Whether what these would have the topic retain has room. Raises `LimitExceeded`."""
    last = {stored_key(record.key): record for record in records if record.flags & Flag.RETAINED}
    if not last:
        return
    full = _why_full(topic, last, limits)
    if full and topic.volatile:
        topic.retained_keys -= topic.kept.expire(now)
        full = _why_full(topic, last, limits)
    if full:
        raise LimitExceeded(full, hint="an empty retained message forgets the one of its key")


def _why_full(topic: Topic, last: Mapping[bytes, Record], limits: Limits) -> str | None:
    new = {key for key, record in last.items() if record.payload and key not in topic.retained_keys}
    if new and len(topic.retained_keys) + len(new) > limits.retained_keys:
        return f"topic {topic.name!r} keeps its limit of {limits.retained_keys} retained keys"
    if topic.volatile:
        growth = topic.kept.growth(last)
        if growth > 0 and topic.kept.size + growth > topic.hard_limit:
            return f"topic {topic.name!r} retains its limit of {topic.hard_limit} bytes"
    return None


def _principal_of(record: Record) -> str:
    return record.origin.principal if record.origin is not None else ""


def _in_batch(wrong: Sequence[tuple[int, PolywireError]]) -> PolywireError:
    """The first error, saying which records of the batch are wrong, and how."""
    fields: list[FieldError] = []
    for index, error in wrong[:_WRONG]:
        fields += [FieldError(f"$[{index}]{field.path.removeprefix('$')}", field.message) for field in error.fields]
        if not error.fields:
            fields.append(FieldError(f"$[{index}]", error.detail))
    index, first = wrong[0]
    others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return type(first)(
        f"message {index} of the batch: {first.detail}{others}", hint=first.hint, fields=fields, extra=first.extra
    )


def _originals(window: DedupWindow, records: Sequence[Record], now: int) -> list[Original | int | None]:
    """For each record its original: one published before, or the index of one in the same batch. Raises `Conflict`."""
    earlier: dict[tuple[str, str], int] = {}
    found: list[Original | int | None] = []
    for index, record in enumerate(records):
        original: Original | int | None = None
        if record.flags & Flag.DEDUP:
            try:
                first = earlier.setdefault((_principal_of(record), record.id), index)
                if first != index:
                    window.compare(record, records[first])
                    original = first if found[first] is None else found[first]
                else:
                    original = window.find(_principal_of(record), record, now)
            except Conflict as error:
                raise _in_batch([(index, error)]) if len(records) > 1 else error from None
        found.append(original)
    return found
