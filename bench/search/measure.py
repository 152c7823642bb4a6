"""`POST /v1/search` against the same index searched in process, and where the time of a query goes.

The peer is measured in the same repetition as the server, so that ratios hold on a machine whose
speed drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from actors.models.embedding_worker import num_cores, open_embedder
from bench.data import factbook_documents, factbook_questions
from bench.load.client import Load, LoadGenerator, LoadReport, http_request, json_request, run_load
from bench.load.cpu_time import cpu_between, cpu_by_process
from bench.plan import Plan
from bench.region import BenchRegion, running_region
from bench.reports import CorpusFacts, SearchReport, environment_now
from bench.search.findings import Findings, HttpCase, LocalCase, Parts
from bench.search.gateway_metrics import SearchSums, read_search_sums
from bench.search.in_process import InProcess, Timed, in_batches, timed
from bench.search.python_client import python_client
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings

T = TypeVar("T")
_TOP_K = 10
_BATCH = 64
_CORES = 2
_TWO, _ONE = "2 shards", "1 shard"
_CORPORA = {_TWO: "factbook", _ONE: "factbook-whole"}
_QUESTIONS_MAX = 512
_LOCAL_SHARE = 0.25
"""Calls in process are so short that a quarter of the window has thousands of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """One way to cut the corpus, served and in this process."""

    name: str
    corpus: str
    local: InProcess
    embeds: bool
    """True when the region embeds texts for it."""


class _SearchBench:
    def __init__(self, plan: Plan, region: BenchRegion, load: LoadGenerator) -> None:
        self._plan = plan
        self._region = region
        self._load = load
        self._embedder = open_embedder(region.embedder(), region.installation.cache, num_cores())
        documents = factbook_documents(plan.documents_max)
        self._texts = factbook_questions(documents)[:_QUESTIONS_MAX]
        self._vectors = self._embedder.embed(self._texts)
        self._layouts = [self._layout(name) for name in _CORPORA]
        self._python_client = python_client()
        self.findings = Findings()

    def repeat(self) -> None:
        for clients in (1, 32):
            requests = [http_request("GET", "/healthz")]
            self.findings.limit(clients, self._run(requests, clients))
        for layout in self._layouts:
            locals_ = self._local(layout)
            for asked, clients, batch in _http_cases(layout):
                case = HttpCase(layout=layout.name, asked=asked, clients=clients, batch=batch)
                self._http(case, layout, locals_)
            self._parts(layout)
            took = self._timed(self._python_search(layout), in_batches(self._vectors, 1), 1)
            self.findings.python_client(layout.name, took)

    def _python_search(self, layout: _Layout) -> Callable[[Float32Array], None]:
        return lambda vector: self._python_client(vector, layout.corpus, _TOP_K)

    def _layout(self, name: str) -> _Layout:
        corpus = _CORPORA[name]
        manifest = self._region.index(corpus)
        folders = self._region.shard_folders(corpus)
        return _Layout(
            name=name,
            corpus=corpus,
            local=InProcess(manifest, folders, _TOP_K),
            embeds=manifest.embedder_fingerprint is not None,
        )

    def _local(self, layout: _Layout) -> dict[LocalCase, Timed]:
        """Everything in this process, by kind of work, threads and batch."""
        local = layout.local
        found: dict[LocalCase, Timed] = {}
        for threads in (1, _CORES):
            for batch in (1, _BATCH):
                vectors = in_batches(self._vectors, batch)
                for what, work in (
                    ("Faiss alone", local.faiss),
                    ("same answer", local.same_answer),
                ):
                    case = LocalCase(layout=layout.name, what=what, threads=threads, batch=batch)
                    found[case] = self._timed(work, vectors, threads)
            if layout.embeds:
                what = "embedding and same answer"
                case = LocalCase(layout=layout.name, what=what, threads=threads, batch=1)
                texts = [[text] for text in self._texts]
                found[case] = self._timed(
                    lambda t: local.same_answer(self._embedder.embed(t)), texts, threads
                )
        self.findings.local(found)
        return found

    def _http(self, case: HttpCase, layout: _Layout, locals_: dict[LocalCase, Timed]) -> None:
        requests = self._requests(layout.corpus, case.asked, case.batch)
        watched = case.batch == 1 and case.clients in (1, 32)
        sums = read_search_sums(self._region.gateway_urls()) if watched else None
        cpu = cpu_by_process(self._region.pids()) if watched else {}
        report = self._run(requests, case.clients)
        self.findings.http(case, report, locals_)
        if sums is not None:
            used = cpu_between(cpu, cpu_by_process(self._region.pids()))
            after = read_search_sums(self._region.gateway_urls())
            self._watched(case, report, sums, after, used)

    def _watched(
        self,
        case: HttpCase,
        report: LoadReport,
        before: SearchSums,
        after: SearchSums,
        cpu_s: dict[str, float],
    ) -> None:
        number = after.searches - before.searches
        client_s = report.client_cpu_s / len(report.latencies_s)
        by_role = {role: used / number for role, used in cpu_s.items()}
        self.findings.cpu(case, {**by_role, "load generator": client_s})
        if case.clients == 1:
            in_gateway_s, stages_s = after.means_since(before)
            self.findings.served(case, report.mean_s, in_gateway_s, stages_s)

    def _parts(self, layout: _Layout) -> None:
        """The stages of a lone query besides calls, measured in this process."""
        local, vectors = layout.local, in_batches(self._vectors, 1)
        merged = [local.merged(vector) for vector in vectors]
        texts = [[text] for text in self._texts]
        self.findings.parts(
            layout.name,
            Parts(
                model_s=self._timed(self._embedder.embed, texts, 1).mean_s,
                shard_s=self._timed(local.search_one_shard, vectors, 1).mean_s,
                faiss_s=self._timed(local.faiss_one_shard, vectors, 1).mean_s,
                texts_s=self._timed(local.fetch, merged, 1).mean_s,
            ),
        )

    def _requests(self, corpus: str, asked: str, batch: int) -> list[bytes]:
        common = {"corpus": corpus, "top_k": _TOP_K}
        bodies: Iterator[dict[str, object]]
        if asked == "text":
            bodies = ({"query": text, **common} for text in self._texts)
        elif batch == 1:
            bodies = ({"vector": vector, **common} for vector in self._vectors)
        else:
            bodies = ({"vectors": v, **common} for v in in_batches(self._vectors, batch))
        return [json_request("POST", "/v1/search", body) for body in bodies]

    def _run(self, requests: list[bytes], clients: int) -> LoadReport:
        load = Load(
            host=self._region.host,
            port=self._region.port,
            requests=requests,
            clients=clients,
            warm_up_s=self._plan.warm_up_s,
            window_s=self._plan.window_s,
        )
        return self._load.run(run_load, load)

    def _timed(self, work: Callable[[T], object], inputs: list[T], threads: int) -> Timed:
        window_s = self._plan.window_s * _LOCAL_SHARE
        return timed(work, inputs, threads=threads, window_s=window_s)


def _http_cases(layout: _Layout) -> Iterator[tuple[str, int, int]]:
    """The kind of query, the number of clients and the size of a batch of each case."""
    for clients in (1, 8, 32):
        yield "vector", clients, 1
    for clients in (1, 8):
        yield "vector", clients, _BATCH
    if layout.embeds:
        for clients in (1, 8, 32):
            yield "text", clients, 1


def measure(plan: Plan) -> SearchReport:
    """Starts a region of its own and ends it. Needs a process of its own."""
    environment = environment_now(quick=plan.quick, repetitions=plan.repetitions)
    settings = {
        _CORPORA[_TWO]: CorpusSettings(shards=2, replicas=1),
        _CORPORA[_ONE]: CorpusSettings(shards=1, replicas=1),
    }
    with running_region(settings) as region, LoadGenerator() as load:
        region.add_texts(_CORPORA[_TWO], factbook_documents(plan.documents_max))
        region.add_vectors(_CORPORA[_ONE], region.stored_vectors(_CORPORA[_TWO]))
        region.serve()
        bench = _SearchBench(plan, region, load)
        for repetition in range(plan.repetitions):
            print(f"search: repetition {repetition + 1} of {plan.repetitions}", flush=True)
            bench.repeat()
        manifest = region.index(_CORPORA[_TWO])
        parameters = manifest.parameters
        facts = CorpusFacts(
            num_passages=manifest.num_passages,
            dimension=manifest.dimension,
            index=f"{parameters.kind}, {parameters.metric}, efSearch {parameters.ef_search}",
        )
        return bench.findings.report(environment, facts)
