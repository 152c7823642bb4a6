"""What the gateway says of itself in `GET /metrics`: sums and counts, and their differences."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_STAGES = "raygion_search_stage_duration_seconds"
_REQUESTS = "raygion_http_request_duration_seconds"
_ROUTE = "/v1/search"
STAGES = ("embed", "wait", "scatter", "merge", "fetch")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSums:
    """Since the gateway started."""

    searches: float
    in_gateway_s: float
    """From the request's first line to the answer's last byte."""
    stages_s: dict[str, float]

    def means_since(self, before: SearchSums) -> tuple[float, dict[str, float]]:
        """Seconds of one search, on average: in the gateway, and in each stage of the engine."""
        number = self.searches - before.searches
        stages = {s: (self.stages_s[s] - before.stages_s[s]) / number for s in STAGES}
        return (self.in_gateway_s - before.in_gateway_s) / number, stages


def read_search_sums(url: str) -> SearchSums:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    samples = {
        (sample.name, sample.labels.get("route") or sample.labels.get("stage")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return SearchSums(
        searches=samples.get((f"{_REQUESTS}_count", _ROUTE), 0.0),
        in_gateway_s=samples.get((f"{_REQUESTS}_sum", _ROUTE), 0.0),
        stages_s={stage: samples.get((f"{_STAGES}_sum", stage), 0.0) for stage in STAGES},
    )
