"""CloudEvents over MQTT (MQTT protocol binding 1.0.2) ↔ messages, in the form that `polywire.formats.cloudevents` gives
them for every protocol.

Binary mode is of level 5 (§3.1): attributes are user properties under their own names, ``datacontenttype`` is the
Content Type. A message is taken for an event if it has all that an event must have (§3): ``specversion`` 1.0, ``id``,
``source`` and ``type``. User properties that cannot be attributes, as their names have capitals or dashes, are headers,
and so is what is given again: the first of a name is the attribute.

Structured mode (§3.2) is known by its Content Type, ``application/cloudevents+json``; so it is of level 5, too. At
levels 3 and 4, where it would be implied, nothing tells an event from any other JSON: it stays a payload as it is.
Other formats of events are carried on, unread (§3).

The key is the topic name's. A ``partitionkey`` that says another is kept beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from polywire.core.address import key_text
from polywire.core.message import Header, Message, Record
from polywire.formats import cloudevents
from polywire.formats.cloudevents import PREFIX, STRUCTURED

__all__ = ["attributes_of", "is_binary", "is_structured", "read_binary", "read_structured", "was_event"]

UserProperties = Sequence[tuple[str, str]]

_MUST: Final = frozenset(("specversion", "id", "source", "type"))
_NAME: Final = re.compile(r"[a-z0-9]+")


def is_structured(content_type: str | None) -> bool:
    if content_type is None or not content_type[:23].lower().startswith("application/cloudevents"):
        return False
    return content_type.partition(";")[0].strip().lower() == STRUCTURED


def is_binary(user: UserProperties) -> bool:
    return len(user) >= len(_MUST) and ("specversion", "1.0") in user and {name for name, _ in user} >= _MUST


def read_binary(user: UserProperties, content_type: str | None, payload: bytes, key: bytes | None) -> Record:
    """Raises `Invalid` naming all wrong attributes, as ``property.source``."""
    given: dict[str, Any] = {}
    headers: list[Header] = []
    for name, value in user:
        if _NAME.fullmatch(name) is None or name in given:
            headers.append((name, value))
        else:
            given[name] = value
    if content_type is not None:
        given["datacontenttype"] = content_type  # §3.1.1; the example of §3.1.4 has both
    record = cloudevents.read_attributes(given, "property")
    record.payload = payload
    return _placed(record, headers, key)


def read_structured(user: UserProperties, payload: bytes, key: bytes | None) -> Record:
    """Raises `Invalid` naming all wrong attributes, as ``$.source``. User properties may repeat them (§3.2.3)."""
    record = cloudevents.read_structured(payload)
    repeated = {name[len(PREFIX) :] for name, _ in record.headers} | _MUST | {"time", "datacontenttype", "partitionkey"}
    return _placed(record, [header for header in user if header[0] not in repeated], key)


def _placed(record: Record, headers: Sequence[Header], key: bytes | None) -> Record:
    stated = record.key
    if stated is not None and stated != key:
        record.headers.append((f"{PREFIX}partitionkey", key_text(stated)))
    record.headers += headers
    record.key = key
    return record


def was_event(record: Record) -> bool:
    """Whether it was published as an event, by whatever protocol."""
    names = [name for name, _ in record.headers]
    return f"{PREFIX}source" in names and f"{PREFIX}type" in names


def attributes_of(message: Message) -> list[tuple[str, str]]:
    """Of one that was published as an event, as user properties; ``datacontenttype`` is not among them (§3.1.3)."""
    attributes = cloudevents.attributes_of(message)
    return [(name, _text(value)) for name, value in attributes.items() if name != "datacontenttype"]


def _text(value: str | int | bool) -> str:
    """The canonical string (CloudEvents, "Type System")."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
