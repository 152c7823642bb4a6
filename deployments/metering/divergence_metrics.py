"""The differences between regions that a region knows of, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from cluster.regions.divergence_report import DivergenceReport, ProbeVerdict


class DivergenceMetrics(Collector):
    """Read from the last report, which is the same in all gateways of a region."""

    def __init__(self, report: Callable[[], DivergenceReport], registry: CollectorRegistry) -> None:
        self._report = report
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """The metrics, so that the registry knows their names and refuses duplicates."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        report = self._report()
        differ = GaugeMetricFamily(
            "raygion_divergence",
            "1 while regions answer the current release differently. All gateways of a region "
            "expose the same value, if several regions are compared.",
            labels=["corpus"],
        )
        differing = {difference.corpus for difference in report.differences}
        for corpus in sorted(differing | {line.corpus for line in report.corpora}):
            differ.add_metric([corpus], float(corpus in differing))
        yield differ
        probes = CounterMetricFamily(
            "raygion_divergence_probes",
            "Comparisons of the regions' answers for a corpus, by outcome: alike, differ, too_few "
            "(fewer than two regions answered) or quorum_differ (found by a search by quorum).",
            labels=["outcome"],
        )
        # From 0 on: Prometheus sees no increase in a series that begins at 1.
        for outcome in ProbeVerdict:
            probes.add_metric([outcome.value], float(report.probes.get(outcome.value, 0)))
        yield probes
