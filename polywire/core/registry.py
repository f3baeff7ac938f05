"""The subscriptions there are: made, found, removed; what they take in, and whose they are.

What a wire does in the order of a byte stream cannot wait for the disk in between. So each change has two forms: a
plain method that acts at once, on routing too, and calls ``told`` after the commit; and an ``async`` one that returns
then. Both raise before anything is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from polywire.core.access import Action, Principal
from polywire.core.address import is_pattern
from polywire.core.admission import check_pattern
from polywire.core.bindings import Bindings
from polywire.core.dead_letters import DEAD, RETRY, dead_name, whose
from polywire.core.engine import StateChange
from polywire.core.errors import Conflict, Denied, FieldError, Invalid, LimitExceeded, NotFound, PolywireError
from polywire.core.redrive import DeadLetters
from polywire.core.replay import Fills, start_text
from polywire.core.routing import FOREVER, Binding, Source
from polywire.core.slices import Turn
from polywire.core.streams import Latest, Start
from polywire.core.subscription import (
    Delivery,
    StoredSubscription,
    Subscription,
    SubscriptionInfo,
    SubscriptionSettings,
)

if TYPE_CHECKING:
    from polywire.core.core import Core
    from polywire.core.log import Told

__all__ = ["SUBSCRIPTION_STATE", "Registry"]

SUBSCRIPTION_STATE = "subscription"
_OF_WIRES = ("session", "share")
"""Kinds that a wire makes, keeps and removes for its clients, with sources that come and go."""
_WITHOUT_DEAD_LETTERS = ("dead", "jobs")
_LATEST = Latest()
_USED_LAG = 0.05  # of its time to expiry that what is stored of the last use may be behind


class Registry:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._log = core.log
        self._kinds: dict[str, dict[str, Subscription]] = {}
        self._count = 0
        self._next_id = 1
        self._bindings = Bindings(core)
        self._fills = Fills(core, self._state)
        self._dead_letters = DeadLetters(core, self._dead_letters_of)

    def __iter__(self) -> Iterator[Subscription]:
        return chain.from_iterable([of_kind.values() for of_kind in self._kinds.values()])

    def of_kind(self, kind: str) -> Collection[Subscription]:
        return self._kinds.get(kind, {}).values()

    def holders(self) -> Sequence[Subscription]:
        """Those that have something pending: few, however many there are."""
        found = [s for s in self._log.holding if s.pending.count and not s.deleted]
        self._log.holding = dict.fromkeys(found)
        return found

    # Making

    def make(
        self, principal: Principal, settings: SubscriptionSettings, told: Told | None = None, start: Start = _LATEST
    ) -> Subscription:
        """Make it, or join what is there. Holds what is appended from now on, or from ``start`` on.

        One of kind session or share may begin without sources; made again with other settings it takes these over.
        Raises `Invalid`, `Denied` (also where it belongs to somebody else), `Unauthenticated`, `NotFound` (a source's
        topic on a strict hub), `Conflict` (it exists with other settings), `LimitExceeded`.
        """
        subscription = self.find(settings.name, settings.kind)
        if subscription is None:
            self._check(principal, settings)
            subscription = self._make(settings, principal.name, settings.sources)
            self._begin_fill(subscription, start)
            self._store(subscription, told)
            return subscription
        self._require_owner(principal, subscription)
        if subscription.settings == settings:
            self._log.change(told=told)
        else:
            self._change_settings(subscription, settings)
            self._store(subscription, told)
        return subscription

    async def create(
        self, principal: Principal, settings: SubscriptionSettings, start: Start = _LATEST
    ) -> SubscriptionInfo:
        """As `make`, after the commit."""
        there = self.find(settings.name, settings.kind)
        joins = there is not None and there.settings == settings
        subscription = self.make(principal, settings, start=start)
        if not joins:
            await self._log.committed()
        return self._info(subscription)

    def _check(self, principal: Principal, settings: SubscriptionSettings) -> None:
        _check_name(settings.name)
        if not settings.sources and settings.kind not in _OF_WIRES:
            raise Invalid(
                f"subscription {settings.name!r} has no source", fields=[FieldError("$.sources", "at least one source")]
            )
        if not settings.sources and principal.powerless:
            self._core.access.require(principal, Action.SUBSCRIBE, settings.name)
        if self._count >= self._core.limits.subscriptions:
            raise LimitExceeded(f"the hub has its limit of {self._core.limits.subscriptions} subscriptions")
        if settings.attempts is not None and settings.attempts < 1:
            raise Invalid("attempts must be at least 1", fields=[FieldError("$.attempts", "must be at least 1")])
        if settings.offline_limit is not None and settings.offline_limit < 0:
            raise Invalid("no limit is below 0", fields=[FieldError("$.offline_limit", "must be at least 0")])
        self._require_room(settings.name, len(settings.sources))
        for source in settings.sources:
            self._check_source(principal, source)
        for source in settings.sources:
            self._ensure_topic(source)

    def _check_source(self, principal: Principal, source: Source) -> None:
        if source.keyless and source.key is not None:
            wrong = FieldError("$.sources", "keyless, and a pattern of keys")
            raise Invalid("a source without keys has no pattern of keys", fields=[wrong])
        self._core.access.require(principal, Action.SUBSCRIBE, source.address)
        for pattern in (source.topic, source.key):
            check_pattern(pattern, self._core.limits)

    def _require_room(self, name: str, sources: int) -> None:
        if sources > self._core.limits.sources:
            raise LimitExceeded(
                f"subscription {name!r} has its limit of {self._core.limits.sources} sources",
                hint="those that were taken away just now count for a moment",
                retry_after=1,
            )

    def _ensure_topic(self, source: Source) -> None:
        if not is_pattern(source.topic):
            self._core.catalog.ensure(source.topic)

    def _change_settings(self, subscription: Subscription, settings: SubscriptionSettings) -> None:
        before = subscription.settings
        if settings.kind not in _OF_WIRES or (before.durable, before.sources) != (settings.durable, settings.sources):
            raise Conflict(
                f"subscription {settings.name!r} exists with other settings",
                hint="delete it first, or take another name",
            )
        subscription.settings = settings
        self._let_redrive(subscription)

    def declare(self, settings: SubscriptionSettings, start: Start) -> Subscription:
        """A subscription of the application itself; what changed in its declaration is taken over."""
        _check_name(settings.name)
        existing = self.find(settings.name, settings.kind)
        if existing is None:
            subscription = self._make(settings, self._core.access.system.name, settings.sources)
            self._begin_fill(subscription, start)
        else:
            subscription = existing
            for binding in [
                b for b in existing.bindings if b.source not in settings.sources and b.source.topic != RETRY
            ]:
                self._bindings.end(binding)
            for source in settings.sources:
                self._add_source(existing, source)
            existing.settings = settings
            existing.owner = self._core.access.system.name
            self._let_redrive(existing)
        subscription.declared = True
        self._store(subscription)
        return subscription

    def _make(self, settings: SubscriptionSettings, owner: str, sources: Sequence[Source]) -> Subscription:
        subscription = Subscription(
            self._next_id, settings, owner, self._log, self._write_dead_letter, self._core.clock.now()
        )
        self._next_id += 1
        self._take_in(subscription)
        for source in sources:
            self._bindings.add(subscription, source)
        self._let_redrive(subscription)
        return subscription

    def _let_redrive(self, subscription: Subscription) -> None:
        """Where there may be dead letters, they find their way back."""
        settings = subscription.settings
        if settings.dead_letters and settings.kind not in _WITHOUT_DEAD_LETTERS:
            self._add_source(subscription, Source(RETRY, key=dead_name(settings.kind, settings.name)))

    def _take_in(self, subscription: Subscription) -> None:
        self._kinds.setdefault(subscription.settings.kind, {})[subscription.name] = subscription
        self._count += 1

    def restore(self, id: int, stored: StoredSubscription) -> Subscription:
        """Take in a subscription found at start."""
        subscription = Subscription(
            id, stored.settings, stored.owner, self._log, self._write_dead_letter, stored.created
        )
        subscription.used = subscription.used_stored = stored.used
        subscription.paused = stored.paused
        subscription.filling = stored.filling
        self._next_id = max(self._next_id, id + 1)
        self._take_in(subscription)
        for binding in stored.bindings:
            self._bindings.restore(subscription, binding)
        return subscription

    # Removing

    def drop(self, principal: Principal, name: str, told: Told | None = None, kind: str = "queue") -> None:
        """Its pending messages and dead letters go with it.

        Raises `NotFound`, `Denied`, `Unauthenticated`, `Conflict` for a declared one.
        """
        subscription = self._owned(principal, name, kind)
        if subscription.declared:
            raise Conflict(
                f"subscription {name!r} is declared by the application", hint="take it out of the application first"
            )
        self._drop(subscription, NotFound(f"subscription {name!r} was deleted"))
        dead = self.find(dead_name(kind, name), "dead")
        if dead is not None:
            self._drop(dead, NotFound(f"the dead letters of {name!r} were deleted"))
        self._log.change(told=told)

    async def delete(self, principal: Principal, name: str, kind: str = "queue") -> None:
        """As `drop`, after the commit."""
        self.drop(principal, name, kind=kind)
        await self._log.committed()

    def _drop(self, subscription: Subscription, why: PolywireError) -> None:
        subscription.end(why)
        subscription.deleted = True
        del self._kinds[subscription.settings.kind][subscription.name]
        self._count -= 1
        self._fills.cancel(subscription)
        bindings, subscription.bindings = subscription.bindings, []
        for binding in bindings:
            self._bindings.remove(binding)
        if subscription.settings.durable:
            transaction = self._log.change(StateChange(SUBSCRIPTION_STATE, str(subscription.id), None))
            transaction.dropped_subscriptions.append(subscription.id)

    async def expire(self, now: int) -> None:
        """Remove subscriptions that nobody has used for their time, after saying so."""
        turn = Turn()
        for subscription in list(self):
            limit = self._lasts(subscription)
            if limit is not None and not subscription.deleted:
                self._expire(subscription, now, limit)
            await turn.breathe()

    def _lasts(self, subscription: Subscription) -> int | None:
        """For how long it may be unused; None: for ever."""
        settings = subscription.settings
        if settings.expires is not None:
            return settings.expires or None
        return None if settings.kind in _OF_WIRES else self._core.limits.subscription_expires

    def _expire(self, subscription: Subscription, now: int, limit: int) -> None:
        if subscription.consumers:
            subscription.used = now
        elif subscription.owner != self._core.access.system.name and now - subscription.used > limit:
            self._core.event(
                "subscription.expired",
                subscription=subscription.name,
                kind=subscription.settings.kind,
                pending=subscription.pending.count,
            )
            self._drop(subscription, NotFound(f"subscription {subscription.name!r} expired"))
            return
        if subscription.used - subscription.used_stored > limit * _USED_LAG:
            self._store(subscription)

    # Sources

    def add_source(
        self, principal: Principal, name: str, source: Source, told: Told | None = None, kind: str = "queue"
    ) -> None:
        """Take in what is appended from now on. One that it has already is left as it is.

        Raises as `make` does for a source, and `NotFound`, `Denied` for the subscription.
        """
        subscription = self._owned(principal, name, kind)
        self._check_source(principal, source)
        self._require_room(name, len(subscription.bindings) + 1)
        self._ensure_topic(source)
        self._add_source(subscription, source)
        self._store(subscription, told)

    async def bind(self, principal: Principal, name: str, source: Source, kind: str = "queue") -> None:
        """As `add_source`, after the commit."""
        self.add_source(principal, name, source, kind=kind)
        await self._log.committed()

    def _add_source(self, subscription: Subscription, source: Source) -> None:
        same = [binding for binding in subscription.bindings if binding.source == source]
        if not any(binding.end == FOREVER or self._bindings.go_on(binding) for binding in same):
            self._bindings.add(subscription, source)

    def end_source(
        self, principal: Principal, name: str, source: Source, told: Told | None = None, kind: str = "queue"
    ) -> None:
        """Take in nothing more by it; what was appended before is still held. Raises `NotFound`, `Denied`."""
        subscription = self._owned(principal, name, kind)
        for binding in [b for b in subscription.bindings if b.source == source]:
            self._bindings.end(binding)
        self._store(subscription, told)

    async def unbind(self, principal: Principal, name: str, source: Source, kind: str = "queue") -> None:
        """As `end_source`, after the commit."""
        self.end_source(principal, name, source, kind=kind)
        await self._log.committed()

    def close_bindings(self, routed: int) -> None:
        """Take away removed sources; called after a checkpoint, which stored that all below ``routed`` is routed."""
        for subscription in self._bindings.close(routed):
            self._store(subscription)

    def topic_made(self, name: str) -> Sequence[Binding]:
        """Sources that take in this new topic."""
        return self._bindings.taking(name)

    # Replay

    def _begin_fill(self, subscription: Subscription, start: Start) -> None:
        if isinstance(start, Latest):
            self._fills.cancel(subscription)
        else:
            self._fills.begin(subscription, start_text(start))

    def resume_fills(self) -> None:
        for subscription in self:
            if subscription.filling is not None and not self._fills.running(subscription):
                self._fills.begin(subscription, subscription.filling)

    async def filled(self) -> None:
        """Wait until every replay has ended."""
        for subscription in list(self):
            await self._fills.ended(subscription)

    def stop_fills(self) -> None:
        self._fills.stop()
        self._dead_letters.stop()

    # Dead letters

    def _write_dead_letter(self, delivery: Delivery, reason: str) -> None:
        self._dead_letters.write(delivery, reason)

    def _dead_letters_of(self, name: str) -> Subscription:
        existing = self.find(name, "dead")
        if existing is not None:
            return existing
        settings = SubscriptionSettings(name=name, sources=[Source(DEAD, key=name)], kind="dead", dead_letters=False)
        self._core.catalog.ensure(DEAD, internal=True)
        subscription = self._make(settings, self._core.access.system.name, settings.sources)
        self._store(subscription)
        return subscription

    def dead_count(self, name: str, kind: str = "queue") -> int:
        dead = self.find(dead_name(kind, name), "dead")
        return dead.pending.count if dead is not None else 0

    # Finding, and whose it is

    def find(self, name: str, kind: str = "queue") -> Subscription | None:
        return self._kinds.get(kind, {}).get(name)

    def _owned(self, principal: Principal, name: str, kind: str) -> Subscription:
        """The subscription, if it is the principal's own or it may manage that name. Raises `NotFound`, `Denied`.

        Of kind dead it is that of somebody's dead letters, by its `dead_name`.
        """
        if kind == "dead":
            kind_of_owner, name_of_owner = whose(name)
            owner = self.find(name_of_owner, kind_of_owner)
            if owner is not None:
                self._require_owner(principal, owner)
                return self._dead_letters_of(name)
        subscription = self.find(name, kind)
        if subscription is None:
            raise NotFound(f"no subscription {name[:250]!r}", hint="polywire subscriptions lists them")
        self._require_owner(principal, subscription)
        return subscription

    def _require_owner(self, principal: Principal, subscription: Subscription) -> None:
        if not self._may(principal, subscription):
            if principal.kind == "anonymous":
                self._core.access.require(principal, Action.MANAGE, subscription.name)
            raise Denied(
                f"{principal.name!r} may not use subscription {subscription.name!r} of {subscription.owner!r}",
                hint=f"grant it manage:{subscription.name}",
            )

    def _may(self, principal: Principal, subscription: Subscription) -> bool:
        if self._core.access.allows(principal, Action.MANAGE, subscription.name):
            return True
        own = principal.active and principal.name == subscription.owner
        if own and principal.kind == "anonymous":
            own = subscription.settings.kind in _OF_WIRES and self._may_subscribe(principal, subscription)
        return own

    def _may_subscribe(self, principal: Principal, subscription: Subscription) -> bool:
        """Nobody is anonymous: what one of them queued, another may have if it could subscribe to it as well."""
        sources = (binding.source for binding in subscription.bindings if binding.source.topic != RETRY)
        return all(self._core.access.allows(principal, Action.SUBSCRIBE, source.address) for source in sources)

    # Storing

    def _store(self, subscription: Subscription, told: Told | None = None) -> None:
        """In the open transaction, as it stands when that goes: of many changes one is written."""
        if subscription.settings.durable:
            self._log.change_once(subscription, partial(self._state, subscription), told)
        else:
            self._log.change(told=told)

    def _state(self, subscription: Subscription) -> StateChange:
        subscription.used_stored = subscription.used
        value = msgspec.msgpack.encode(subscription.to_store()) if subscription.stored else None
        return StateChange(SUBSCRIPTION_STATE, str(subscription.id), value)

    def state(self, subscription: Subscription) -> StateChange:
        return self._state(subscription)

    def _info(self, subscription: Subscription) -> SubscriptionInfo:
        kind = subscription.settings.kind
        return subscription.info(self.dead_count(subscription.name, kind) if kind != "dead" else 0)


def _check_name(name: str) -> None:
    if not name or len(name) > 250 or not name.isprintable() or is_pattern(name):
        raise Invalid(
            "a subscription's name has 1 to 250 printable characters and no wildcard",
            fields=[FieldError("$.name", "not a name")],
        )
