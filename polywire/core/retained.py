"""Retained messages for who has just subscribed: all whose address a pattern means, page by page.

What is retained is read from the disk while messages are published. So that nobody is given an old value after a newer
one, two things are done:

- What was appended since the subscription began (``since``) is left out: it comes, or came, as it is published.
- A page is told of what is published under its addresses for as long as somebody holds it. `RetainedPage.stands` is
  asked right before a message is sent; going through a page asks it for each.

A message published without the flag takes the place of none: the retained one still stands, and
`RetainedPage.overtaken` says that something newer of that address was published to the subscriber.
"""

from __future__ import annotations

import re
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from polywire.core.address import OTHER, is_own
from polywire.core.errors import PolywireError
from polywire.core.kept import alive
from polywire.core.log import stored_key
from polywire.core.message import Batch, Flag, Message
from polywire.core.patterns import ANY_PLAIN, ANY_REST, ANY_WORD, Pattern, lives_in_other
from polywire.core.position import Position
from polywire.core.slices import Turn

if TYPE_CHECKING:
    from polywire.core.access import Principal
    from polywire.core.core import Core
    from polywire.core.topics import Topic

__all__ = ["PublishedKeys", "RetainedPage", "RetainedScan"]

Place = tuple[str, bytes]
"""A topic's name and a stored key."""
_REMEMBERED = 65_536  # addresses that something was published under, while somebody reads


class RetainedPage:
    """Some retained messages, each of another address. Going through it leaves out those that no longer stand."""

    def __init__(self, messages: Sequence[Message], core: Core) -> None:
        self._messages = list(messages)
        self._core = core
        self._replaced: set[Place] = set()
        self._overtaken: set[Place] = set()

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return (message for message in self._messages if self.stands(message))

    @property
    def places(self) -> list[Place]:
        return [_place(message) for message in self._messages]

    def stands(self, message: Message) -> bool:
        """Whether it is still what its address retains. If not, what took its place was or will be published."""
        return _place(message) not in self._replaced and alive(message.record, self._core.clock.now())

    def overtaken(self, message: Message) -> bool:
        """Whether a newer message of its address, one that was not to be retained, was published since."""
        return _place(message) in self._overtaken

    def tell(self, place: Place, *, flagged: bool) -> None:
        """Something was published there."""
        (self._replaced if flagged else self._overtaken).add(place)


class PublishedKeys:
    """What is published while somebody reads what is retained: told to the pages that are held, and remembered for
    those that are still being read. While nobody reads this costs nothing."""

    def __init__(self, core: Core) -> None:
        self._log = core.log
        self._scans = 0
        self._pages: dict[Place, list[weakref.ref[RetainedPage]]] = {}
        self._recent: OrderedDict[Place, tuple[int, int]] = OrderedDict()  # seq of the last, and the last with the flag
        self.forgotten = 0
        """What was published with a seq up to this may no longer be remembered."""

    def enter(self, scan: RetainedScan) -> Callable[[], object]:
        """For as long as the scan is there, or until what is returned is called."""
        self._scans += 1
        self._log.tell_published = self._published
        left = weakref.finalize(scan, self._leave)
        left.atexit = False
        return left

    def _leave(self) -> None:
        self._scans -= 1
        if not self._scans:
            self._recent.clear()
        self._rest()

    def _rest(self) -> None:
        if not self._scans and not self._pages:
            self._log.tell_published = None

    def watch(self, page: RetainedPage, messages: Sequence[Message], since: int) -> None:
        """Tell the page what was published under its addresses since, and what will be."""
        places = page.places
        watching = weakref.ref(page)
        weakref.finalize(page, self._unwatch, places, watching).atexit = False
        for message, place in zip(messages, places, strict=True):
            self._pages.setdefault(place, []).append(watching)
            last, flagged = self._recent.get(place, (0, 0))
            if flagged > message.seq:
                page.tell(place, flagged=True)
            if last >= since:
                page.tell(place, flagged=False)

    def _unwatch(self, places: Sequence[Place], watching: weakref.ref[RetainedPage]) -> None:
        for place in places:
            pages = self._pages[place]
            pages.remove(watching)
            if not pages:
                del self._pages[place]
        self._rest()

    def _published(self, topic: Topic, batch: Batch) -> None:
        for seq, record in enumerate(batch.records, batch.seq):
            key = stored_key(record.key)
            flagged = bool(record.flags & Flag.RETAINED)
            if flagged or key in topic.retained_keys:
                self._note((topic.name, key), seq, flagged)

    def _note(self, place: Place, seq: int, flagged: bool) -> None:
        if self._scans:
            before = self._recent.pop(place, (0, 0))
            self._recent[place] = (seq, seq if flagged else before[1])
            if len(self._recent) > _REMEMBERED:
                _, (last, _) = self._recent.popitem(last=False)
                self.forgotten = max(self.forgotten, last)
        for watching in self._pages.get(place, ()):
            page = watching()
            if page is not None:
                page.tell(place, flagged=flagged)


class _Span(NamedTuple):
    """Stored keys of a topic from ``first`` on, below ``before`` (None: to the end); of these the ``wanted`` ones."""

    topic: Topic
    first: bytes
    before: bytes | None = None
    wanted: Callable[[bytes], object] | None = None


class RetainedScan:
    """An asynchronous iterator of pages. It begins when it is made: in the turn of the loop in which the subscription
    is. Raises what a page's read raises, `Denied` or `Unauthenticated` when the right is taken away, `Unavailable` when
    the hub stops."""

    def __init__(
        self, core: Core, principal: Principal, pattern: Pattern, since: int | None, limit: int, size: int
    ) -> None:
        self._core = core
        self._principal = principal
        self._pattern = pattern
        self._since = core.log.next_seq if since is None else since
        self._limit = max(limit, 1)
        self._size = max(size, 1)
        self._published = core.published_keys
        self._allowed()
        self._topics: deque[Topic] | None = None
        self._spans: deque[_Span] = deque()
        self._close = self._published.enter(self)

    def _allowed(self) -> Pattern:
        """The pattern as this principal may see it, now."""
        self._core.require_running(self._principal)
        return self._core.live.allowed(self._principal, self._pattern)

    def __aiter__(self) -> RetainedScan:
        return self

    async def __anext__(self) -> RetainedPage:
        try:
            page = await self._page()
        except BaseException:
            self._close()
            raise
        if page is None:
            self._close()
            raise StopAsyncIteration
        return page

    async def _page(self) -> RetainedPage | None:
        """The next that has something; None at the end."""
        pattern = self._allowed()
        if self._topics is None:
            await self._settle()
            self._topics = deque(self._places(pattern))
        turn = Turn()
        while self._spans or self._topics:
            if not self._spans:
                self._spans.extend(_spans(self._topics.popleft(), pattern))
            elif page := await self._next():
                return page
            await turn.breathe()
        return None

    async def _settle(self) -> None:
        """What was appended before the subscription is read here or nowhere, so it must be on the disk."""
        with suppress(PolywireError):  # what failed never was
            await self._core.log.committed()

    def _places(self, pattern: Pattern) -> Sequence[Topic]:
        first = pattern[0]
        if isinstance(first, str):
            topic = self._core.catalog.get(OTHER if lives_in_other(first) else first)
            return [topic] if topic is not None else []
        return [topic for topic in self._core.log.by_id.values() if not topic.deleted and not is_own(topic.name)]

    async def _next(self) -> RetainedPage | None:
        """What the first span has next. None: that was nothing."""
        span = self._spans.popleft()
        topic = span.topic
        if not self._sees(topic):
            return None
        begun = self._core.log.uncommitted_from  # what is below is on the disk, and so is read
        messages, last = await self._read(span)
        if self._published.forgotten >= begun:  # so much was published meanwhile that not all of it is known
            self._spans.appendleft(span)
            return None
        if not self._sees(topic):
            return None
        if last is not None:
            self._spans.appendleft(span._replace(first=_next_to(last)))
        messages = [message for message in messages if message.seq < self._since]
        page = RetainedPage(messages, self._core)
        self._published.watch(page, messages, self._since)
        return page if any(page) else None

    def _sees(self, topic: Topic) -> bool:
        """Whether there is anything in it that the principal may have, now."""
        return not topic.deleted and bool(topic.retained_keys) and _key_words(topic, self._allowed()) is not None

    async def _read(self, span: _Span) -> tuple[list[Message], bytes | None]:
        topic, first, before, wanted = span
        if topic.volatile:
            return topic.kept.range(first, before, wanted, self._limit, self._size, self._core.clock.now())
        engine = self._core.log.engine
        if before == _next_to(first):
            one = await engine.retained(topic.id, first)
            found, last = [one] if one is not None else [], None
        else:
            found, last = await engine.retained_range(
                topic.id, first, before, wanted=wanted, limit=self._limit, size=self._size
            )
        messages = [
            Message(topic.name, one.record, one.seq, Position(topic.epoch, 0, one.offset), one.appended)
            for one in found
            if one.record is not None
        ]
        return messages, last


def _place(message: Message) -> Place:
    return message.topic, stored_key(message.record.key)


def _spans(topic: Topic, pattern: Pattern) -> Iterator[_Span]:
    """Where in a topic the messages are that a pattern means."""
    words = _key_words(topic, pattern)
    if words is None or not topic.retained_keys:
        return
    if not words:
        yield from _one(topic, b"")
        return
    literals = [_text(word) for word in _until_wild(words)]
    begin = b"".join(b"." + word for word in literals)
    if len(literals) == len(words):
        yield from _one(topic, begin)
    elif words[len(literals)] is not ANY_REST:
        yield _Span(topic, begin + b".", _behind(begin), _meant(words))
    elif not literals:
        yield _Span(topic, b"")
    else:
        yield from _one(topic, begin)
        yield _Span(topic, begin + b".", _behind(begin))


def _key_words(topic: Topic, pattern: Pattern) -> Pattern | None:
    """The pattern of the topic's keys; None where it means none of them."""
    first = pattern[0]
    if first is ANY_REST:
        return pattern
    if topic.name == OTHER:
        return pattern if first is not ANY_PLAIN else None
    if first is ANY_PLAIN and "." in topic.name:
        return None
    return pattern[1:]


def _until_wild(words: Pattern) -> Iterator[str]:
    for word in words:
        if not isinstance(word, str):
            return
        yield word


def _one(topic: Topic, key: bytes) -> Iterator[_Span]:
    """Of most addresses that are subscribed to nothing is retained: then nothing is read."""
    if key in topic.retained_keys:
        yield _Span(topic, key, _next_to(key))


def _next_to(key: bytes) -> bytes:
    """The least that is greater."""
    return key + b"\0"


def _behind(begin: bytes) -> bytes:
    """Greater than all that begin with ``begin`` and a dot, and less than all others that are greater than these."""
    return begin + b"/"


def _meant(words: Pattern) -> Callable[[bytes], object]:
    """Whether a stored key is one that the words mean."""
    parts = [rb"[^.]*" if word is ANY_WORD else re.escape(_text(word)) for word in words if word is not ANY_REST]
    rest = rb"(?:\..*)?" if words[-1] is ANY_REST else b""
    return re.compile(b"".join(rb"\." + part for part in parts) + rest, re.DOTALL).fullmatch


def _text(word: object) -> bytes:
    return str(word).encode("utf-8", "surrogateescape")
