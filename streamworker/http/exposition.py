"""The metrics: every name is explained in docs/metrics.md."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streamworker.errors import KINDS
from streamworker.http.sampler import Sampler
from streamworker.http.view import View
from streamworker.identity import version
from streamworker.meter import Histogram
from streamworker.monitoring.status import GroupStatus, StreamStatus
from streamworker.seen import Seen
from streamworker.trimmer import TrimCounts
from streamworker.verdicts import Cause

_PREFIX: Final = "streamworker_"
_GROUP: Final = ("stream", "group")
_CAUSES: Final[tuple[str, ...]] = get_args(Cause)
_COUNTED: Final = {  # what our counts are called here
    "messages_received": ("delivered", "Deliveries taken in: read, claimed, or due again."),
    "messages_acked": ("acked", "Handled and acknowledged."),
    "messages_retried": ("retried", "Put back, to be delivered again later."),
    "messages_dropped": ("dropped", "Ended without a dead letter, since the app says so."),
    "messages_released": ("released", "Handed back unstarted by a drain."),
    "messages_claimed": ("claimed", "Taken over from a consumer that died or drained."),
    "messages_adopted": ("adopted", "Delivered before, in a reply that was lost."),
    "messages_taken": ("lost", "Another worker owned it before it was settled here."),
    "handlers_stuck": ("stuck", "Handlers that ran on after their timeout and the grace."),
}
_STREAM_GAUGES: Final = {
    "stream_length": ("length", "Entries in the stream."),
    "stream_memory_bytes": ("memory_bytes", "What the stream takes, as the server estimates it."),
    "stream_first_entry_age_seconds": ("oldest_entry_seconds", "Age of the first entry."),
}
_GROUP_GAUGES: Final = {
    "group_lag": ("lag", "Entries the group has not been given; absent when unknown."),
    "group_lag_seconds": ("lag_seconds", "Age of the first entry it has not been given."),
    "group_pending": ("pending", "Delivered and not acknowledged."),
    "group_retries": ("retries", "Retries that wait."),
    "group_backlog": ("backlog", "Lag, pending and retries together."),
    "group_trimmed": ("trimmed", "Entries trimmed before the group was given them; absent where nobody can know."),
    "dead_letters": ("dead_letters", "Dead letters kept."),
    "dead_letters_oldest_timestamp_seconds": ("oldest_dead_letter", "When the first of them came."),
    "dead_letters_newest_timestamp_seconds": ("newest_dead_letter", "When the last of them came."),
}


class Exposition(Collector):
    """Makes the metrics of what a worker and its sampler show when somebody scrapes."""

    def __init__(self, view: View, sampler: Sampler) -> None:
        self._view = view
        self._sampler = sampler

    def registry(self) -> CollectorRegistry:
        """A registry of its own: a handler's metrics are its own business."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        return registry

    def collect(self) -> Iterator[Metric]:
        seen = self._view.worker.seen()
        yield from _counts(seen)
        yield from _runs(seen)
        yield from _histograms(seen)
        yield from _gauges(seen)
        yield from self._process(seen)
        yield from _retention(self._view.worker.trimmed)
        streams = self._sampler.streams()
        yield from _of_streams(streams)
        yield from _of_groups([group for stream in streams for group in stream.groups if group.exists])

    def _process(self, seen: list[Seen]) -> Iterator[Metric]:
        entries = _counter("published", "Entries this process appended.", ("stream",))
        size = _counter("published_bytes", "Size of their fields and values.", ("stream",))
        for publisher in self._view.publishers:
            for stream, number in list(publisher.written.entries.items()):
                entries.add_metric([stream], number)
                size.add_metric([stream], publisher.written.bytes[stream])
        yield from (entries, size)
        errors = _counter("redis_errors", "Errors of the server and of connections to it.", ("kind",))
        kinds = dict.fromkeys(KINDS, 0)
        for one in seen:
            for kind, number in list(one.counts.errors.items()):
                kinds[kind] = kinds.get(kind, 0) + number
        for kind, number in kinds.items():
            errors.add_metric([kind], number)
        yield errors
        yield _plain(
            "event_loop_lag_seconds", "How late the event loop last was.", max(0.0, self._view.worker.loop_late)
        )
        yield _plain("draining", "1 once the worker was told to stop.", float(self._view.worker.draining))
        server = self._sampler.server
        build = _gauge("build_info", "Always 1.", ("version", "python", "redis"))
        build.add_metric(
            [version(), platform.python_version(), f"{server.name} {server.version}" if server is not None else ""], 1
        )
        yield build


def _counts(seen: list[Seen]) -> Iterator[Metric]:
    for name, (attribute, text) in _COUNTED.items():
        family = _counter(name, text, _GROUP)
        for one in seen:
            family.add_metric(_labels(one), getattr(one.counts, attribute))
        yield family
    letters = _counter("messages_dead_lettered", "Written to the dead stream.", (*_GROUP, "reason"))
    trimmed = _counter("entries_trimmed", "Trimmed away before the group was through with them.", (*_GROUP, "state"))
    for one in seen:
        for cause in _CAUSES:  # also those that never were: a rate needs a beginning
            letters.add_metric([*_labels(one), cause], one.counts.causes[cause])
        trimmed.add_metric([*_labels(one), "unread"], one.counts.skipped)
        trimmed.add_metric([*_labels(one), "pending"], one.counts.trimmed)
    yield from (letters, trimmed)


def _retention(counts: TrimCounts) -> Iterator[Metric]:
    trimmed = _counter("retention_trimmed", "Entries removed to keep a stream within its limits.", ("stream",))
    for stream, number in list(counts.trimmed.items()):
        _add(trimmed, [stream], number)
    lost = _counter("retention_lost", "Of those, by force: entries that the group had not been given.", _GROUP)
    expired = _counter("dead_letters_expired", "Dead letters removed, since they were too old or too many.", _GROUP)
    for family, by_group in ((lost, counts.lost), (expired, counts.expired)):
        for labels, number in list(by_group.items()):
            _add(family, [*labels], number)
    yield from (trimmed, lost, expired)


def _runs(seen: list[Seen]) -> Iterator[Metric]:
    runs = _counter("messages_processed", "Runs of a handler.", (*_GROUP, "handler", "status"))
    for one in seen:
        done = [(slots.invocation.handler.name, "ok", slots.succeeded) for slots in one.slots]
        done += [(handler, kind, number) for (handler, kind), number in list(one.counts.failed.items())]
        for handler, status, number in done:
            runs.add_metric([*_labels(one), handler, status], number)
    yield runs


def _histograms(seen: list[Seen]) -> Iterator[Metric]:
    ran = _histogram("process_duration_seconds", "How long handlers ran.", (*_GROUP, "handler"))
    for one in seen:
        for slots in one.slots:
            if slots.meter is not None:
                _observed(ran, [*_labels(one), slots.invocation.handler.name], slots.meter.ran)
    yield ran
    for name, attribute, text in (
        ("queue_wait_seconds", "wait", "From publishing to the handler's start."),
        ("end_to_end_seconds", "whole", "From publishing to the ack."),
        ("delivery_count", "deliveries", "Which delivery it was."),
        ("payload_bytes", "size", "Size of fields and values of what was received."),
    ):
        family = _histogram(name, text, _GROUP)
        for one in seen:
            if one.meter is not None:
                _observed(family, _labels(one), getattr(one.meter, attribute))
        yield family


def _gauges(seen: list[Seen]) -> Iterator[Metric]:
    ahead = time.time() - time.monotonic()
    for name, text, value in (
        ("in_flight", "Deliveries held.", lambda one: one.in_flight),
        ("running", "Handlers that run.", lambda one: sum(len(slots.running) for slots in one.slots)),
        ("concurrency_limit", "How many may.", lambda one: one.group.concurrency),
        ("paused", "1 while an operator has paused the group.", lambda one: int(one.paused)),
        (
            "poll_last_success_timestamp_seconds",
            "When the server last answered this consumer.",
            lambda one: None if one.answered is None else one.answered + ahead,
        ),
    ):
        family = _gauge(name, text, _GROUP)
        for one in seen:
            found = value(one)
            if found is not None:
                family.add_metric(_labels(one), found)
        yield family


def _of_streams(streams: tuple[StreamStatus, ...]) -> Iterator[Metric]:
    for name, (attribute, text) in _STREAM_GAUGES.items():
        family = _gauge(name, text, ("stream",))
        for stream in streams:
            _add(family, [stream.stream], getattr(stream, attribute))
        yield family
    sizes = _gauge("stream_entry_bytes", "Mean size of the oldest and of the newest entries.", ("stream", "end"))
    added = _counter("stream_entries_added", "Ever added.", ("stream",))
    for stream in streams:
        _add(sizes, [stream.stream, "oldest"], stream.oldest_entry_bytes)
        _add(sizes, [stream.stream, "newest"], stream.newest_entry_bytes)
        _add(added, [stream.stream], stream.added)
    yield from (sizes, added)


def _of_groups(groups: list[GroupStatus]) -> Iterator[Metric]:
    for name, (attribute, text) in _GROUP_GAUGES.items():
        family = _gauge(name, text, _GROUP)
        for group in groups:
            _add(family, [group.stream, group.group], getattr(group, attribute))
        yield family
    exact = _gauge("group_lag_exact", "1, or 0 where the server's lag is missing or wrong.", _GROUP)
    oldest = _gauge("group_oldest_pending_seconds", "Age of the first pending entry.", _GROUP)
    consumers = _gauge("group_consumers", "Members of the group.", _GROUP)
    for group in groups:
        labels = [group.stream, group.group]
        exact.add_metric(labels, float(group.lag_kind == "exact"))
        _add(oldest, labels, group.oldest_pending.age_seconds if group.oldest_pending is not None else 0.0)
        consumers.add_metric(labels, group.members)
    yield from (exact, oldest, consumers)


def _labels(one: Seen) -> list[str]:
    return [one.group.stream, one.group.name]


def _counter(name: str, text: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, labels=labels)


def _gauge(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _histogram(name: str, text: str, labels: tuple[str, ...]) -> HistogramMetricFamily:
    return HistogramMetricFamily(_PREFIX + name, text, labels=labels)


def _plain(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _add(family: GaugeMetricFamily | CounterMetricFamily, labels: list[str], value: float | None) -> None:
    """A number that nobody knows is absent, and never 0."""
    if value is not None:
        family.add_metric([_valid(label) for label in labels], value)


def _valid(label: str) -> str:
    return label.encode(errors="backslashreplace").decode()  # other programs' names may be any bytes


def _observed(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    buckets, total = [], 0
    for bound, number in zip((*histogram.bounds, float("inf")), list(histogram.counts), strict=True):
        total += number
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
    family.add_metric(labels, buckets, histogram.total)
