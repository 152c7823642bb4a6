"""Measures one system on one set, in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.shards.faiss_index import faiss
from bench.load.client import LoadGenerator, LoadReport
from bench.peers.contract import Case, System
from bench.peers.systems import running
from bench.peers.vector_sets import TOP_K, VectorSet, smallest_effort
from bench.plan import Plan
from bench.reports import ServeCost, ServeSystem, Spread

_PROBE_S = 0.25

Reports = dict[tuple[str, Case], list[LoadReport]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tuned:
    ef_search: int | None
    recall: dict[str, float]


def measure_system(name: str, data: VectorSet, plan: Plan) -> ServeSystem:
    """Starts the system and ends it. Raises NotMeasured when it does not start."""
    probe = _Probe(data)
    with (
        tempfile.TemporaryDirectory(prefix="rgs-") as folder,
        LoadGenerator() as load,
        running(name, data, Path(folder), load) as system,
    ):
        tuned = _tuned(system, data)
        reports, speeds = _repeated(system, data, plan, probe)
    return ServeSystem(
        name=name,
        title=system.title,
        index=system.index,
        ef_search=tuned.ef_search,
        recall=tuned.recall,
        build_s=system.build_s,
        pss_mib=max(r.server_pss_bytes for found in reports.values() for r in found) / 2**20,
        speed=Spread.of(speeds),
        costs=tuple(_cost(form, case, found) for (form, case), found in reports.items()),
    )


def _tuned(system: System, data: VectorSet) -> _Tuned:
    """The system with the least effort that reaches the recall."""
    queries = data.queries
    effort = None
    if system.is_tuned:

        def recall_of(tried: int) -> float:
            system.set_effort(tried)
            return data.recall(system.rows(system.forms[0], queries))

        effort, _ = smallest_effort(recall_of)
        system.set_effort(effort)
    recall = {form: data.recall(system.rows(form, queries)) for form in system.forms}
    return _Tuned(ef_search=effort, recall=recall)


def _repeated(
    system: System, data: VectorSet, plan: Plan, probe: _Probe
) -> tuple[Reports, list[float]]:
    queries = data.queries
    reports: Reports = defaultdict(list)
    speeds = []
    for _ in range(plan.serve_repetitions):
        speeds.append(probe.queries_per_s())
        for form in system.forms:
            for case in system.cases:
                report = system.run(form, case, queries, plan.warm_up_s, plan.serve_window_s)
                reports[form, case].append(report)
    return reports, speeds


def _cost(form: str, case: Case, reports: Sequence[LoadReport]) -> ServeCost:
    def per_request(seconds: float, report: LoadReport) -> float:
        return 1000 * seconds / len(report.latencies_s)

    return ServeCost(
        form=form,
        clients=case.clients,
        batch=case.batch,
        queries_per_s=Spread.over(reports, lambda r: r.requests_per_s * case.batch),
        p50_ms=Spread.over(reports, lambda r: 1000 * r.latency_s(0.5)),
        p99_ms=Spread.over(reports, lambda r: 1000 * r.latency_s(0.99)),
        server_cpu_ms=Spread.over(reports, lambda r: per_request(r.server_cpu_s, r)),
        client_cpu_ms=Spread.over(reports, lambda r: per_request(r.client_cpu_s, r)),
        others_cores=Spread.over(reports, lambda r: r.others_cores),
    )


class _Probe:
    """How fast the machine is right now: the systems run one after another, and it drifts."""

    def __init__(self, data: VectorSet) -> None:
        self._queries = data.queries
        self._index: Any = faiss.read_index(
            str(data.folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC
        )
        self._index.hnsw.efSearch = data.facts.ef_search

    def queries_per_s(self) -> float:
        number, started_s = 0, time.perf_counter()
        while (took_s := time.perf_counter() - started_s) < _PROBE_S:
            row = number % len(self._queries)
            self._index.search(self._queries[row : row + 1], TOP_K)
            number += 1
        return number / took_s
