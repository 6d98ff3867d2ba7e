"""The endpoint's metrics for Prometheus, and traces where OpenTelemetry is installed.

Every `Metrics` has its own registry, so that one process can hold several. All methods are thread-safe. No metric names
users or items. Reads and writes no files.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from serving.engine.interface import EngineInfo, Tier
from serving.runtime.work_items import Reason

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters, gauges and histograms; their names begin with `recsys_`. Admission sets the gauge `in_flight`."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.in_flight = Gauge("recsys_in_flight", "Requests being handled", registry=own)
        self._requests = Counter("recsys_requests", "Requests answered", ["route", "code"], registry=own)
        timing = partial(Histogram, buckets=SECONDS, registry=own)
        self._latency = timing("recsys_request_seconds", "From admission to answer", ["route"])
        self._stages = timing(
            "recsys_stage_seconds", "Stages of an answer; queue is per request, the others are per batch", ["stage"]
        )
        self._depth = Gauge("recsys_queue_depth", "Pending work items of the inference thread", registry=own)
        self._batch_size = Histogram(
            "recsys_batch_size", "Requests answered together", ["tier"], buckets=SIZES, registry=own
        )
        self._batch_seconds = timing("recsys_batch_seconds", "Seconds of a batch", ["tier"])
        self._shed = Counter("recsys_shed", "Requests refused before any work", ["reason"], registry=own)
        self._expired = Counter("recsys_expired", "Requests whose deadline passed", registry=own)
        self._failed = Counter("recsys_failed", "Requests that no tier could answer", registry=own)
        self._degraded = Counter("recsys_degraded", "Answers below the best tier", ["tier", "reason"], registry=own)
        self._failures = Counter("recsys_tier_failures", "Batches in which a tier failed", ["tier"], registry=own)
        self._out_of_catalogue = Counter(
            "recsys_out_of_catalogue_items", "Unknown or withdrawn items removed from an answer", registry=own
        )
        self._reloads = Counter("recsys_reloads", "Reloads and rollbacks", ["outcome"], registry=own)
        self._bundle = Gauge("recsys_bundle_info", "The bundle that answers", ["bundle", "routes"], registry=own)
        self._items = Gauge("recsys_items", "Items that can be recommended", registry=own)

    def request(self, route: str, code: int, seconds: float) -> None:
        """Count a response; `route` is its template, not its path."""
        self._requests.labels(route, str(code)).inc()
        self._latency.labels(route).observe(seconds)

    def shed(self, reason: str) -> None:
        """Count a request refused before its body was read or queued; `reason` is one of a few words."""
        self._shed.labels(reason).inc()

    def unavailable(self, reason: Reason) -> None:
        """Count an admitted request without an answer."""
        if reason == "expired":
            self._expired.inc()
        elif reason == "failed":
            self._failed.inc()
        else:
            self.shed(reason)

    def watch_depth(self, depth: Callable[[], int]) -> None:
        """Read the queue's depth at every scrape."""
        self._depth.set_function(depth)

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Observe stages of a batch, or the `queue` of one request."""
        for stage, value in seconds.items():
            self._stages.labels(stage).observe(value)

    def batch(self, tier: Tier, size: int, seconds: float) -> None:
        """Observe an answered batch."""
        self._batch_size.labels(tier).observe(size)
        self._batch_seconds.labels(tier).observe(seconds)

    def degraded(self, tier: Tier, reason: str) -> None:
        """Count an answer below the best tier; the label is the reason up to its colon."""
        self._degraded.labels(tier, reason.partition(":")[0]).inc()

    def failure(self, tier: Tier) -> None:
        """Count a batch in which a tier failed."""
        self._failures.labels(tier).inc()

    def out_of_catalogue(self, items: int) -> None:
        """Count items that were removed from an answer."""
        self._out_of_catalogue.inc(items)

    def reload(self, outcome: str) -> None:
        """Count a reload: `loaded`, `refused`, `busy` (another one in progress) or `rolled back`."""
        self._reloads.labels(outcome).inc()

    def bundle(self, info: EngineInfo) -> None:
        """Show the bundle that answers, and its number of items."""
        self._bundle.clear()
        self._bundle.labels(info.bundle, ",".join(info.routes)).set(1)
        self._items.set(info.items)

    def render(self) -> tuple[bytes, str]:
        """The exposition text for Prometheus, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def _tracer() -> Any:
    """OpenTelemetry's tracer, None where it is not installed."""
    try:
        return importlib.import_module("opentelemetry.trace").get_tracer("recsys")
    except ImportError:
        return None


TRACER = _tracer()


def batch_span(tier: Tier, size: int) -> AbstractContextManager[object]:
    """Trace one batch, where OpenTelemetry is installed."""
    if TRACER is None:
        return nullcontext()
    attributes = {"recsys.tier": tier, "recsys.batch.size": size}
    span: AbstractContextManager[object] = TRACER.start_as_current_span("recsys.batch", attributes=attributes)
    return span
