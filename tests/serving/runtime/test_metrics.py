"""The exposition text for Prometheus, the runbook's names in it, and traces."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.engine.interface import EngineInfo
from serving.runtime import metrics as module
from serving.runtime.metrics import Metrics, batch_span


def info(bundle: str) -> EngineInfo:
    return EngineInfo(bundle, 7, ("discrete", "continuous"), (), {}, {})


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_each_has_counts_of_its_own() -> None:
    one, other = Metrics(), Metrics()
    one.request("/v1/recommend", 200, 0.02)
    one.request("/v1/recommend", 200, 0.04)
    labels = {"route": "/v1/recommend"}
    assert value(one, "recsys_requests_total", code="200", **labels) == 2
    assert value(one, "recsys_request_seconds_sum", **labels) == pytest.approx(0.06)
    assert value(other, "recsys_requests_total", code="200", **labels) is None


def test_every_way_of_not_answering_is_counted() -> None:
    metrics = Metrics()
    for reason in ("full", "draining", "expired", "failed", "expired"):
        metrics.unavailable(reason)
    assert value(metrics, "recsys_shed_total", reason="full") == 1
    assert value(metrics, "recsys_shed_total", reason="draining") == 1
    assert value(metrics, "recsys_expired_total") == 2
    assert value(metrics, "recsys_failed_total") == 1


def test_reasons_are_counted_without_their_details() -> None:
    metrics = Metrics()
    metrics.degraded("no-decoding", "failure: RuntimeError")
    metrics.degraded("no-decoding", "failure: ValueError")
    assert value(metrics, "recsys_degraded_total", tier="no-decoding", reason="failure") == 2


def test_the_runbook_names_metrics_and_labels_that_exist() -> None:
    metrics = Metrics()
    for reason in ("queue", "deadline", "failure: RuntimeError"):
        metrics.degraded("popularity", reason)
    lines = metrics.render()[0].decode().splitlines()
    runbook = Path(__file__).parents[3] / "docs" / "serving.md"
    named = re.findall(r'(recsys_\w+)(?:\{(\w+="[^"]*")\})?', runbook.read_text(encoding="utf-8"))
    assert len(named) >= 5
    for name, label in named:
        found = [line for line in lines if line.startswith((f"# TYPE {name} ", f"{name}{{")) and label in line]
        assert found, (name, label)


def test_only_the_present_bundle_is_shown() -> None:
    metrics = Metrics()
    for bundle in ("old", "new"):
        metrics.bundle(info(bundle))
    routes = "discrete,continuous"
    assert value(metrics, "recsys_bundle_info", bundle="new", routes=routes) == 1
    assert value(metrics, "recsys_bundle_info", bundle="old", routes=routes) is None
    assert value(metrics, "recsys_items") == 7


def test_the_text_is_what_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.watch_depth(lambda: 5)
    metrics.in_flight.inc()
    metrics.stages({"queue": 0.2, "decode": 0.1})
    metrics.batch("full", 8, 0.3)
    metrics.reload("loaded")
    metrics.failure("full")
    text, kind = metrics.render()
    lines = text.decode().splitlines()
    assert kind.startswith("text/plain")
    for line in (
        "recsys_queue_depth 5.0",
        "recsys_in_flight 1.0",
        "recsys_out_of_catalogue_items_total 0.0",
        'recsys_stage_seconds_count{stage="queue"} 1.0',
        'recsys_batch_size_sum{tier="full"} 8.0',
        'recsys_batch_seconds_sum{tier="full"} 0.3',
        'recsys_reloads_total{outcome="loaded"} 1.0',
        'recsys_tier_failures_total{tier="full"} 1.0',
    ):
        assert line in lines


def test_a_batch_is_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry is not installed")
    export = pytest.importorskip("opentelemetry.sdk.trace.export", reason="OpenTelemetry is not installed")
    finished: list[Any] = []

    class Exporter(export.SpanExporter):  # type: ignore[name-defined,misc]
        def export(self, spans: Any) -> Any:
            finished.extend(spans)
            return export.SpanExportResult.SUCCESS

    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(Exporter()))
    monkeypatch.setattr(module, "TRACER", provider.get_tracer("test"))
    with batch_span("narrow", 12):
        pass
    assert [(span.name, dict(span.attributes)) for span in finished] == [
        ("recsys.batch", {"recsys.tier": "narrow", "recsys.batch.size": 12})
    ]


def test_nothing_is_traced_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    monkeypatch.setattr(module, "TRACER", module._tracer())
    assert module.TRACER is None
    with batch_span("full", 1):
        pass
