"""What is added to a histogram here is what the library's own would show."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployments.metering.duration_histogram import DurationHistogram

BUCKETS_S = (0.001, 0.01, 1.0)
DURATIONS_S = {"a": [0.0, 0.0005, 0.001, 0.0011, 0.5, 1.0, 7.0], "b": [0.01]}


def samples(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_it_says_what_the_librarys_own_says() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = DurationHistogram(
        "took_seconds", "How long.", label="what", buckets_s=BUCKETS_S, registry=ours
    )
    expected = Histogram("took_seconds", "How long.", ["what"], buckets=BUCKETS_S, registry=theirs)
    for what, durations in DURATIONS_S.items():
        for took_s in durations:
            histogram.add(what, took_s)
            expected.labels(what).observe(took_s)
    found = samples(ours)
    assert found == samples(theirs)
    assert found["took_seconds_count", frozenset({("what", "a")})] == 7


def test_two_of_a_name_are_refused() -> None:
    registry = CollectorRegistry()
    DurationHistogram("x", "", label="l", buckets_s=(1.0,), registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        DurationHistogram("x", "", label="l", buckets_s=(1.0,), registry=registry)
