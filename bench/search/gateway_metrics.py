"""The sums and counts that gateways report in `GET /metrics`, and their differences."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_STAGES = "raygion_search_stage_duration_seconds"
_REQUESTS = "raygion_http_request_duration_seconds"
_ROUTE = "/v1/search"
STAGES = ("embed", "wait", "scatter", "merge", "fetch")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSums:
    """Since the gateways started, all together."""

    searches: float
    in_gateway_s: float
    """Time from the request's first line to the answer's last byte."""
    stages_s: dict[str, float]

    def means_since(self, before: SearchSums) -> tuple[float, dict[str, float]]:
        """Seconds of one search, on average: in the gateway, and in each stage of the engine."""
        number = self.searches - before.searches
        stages = {s: (self.stages_s[s] - before.stages_s[s]) / number for s in STAGES}
        return (self.in_gateway_s - before.in_gateway_s) / number, stages


def read_search_sums(urls: Iterable[str]) -> SearchSums:
    """`urls`: that of each gateway, since any of them answers the region's own."""
    samples: dict[tuple[str, str | None], float] = defaultdict(float)
    for url in urls:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                what = sample.labels.get("route") or sample.labels.get("stage")
                samples[sample.name, what] += sample.value
    return SearchSums(
        searches=samples[f"{_REQUESTS}_count", _ROUTE],
        in_gateway_s=samples[f"{_REQUESTS}_sum", _ROUTE],
        stages_s={stage: samples[f"{_STAGES}_sum", stage] for stage in STAGES},
    )
