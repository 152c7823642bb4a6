"""The table of docs/metrics.md, made from what a gateway exposes once everything has happened."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from bench.markdown import table
from cluster.errors import Unavailable
from cluster.regions.divergence_report import CorpusProbe, DivergenceReport
from tests.support.worlds.fake_service import FakeService, app_of

COLUMNS = ("metric", "type", "labels", "meaning")
_QUESTION = {"question": "What is the capital of Iceland?", "stream": True, "min_coverage": 0.5}


def metrics_table() -> str:
    return table(COLUMNS, [_row(family) for family in asyncio.run(exposed_metrics())])


async def exposed_metrics() -> list[Metric]:
    """Every metric of a gateway, with at least one sample of each."""
    compared = CorpusProbe(corpus="factbook", regions=("north", "south"), outcome="alike")
    service = FakeService()
    service.coverage = 0.5
    app = app_of(service, divergence=lambda: DivergenceReport(corpora=(compared,)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://region") as client:
        await client.post("/v1/search", json={"query": "tea"})
        await client.post("/v1/answer", json=_QUESTION)
        service.search_error = Unavailable("no region answers")
        await client.post("/v1/search", json={"query": "tea"})
        exposition = (await client.get("/metrics")).text
    families = list(text_string_to_metric_families(exposition))
    return [family for family in families if not family.name.endswith("_created")]


def _row(family: Metric) -> tuple[str, str, str, str]:
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
    return f"`{name}`", family.type, ", ".join(f"`{x}`" for x in labels), family.documentation
