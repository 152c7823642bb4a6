"""A Prometheus histogram that costs one call to add to. The library's takes six, and every search
adds to half a dozen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


@dataclass(slots=True)
class _Series:
    counts: list[int]
    """Counts of each bucket alone, without those below it; the last bucket is for longer durations.
    """
    sum_s: float = 0.0


class DurationHistogram(Collector):
    """A series for each value of one label. One thread adds and collects: nothing is locked."""

    def __init__(
        self,
        name: str,
        about: str,
        *,
        label: str,
        buckets_s: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """`buckets_s`: upper bounds, ascending, which belong to their buckets."""
        self._name = name
        self._about = about
        self._label = label
        self._bounds_s = tuple(buckets_s)
        bounds_s = (*self._bounds_s, float("inf"))
        self._names = [floatToGoString(b) for b in bounds_s]  # type: ignore[no-untyped-call]
        self._series: dict[str, _Series] = {}
        registry.register(self)

    def add(self, value: str, took_s: float) -> None:
        """One duration to the series of this value of the label."""
        series = self._series.get(value)
        if series is None:
            series = self._series[value] = _Series([0] * len(self._names))
        series.counts[bisect_left(self._bounds_s, took_s)] += 1
        series.sum_s += took_s

    def describe(self) -> Iterator[Metric]:
        """The metric, so that the registry knows its name and refuses a duplicate."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._about, labels=[self._label])
        for value, series in self._series.items():
            buckets = list(zip(self._names, accumulate(series.counts), strict=True))
            family.add_metric([value], buckets=buckets, sum_value=series.sum_s)
        yield family
