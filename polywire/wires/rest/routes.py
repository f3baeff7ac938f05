"""Every route of the REST wire. A new one is a line here and a handler."""

from __future__ import annotations

from polywire.wires.rest import administration as hub
from polywire.wires.rest import documents, jobs, operations, subscriptions, topics
from polywire.wires.rest.routing import Route

__all__ = ["EXACT", "OVERRIDABLE", "PREFIXES", "ROUTES"]

EXACT = ("/", "/health", "/ready", "/metrics", "/openapi.json")
OVERRIDABLE = ("/", "/health")
"""Of these an operation may take the place."""
PREFIXES = ("/topics", "/subscriptions", "/operations", "/jobs", "/schemas", "/docs", "/api-keys", "/backup")
"""What a router gives to this wire: these paths, and these with all that is below them."""

_TOPIC = "/topics/{topic}"
_SUBSCRIPTION = "/subscriptions/{name}"

ROUTES = (
    Route("GET", "/", hub.index),
    Route("GET", "/health", hub.health),
    Route("GET", "/ready", hub.ready),
    Route("GET", "/metrics", hub.metrics_text),
    Route("GET", "/openapi.json", documents.openapi),
    Route("GET", "/schemas", documents.schemas),
    Route("GET", "/schemas/{name}", documents.schema),
    Route("GET", "/docs", documents.page),
    Route("GET", "/docs/{file}", documents.page_file),
    Route("GET", "/topics", topics.list_all),
    Route("POST", _TOPIC, topics.publish, ("key",)),
    Route("GET", _TOPIC, topics.read, ("from", "limit", "wait", "key")),
    Route("PUT", _TOPIC, topics.create),
    Route("DELETE", _TOPIC, topics.delete),
    Route("GET", f"{_TOPIC}/info", topics.info),
    Route("GET", f"{_TOPIC}/messages/{{position}}", topics.message, ("raw",)),
    Route("GET", f"{_TOPIC}/latest", topics.latest_all, ("limit", "after")),
    Route("GET", f"{_TOPIC}/latest/{{key}}", topics.latest, ("raw",)),
    Route("GET", f"{_TOPIC}/events", topics.events, None),
    Route("GET", f"{_TOPIC}/delayed", topics.delayed, ("limit", "after")),
    Route("DELETE", f"{_TOPIC}/delayed/{{id}}", topics.cancel_delayed),
    Route("GET", f"{_TOPIC}/cursors/{{reader}}", topics.cursor),
    Route("PUT", f"{_TOPIC}/cursors/{{reader}}", topics.commit_cursor),
    Route("DELETE", f"{_TOPIC}/cursors/{{reader}}", topics.forget_cursor),
    Route("GET", "/subscriptions", subscriptions.list_all, ("kind",)),
    Route("GET", _SUBSCRIPTION, subscriptions.info, ("kind",)),
    Route("PUT", _SUBSCRIPTION, subscriptions.create),
    Route("DELETE", _SUBSCRIPTION, subscriptions.delete, ("kind",)),
    Route("POST", f"{_SUBSCRIPTION}/pull", subscriptions.pull),
    Route("POST", f"{_SUBSCRIPTION}/ack", subscriptions.ack),
    Route("POST", f"{_SUBSCRIPTION}/nack", subscriptions.nack),
    Route("POST", f"{_SUBSCRIPTION}/reject", subscriptions.reject),
    Route("POST", f"{_SUBSCRIPTION}/extend", subscriptions.extend),
    Route("GET", f"{_SUBSCRIPTION}/messages", subscriptions.messages, ("limit", "after", "kind")),
    Route("DELETE", f"{_SUBSCRIPTION}/messages/{{seq}}", subscriptions.remove, ("kind",)),
    Route("POST", f"{_SUBSCRIPTION}/messages/{{seq}}/move", subscriptions.move, ("kind",)),
    Route("POST", f"{_SUBSCRIPTION}/pause", subscriptions.pause, ("kind",)),
    Route("POST", f"{_SUBSCRIPTION}/resume", subscriptions.resume, ("kind",)),
    Route("POST", f"{_SUBSCRIPTION}/purge", subscriptions.purge, ("kind",)),
    Route("POST", f"{_SUBSCRIPTION}/reset", subscriptions.reset, ("kind",)),
    Route("GET", f"{_SUBSCRIPTION}/dead-letters", subscriptions.dead_letters, ("limit", "after", "kind")),
    Route("DELETE", f"{_SUBSCRIPTION}/dead-letters", subscriptions.purge_dead_letters, ("kind",)),
    Route("DELETE", f"{_SUBSCRIPTION}/dead-letters/{{seq}}", subscriptions.delete_dead_letter, ("kind",)),
    Route("POST", f"{_SUBSCRIPTION}/redrive", subscriptions.redrive, ("kind",)),
    Route("GET", "/operations", operations.list_all),
    Route("POST", "/operations/{name}", operations.call),
    Route("GET", "/operations/{name}", operations.query, None),
    Route("GET", "/jobs/{id}", jobs.info, ("wait",)),
    Route("DELETE", "/jobs/{id}", jobs.cancel),
    Route("GET", "/jobs/{id}/events", jobs.events, ("after",)),
    Route("GET", "/api-keys", hub.keys),
    Route("POST", "/api-keys", hub.create_key),
    Route("DELETE", "/api-keys/{key}", hub.revoke_key),
    Route("POST", "/backup", hub.backup),
)
