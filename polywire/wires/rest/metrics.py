"""Figures in Prometheus' text format. The core keeps plain integers; they are read when somebody asks, never before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from polywire.core.counters import BUCKETS, OperationCounters, WireCounters
from polywire.core.subscription import SubscriptionInfo
from polywire.core.topics import TopicInfo

if TYPE_CHECKING:
    from polywire.core.core import Core

__all__ = ["CONTENT_TYPE", "Figures", "gather", "render"]

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Figures:
    """What is shown, as it stood at one moment."""

    up: bool
    engine: dict[str, float]
    """By name; those in `_SUMMARIES` and `_GROWS` only grow."""
    topics: Sequence[TopicInfo]
    subscriptions: Sequence[SubscriptionInfo]
    wires: dict[str, WireCounters]
    operations: dict[str, OperationCounters]


def gather(core: Core) -> Figures:
    """On the event loop. All names, whoever asks: the caller has checked that they may."""
    system = core.access.system
    return Figures(
        core.ready,
        dict(core.metrics()),
        core.topics(system),
        core.subscriptions.list(system),
        dict(core.counters.wires),
        {operation.name: operation.counters for operation in core.calls},
    )


def render(figures: Figures) -> bytes:
    """Prometheus text. In any thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_HubCollector(figures))
    return generate_latest(registry)


class _HubCollector(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        yield _plain("polywire_up", "1 while the hub runs, 0 while it starts or drains", float(figures.up))
        yield from _engine(figures.engine)
        for topic_field in _TOPIC:
            yield _family(topic_field, ["topic"], ([info.name] for info in figures.topics), figures.topics)
        for queue_field in _SUBSCRIPTION:
            labels = ([info.name, info.kind] for info in figures.subscriptions)
            yield _family(queue_field, ["subscription", "kind"], labels, figures.subscriptions)
        for wire_field in _WIRE:
            yield _family(wire_field, ["wire"], ([name] for name in figures.wires), figures.wires.values())
        for call_field in _OPERATION:
            labels = ([name] for name in figures.operations)
            yield _family(call_field, ["operation"], labels, figures.operations.values())
        yield _durations(figures.operations)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    attribute: str
    help: str
    grows: bool = False
    scale: float = 1.0


_TOPIC = (
    _Field("polywire_topic_messages", "count", "messages in the log"),
    _Field("polywire_topic_bytes", "size", "bytes of these messages"),
    _Field("polywire_topic_appended_total", "next", "messages ever appended, as offsets count them", grows=True),
    _Field("polywire_topic_oldest_offset", "oldest", "offset of the oldest message that can be read"),
    _Field("polywire_topic_next_offset", "next", "offset the next message gets"),
    _Field("polywire_topic_followers", "followers", "readers that wait for the next message"),
)
_SUBSCRIPTION = (
    _Field("polywire_subscription_pending", "pending", "lag: messages not settled yet, in whatever state"),
    _Field("polywire_subscription_unsettled", "unsettled", "messages with a consumer"),
    _Field("polywire_subscription_delayed", "delayed", "messages that wait for their time"),
    _Field("polywire_subscription_dead", "dead", "dead letters"),
    _Field("polywire_subscription_consumers", "consumers", "connected consumers"),
    _Field("polywire_subscription_delivered_total", "delivered", "deliveries, repeated ones included", grows=True),
    _Field("polywire_subscription_acked_total", "acked", "deliveries acked", grows=True),
    _Field("polywire_subscription_returned_total", "returned", "deliveries that came back", grows=True),
    _Field("polywire_subscription_dropped_total", "dropped", "messages given up without an ack", grows=True),
    _Field("polywire_subscription_paused", "paused", "1 while paused"),
    _Field(
        "polywire_subscription_oldest_unsettled_seconds",
        "oldest_unsettled",
        "age of the oldest unsettled delivery",
        scale=0.001,
    ),
)
_WIRE = (
    _Field("polywire_wire_received_total", "received", "messages published by clients", grows=True),
    _Field("polywire_wire_delivered_total", "delivered", "messages sent to clients", grows=True),
    _Field("polywire_wire_errors_total", "errors", "requests and frames refused", grows=True),
    _Field("polywire_wire_connections", "connections", "open connections"),
)
_OPERATION = (
    _Field("polywire_operation_calls_total", "calls", "calls that have ended", grows=True),
    _Field("polywire_operation_errors_total", "errors", "calls that ended with an error", grows=True),
    _Field("polywire_operation_running", "running", "calls that run"),
)


def _durations(operations: dict[str, OperationCounters]) -> Metric:
    family = HistogramMetricFamily("polywire_operation_seconds", "how long calls took", labels=["operation"])
    bounds = [*map(str, BUCKETS), "+Inf"]
    for name, counters in operations.items():
        counts = list(accumulate(counters.buckets))
        family.add_metric([name], list(zip(bounds, map(float, counts), strict=True)), counters.seconds)
    return family


def _family(field: _Field, names: list[str], labels: Iterable[list[str]], objects: Iterable[object]) -> Metric:
    family = CounterMetricFamily if field.grows else GaugeMetricFamily
    metric = family(field.name, field.help, labels=names)
    for values, one in zip(labels, objects, strict=True):
        metric.add_metric(values, float(getattr(one, field.attribute) or 0) * field.scale)
    return metric


_SUMMARIES = (
    ("commit_seconds", "commits", "commit_seconds_sum", "time to write and fsync a commit"),
    ("read_seconds", "reads", "read_seconds_sum", "time to read from the log"),
)
_GROWS = frozenset(
    (
        "checkpoints", "commit_failures", "commits_failed", "dead_letters_dropped", "rows", "schedule_failures",
        "schedule_runs", "schedule_skips", "topics_refused_on_use", "wal_resets",
    )
)  # fmt: skip


def _engine(figures: dict[str, float]) -> Iterator[Metric]:
    rest = dict(figures)
    for name, count, total, text in _SUMMARIES:
        if count in rest and total in rest:
            yield SummaryMetricFamily(f"polywire_{name}", text, int(rest.pop(count)), rest.pop(total))
    for name, value in sorted(rest.items()):
        if name in _GROWS:
            yield CounterMetricFamily(f"polywire_{name}", name.replace("_", " "), value)
        else:
            yield _plain(f"polywire_{name}", name.replace("_", " "), value)


def _plain(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)
