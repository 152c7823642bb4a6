"""Collects the repetitions of the search benchmark and makes one report of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.load.client import LoadReport
from bench.reports import (
    Breakdown,
    ClientLimit,
    CorpusFacts,
    CpuUse,
    Environment,
    HttpCost,
    LocalCost,
    SearchReport,
    Spread,
    Stage,
)
from bench.search.gateway_metrics import STAGES
from bench.search.in_process import Timed

_US = 1e6
_MS = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCase:
    layout: str
    asked: str
    clients: int
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCase:
    layout: str
    what: str
    threads: int
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Means of single calls in this process, which the served stages contain."""

    model_s: float
    shard_s: float
    faiss_s: float
    texts_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    report: LoadReport
    queries_per_s: float
    same_answer_ratio: float
    faiss_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """Means of one lone query."""

    client_s: float
    gateway_s: float
    stages_s: dict[str, float]


@dataclass(slots=True)
class Findings:
    """Each method is told one repetition's numbers."""

    _limits: dict[int, list[LoadReport]] = field(default_factory=lambda: defaultdict(list))
    _http: dict[HttpCase, list[_Answered]] = field(default_factory=lambda: defaultdict(list))
    _local: dict[LocalCase, list[Timed]] = field(default_factory=lambda: defaultdict(list))
    _cpu: dict[HttpCase, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    _served: dict[HttpCase, list[_Served]] = field(default_factory=lambda: defaultdict(list))
    _parts: dict[str, list[Parts]] = field(default_factory=lambda: defaultdict(list))
    _python: dict[str, list[Timed]] = field(default_factory=lambda: defaultdict(list))

    def limit(self, clients: int, report: LoadReport) -> None:
        self._limits[clients].append(report)

    def local(self, found: Mapping[LocalCase, Timed]) -> None:
        for case, took in found.items():
            self._local[case].append(took)

    def http(self, case: HttpCase, report: LoadReport, locals_: Mapping[LocalCase, Timed]) -> None:
        threads = min(case.clients, 2)
        same = "embedding and same answer" if case.asked == "text" else "same answer"

        def per_s(what: str) -> float:
            peer = LocalCase(layout=case.layout, what=what, threads=threads, batch=case.batch)
            return locals_[peer].calls_per_s * case.batch

        queries_per_s = report.requests_per_s * case.batch
        self._http[case].append(
            _Answered(
                report=report,
                queries_per_s=queries_per_s,
                same_answer_ratio=queries_per_s / per_s(same),
                faiss_ratio=None if case.asked == "text" else queries_per_s / per_s("Faiss alone"),
            )
        )

    def cpu(self, case: HttpCase, seconds_by_role: dict[str, float]) -> None:
        """CPU seconds of one request."""
        self._cpu[case].append(seconds_by_role)

    def served(
        self, case: HttpCase, client_s: float, gateway_s: float, stages_s: dict[str, float]
    ) -> None:
        served = _Served(client_s=client_s, gateway_s=gateway_s, stages_s=stages_s)
        self._served[case].append(served)

    def parts(self, layout: str, parts: Parts) -> None:
        self._parts[layout].append(parts)

    def python_client(self, layout: str, took: Timed) -> None:
        self._python[layout].append(took)

    def report(self, environment: Environment, corpus: CorpusFacts) -> SearchReport:
        return SearchReport(
            environment=environment,
            corpus=corpus,
            http=tuple(_http_cost(case, runs) for case, runs in self._http.items()),
            local=tuple(_local_cost(case, runs) for case, runs in self._local.items()),
            python_client_p50_ms={
                layout: Spread.over(runs, lambda run: run.p50_s * _MS)
                for layout, runs in self._python.items()
            },
            breakdowns=tuple(
                _breakdown(case, runs, self._parts[case.layout])
                for case, runs in self._served.items()
            ),
            cpu=tuple(_cpu_use(case, runs) for case, runs in self._cpu.items()),
            limits=tuple(_limit(clients, runs) for clients, runs in self._limits.items()),
        )


def _http_cost(case: HttpCase, runs: list[_Answered]) -> HttpCost:
    faiss = [run.faiss_ratio for run in runs if run.faiss_ratio is not None]
    return HttpCost(
        layout=case.layout,
        asked=case.asked,
        clients=case.clients,
        batch=case.batch,
        queries_per_s=Spread.over(runs, lambda run: run.queries_per_s),
        p50_ms=Spread.over(runs, lambda run: run.report.latency_s(0.50) * _MS),
        p99_ms=Spread.over(runs, lambda run: run.report.latency_s(0.99) * _MS),
        same_answer_ratio=Spread.over(runs, lambda run: run.same_answer_ratio),
        faiss_ratio=Spread.of(faiss) if faiss else None,
    )


def _local_cost(case: LocalCase, runs: list[Timed]) -> LocalCost:
    return LocalCost(
        layout=case.layout,
        what=case.what,
        threads=case.threads,
        batch=case.batch,
        queries_per_s=Spread.over(runs, lambda run: run.calls_per_s * case.batch),
        p50_us=Spread.over(runs, lambda run: run.p50_s * _US),
    )


def _limit(clients: int, runs: list[LoadReport]) -> ClientLimit:
    return ClientLimit(
        clients=clients,
        requests_per_s=Spread.over(runs, lambda run: run.requests_per_s),
        p50_ms=Spread.over(runs, lambda run: run.latency_s(0.50) * _MS),
        client_cpu_us=Spread.over(runs, lambda r: r.client_cpu_s / len(r.latencies_s) * _US),
    )


def _cpu_use(case: HttpCase, runs: list[dict[str, float]]) -> CpuUse:
    roles = dict.fromkeys(role for run in runs for role in run)
    return CpuUse(
        layout=case.layout,
        asked=case.asked,
        clients=case.clients,
        ms_by_role={
            role: Spread.of([run.get(role, 0.0) * _MS for run in runs]) for role in sorted(roles)
        },
    )


def _breakdown(case: HttpCase, runs: list[_Served], parts: list[Parts]) -> Breakdown:
    """The stages from the client inwards; what was measured in process stands below its stage."""
    embeds = case.asked == "text"

    def stage(name: str) -> Spread:
        return Spread.over(runs, lambda run: run.stages_s[name] * _US)

    def within(name: str, seconds: list[float]) -> Stage:
        us = Spread.of([one * _US for one in seconds])
        return Stage(name=name, us=us, part_of_above=True)

    outside = Spread.over(runs, lambda run: (run.client_s - run.gateway_s) * _US)
    around = Spread.over(
        runs, lambda run: (run.gateway_s - sum(run.stages_s[s] for s in STAGES)) * _US
    )
    stages = [
        Stage(name="HTTP: load generator, HAProxy, web server", us=outside),
        Stage(name="gateway: JSON, checks, rendering the reply", us=around),
        Stage(
            name="embedding, with the call of its actor" if embeds else "normalising the vector",
            us=stage("embed"),
        ),
    ]
    if embeds:
        stages.append(within("the model in process", [p.model_s for p in parts]))
    stages += [
        Stage(name="wait: for the batch to depart, and for its answer's turn", us=stage("wait")),
        Stage(name="scatter: one search a shard, here or in its actor", us=stage("scatter")),
        within("search of one shard in process", [p.shard_s for p in parts]),
        within("of that, Faiss", [p.faiss_s for p in parts]),
        Stage(name="merge", us=stage("merge")),
        Stage(name="fetch: texts and metadata", us=stage("fetch")),
        within("reading them in process", [p.texts_s for p in parts]),
    ]
    total = Spread.over(runs, lambda run: run.client_s * _US)
    return Breakdown(layout=case.layout, asked=case.asked, stages=tuple(stages), total_us=total)
