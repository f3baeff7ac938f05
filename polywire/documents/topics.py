"""Topics in an OpenAPI document: publish, read, follow."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import UNSET

from polywire.contract.topics import TopicContract
from polywire.core.errors import PolywireError
from polywire.core.topics import TopicSettings
from polywire.documents.bodies import BYTES, EVENTS, FORM, JSON, LINES, MULTIPART, OCTETS, XML, Body, in_media_type
from polywire.documents.draft import Draft, Json
from polywire.documents.examples import example_of
from polywire.documents.shared import DURATION, event_schema, lines_schema, problems
from polywire.documents.snippets import Sample

__all__ = ["ANY_TOPIC", "add_any_topic", "add_topic"]

PUBLISH, SUBSCRIBE = "publish", "subscribe"
EVENT, EVENT_BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
ANY_TOPIC = "#"
"""The name by which a permission on all topics is asked for."""
_SAMPLE_TOPIC = "chat"
_TAG = "topics"
_HEADERS = ("Key", "Id", "IdempotencyKey", "Delay", "ExpiresIn", "Retain", "Priority")
_PATTERN = "A pattern of keys: `*` is one word, `#` any number."
_FROM = "Where to begin: `earliest`, `latest`, the cursor that `next` gave, or a time."
_NAME: Json = {"name": "topic", "in": "path", "required": True, "schema": {"type": "string"}, "example": _SAMPLE_TOPIC}


class _Topic(NamedTuple):
    """``name`` for people and ids; ``path`` of the document; ``url`` of a sample."""

    name: str
    path: str
    url: str
    contract: TopicContract[Any]
    parameters: tuple[Json, ...] = ()

    @property
    def free(self) -> bool:
        """Whether it takes any payload."""
        return self.contract.codec.raw or self.contract.codec.untyped


def add_topic(draft: Draft, contract: TopicContract[Any]) -> None:
    """What the reader may do with it."""
    name = contract.settings.name
    path = f"/topics/{name}"
    _add(draft, _Topic(name, path, draft.base + path, contract), name)


def add_any_topic(draft: Draft) -> None:
    """Of a hub whose topics are made as clients name them, for readers who may use all of them."""
    contract: TopicContract[Any] = TopicContract(TopicSettings(_SAMPLE_TOPIC), Any, None)
    topic = _Topic("any topic", "/topics/{topic}", f"{draft.base}/topics/{_SAMPLE_TOPIC}", contract, (_NAME,))
    _add(draft, topic, ANY_TOPIC)


def _add(draft: Draft, topic: _Topic, name: str) -> None:
    if draft.may(PUBLISH, name):
        sample = _publish_sample(draft, topic)
        draft.add(topic.path, "POST", _publish(draft, topic), sample, needs_key=draft.needs_key(PUBLISH, name))
    if draft.may(SUBSCRIBE, name):
        needs_key = draft.needs_key(SUBSCRIBE, name)
        draft.add(topic.path, "GET", _read(draft, topic), Sample("GET", topic.url), needs_key=needs_key)
        events = Sample("GET", f"{topic.url}/events", [("envelope", "1")], answer="events")
        draft.add(f"{topic.path}/events", "GET", _follow(draft, topic), events, needs_key=needs_key)
    if draft.may(PUBLISH, name) or draft.may(SUBSCRIBE, name):
        draft.tags.setdefault(_TAG, "Streams of messages: published, read, followed.")


def _operation(draft: Draft, topic: _Topic, verb: str, description: str) -> Json:
    return {
        "operationId": draft.id(f"{verb}_{topic.name}".replace(" ", "_")),
        "summary": f"{verb.capitalize()} {topic.name}".replace("Publish ", "Publish to "),
        "description": description,
        "tags": [_TAG],
    }


def _query(name: str, text: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": text, "schema": schema}


# --- publish ---------------------------------------------------------------------------------------------------------


def _publish(draft: Draft, topic: _Topic) -> Json:
    key = topic.contract.key
    description = f"Store a message, or all of a batch of them (`{LINES}`), or none."
    if key is not None:
        description += f" Where no key is given, its field `{key}` is the key."
    content = {JSON: {"schema": {"anyOf": [draft.own("Receipt"), draft.own("Receipts")]}}}
    return {
        **_operation(draft, topic, "publish", description),
        "parameters": [
            *topic.parameters,
            _query("key", "The message's key.", {"type": "string"}),
            *(draft.header(header) for header in _HEADERS),
        ],
        # An empty message with Polywire-Retain deletes what is retained.
        "requestBody": {"required": False, "content": _messages(draft, topic)},
        "responses": {
            "201": {"description": "Stored.", "content": content},
            "202": {"description": "Kept until it is due.", "content": content},
            **problems(body=True, answer=False),
        },
    }


def _messages(draft: Draft, topic: _Topic) -> Json:
    if topic.contract.codec.raw:
        return {"*/*": {"schema": BYTES}}
    body = _body(draft, topic)
    content: Json = {}
    for media in (JSON,) if topic.free else (JSON, XML, FORM, MULTIPART):
        if (made := in_media_type(draft, body, media)) is not None:
            content[media] = made
    event = {"allOf": [draft.own("CloudEvent"), {"type": "object", "properties": {"data": body.schema}}]}
    content |= {
        LINES: {"schema": lines_schema(body.schema)},
        EVENT: {"schema": event},
        EVENT_BATCH: {"schema": lines_schema(event)},
    }
    return content | ({"*/*": {"schema": BYTES}} if topic.free else {})


def _body(draft: Draft, topic: _Topic) -> Body:
    tree = draft.schemas.tree(topic.contract.codec.type)
    return Body(draft.schema(tree.root), draft.schemas.fields_of(tree.root) or (), tree, _example(draft, topic))


def _example(draft: Draft, topic: _Topic) -> Any:
    """`UNSET` where no message was found that the topic takes."""
    codec = topic.contract.codec
    example = example_of(draft.schemas.tree(codec.type))
    try:
        codec.from_builtins(example)
    except PolywireError:
        return UNSET
    return example


def _publish_sample(draft: Draft, topic: _Topic) -> Sample:
    if topic.contract.codec.raw:
        return Sample("POST", topic.url, headers=[("Content-Type", OCTETS)], text="hello")
    example = _example(draft, topic)
    return Sample("POST", topic.url, json="hello" if example is UNSET else example)


# --- read ------------------------------------------------------------------------------------------------------------


def _read(draft: Draft, topic: _Topic) -> Json:
    text, says = {"type": "string"}, "The cursor to go on `from`."
    page = {
        "type": "object",
        "required": ["messages", "next"],
        "properties": {
            "messages": {"type": "array", "items": _message(draft, topic)},
            "next": {**text, "description": says},
        },
    }
    ok = {
        "description": "What there is.",
        "headers": {"Polywire-Next": {"description": f"Of events: {says}", "schema": text}},
        "content": {JSON: {"schema": page}, EVENT_BATCH: {"schema": lines_schema(draft.own("CloudEvent"))}},
    }
    return {
        **_operation(draft, topic, "read", "A page of messages, the oldest first."),
        "parameters": [
            *topic.parameters,
            _query("from", _FROM, {"type": "string", "default": "earliest"}),
            _query("limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
            _query("wait", "How long to wait for the first: a duration as `10s`.", {**DURATION, "default": "0s"}),
            _query("key", _PATTERN, {"type": "string"}),
        ],
        "responses": {"200": ok, **problems(body=False, answer=True, cursor=True)},
    }


def _message(draft: Draft, topic: _Topic) -> Json:
    """A message whose data is of the declared type."""
    if topic.free:
        return draft.own("Message")
    return {"allOf": [draft.own("Message"), {"type": "object", "properties": {"data": _payload(draft, topic)}}]}


def _payload(draft: Draft, topic: _Topic) -> Json:
    return draft.schema(draft.schemas.type(topic.contract.codec.type))


def _follow(draft: Draft, topic: _Topic) -> Json:
    description = (
        "Server-sent events: the `data` of each is a message's payload, or all of the message with `envelope=1`. "
        "`event: reset` says that messages were missed."
    )
    content = {EVENTS: {"schema": event_schema(_event(draft, topic))}}
    return {
        **_operation(draft, topic, "follow", description),
        "parameters": [
            *topic.parameters,
            _query("from", _FROM, {"type": "string", "default": "latest"}),
            _query("key", _PATTERN, {"type": "string"}),
            _query(
                "envelope",
                "Whether to tell all of the message.",
                {"type": "string", "enum": ["1", "0", "true", "false"]},
            ),
            draft.header("LastEventId"),
        ],
        "responses": {
            "200": {"description": "Message after message, as they come.", "content": content},
            **problems(body=False, answer=False),
        },
    }


def _event(draft: Draft, topic: _Topic) -> Json | None:
    """None for a topic that takes anything: its payloads are text, JSON or base64."""
    if topic.free:
        return None
    return {"anyOf": [_payload(draft, topic), _message(draft, topic), draft.own("Reset")]}
