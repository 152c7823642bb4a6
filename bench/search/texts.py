"""`/v1/search` by text against the embedder alone, in one run: `python -m bench.search.texts`.

XQuAD's questions over the demo's corpus on two shards. Each repetition measures every runtime in
this process, one question after the other on one thread and batches of like length on all cores,
and then the region with 1, 8 and 32 clients. The build of the corpus is timed, too. Prints Markdown
tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actors.models.embedder import Embedder
from actors.models.embedding_worker import num_cores
from bench.data import XQUAD_SMALL, factbook_documents, read_xquad
from bench.load.client import Load, LoadGenerator, LoadReport, json_request, run_load
from bench.load.cpu_time import cpu_between, cpu_by_process
from bench.markdown import heading, spread, table
from bench.region import BenchRegion, running_region
from bench.reports import Spread, environment_now
from bench.search.in_process import Timed, timed
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.manifests import Runtime
from deployments.hosting import pipeline

_CORPUS = "factbook"
_CLIENTS = (1, 8, 32)
_BATCH = 32
_MS = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repetition:
    alone: Mapping[Runtime, Timed]
    """One question after the other, on one thread."""
    batches: Mapping[Runtime, Timed]
    """Batches of like length, on all cores."""
    served: Mapping[int, LoadReport]
    cpu_ms: Mapping[int, Mapping[str, float]]
    """CPU time of a request in each kind of process."""

    def over_alone_ms(self, clients: int) -> float:
        alone = min(took.p50_s for took in self.alone.values())
        return (self.served[clients].latency_s(0.5) - alone) * _MS

    def share_of_best(self, clients: int) -> float:
        best = max(took.calls_per_s for took in self.batches.values()) * _BATCH
        return self.served[clients].requests_per_s / best


@dataclass(slots=True)
class _TextBench:
    region: BenchRegion
    load: LoadGenerator
    questions: Sequence[str]
    window_s: float
    repetitions: list[_Repetition] = field(default_factory=list)
    _embedders: dict[Runtime, Embedder] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.region.embedder()
        folder = self.region.installation.cache.folder_for(model.files)
        for runtime in dict.fromkeys((Runtime.TORCH, model.runtime)):
            self._embedders[runtime] = Embedder(folder, num_threads=num_cores(), runtime=runtime)

    def repeat(self) -> None:
        alone, batches = {}, {}
        by_length = sorted(self.questions, key=self._num_tokens)
        ends = range(_BATCH, len(by_length) + 1, _BATCH)
        for runtime, embedder in self._embedders.items():
            alone[runtime] = timed(
                embedder.embed,
                [[text] for text in self.questions],
                threads=1,
                window_s=self.window_s,
            )
            batches[runtime] = timed(
                embedder.embed,
                [by_length[end - _BATCH : end] for end in ends],
                threads=num_cores(),
                window_s=self.window_s,
            )
        served, cpu_ms = {}, {}
        for clients in _CLIENTS:
            before = cpu_by_process(self.region.pids())
            served[clients] = self._served(clients)
            used = cpu_between(before, cpu_by_process(self.region.pids()))
            number = len(served[clients].latencies_s)
            cpu_ms[clients] = {role: used_s / number * _MS for role, used_s in used.items()}
        self.repetitions.append(
            _Repetition(alone=alone, batches=batches, served=served, cpu_ms=cpu_ms)
        )

    def _num_tokens(self, text: str) -> int:
        (windows,) = next(iter(self._embedders.values())).windows([text])
        return len(windows)

    def _served(self, clients: int) -> LoadReport:
        bodies = ({"query": text, "corpus": _CORPUS, "top_k": 10} for text in self.questions)
        load = Load(
            host=self.region.host,
            port=self.region.port,
            requests=[json_request("POST", "/v1/search", body) for body in bodies],
            clients=clients,
            warm_up_s=0.0,
            window_s=self.window_s,
        )
        return self.load.run(run_load, load)

    def tables(self) -> str:
        runs = self.repetitions
        rows: list[Sequence[object]] = []
        for runtime in self._embedders:
            alone = [run.alone[runtime] for run in runs]
            batches = [run.batches[runtime] for run in runs]
            rows += [
                (
                    f"{runtime} alone, one question at a time, 1 thread",
                    _over([took.calls_per_s for took in alone]),
                    _over([took.p50_s * _MS for took in alone]),
                ),
                (
                    f"{runtime} alone, {_BATCH} of like length, {num_cores()} threads",
                    _over([took.calls_per_s * _BATCH for took in batches]),
                ),
            ]
        for clients in _CLIENTS:
            served = [run.served[clients] for run in runs]
            rows.append(
                (
                    f"`/v1/search` by text, clients: {clients}",
                    _over([report.requests_per_s for report in served]),
                    _over([report.latency_s(0.5) * _MS for report in served]),
                    _over([run.over_alone_ms(clients) for run in runs]),
                    _over([run.share_of_best(clients) for run in runs]),
                )
            )
        columns = ("", "questions/s", "p50 ms", "p50 over alone, ms", "÷ best alone on all cores")
        full = ((*row, *[""] * (len(columns) - len(row))) for row in rows)
        return "\n\n".join((table(columns, full), self._cpu_table()))

    def _cpu_table(self) -> str:
        cpu_ms = [run.cpu_ms for run in self.repetitions]
        roles = sorted(
            {role for by_clients in cpu_ms for used in by_clients.values() for role in used}
        )
        rows = (
            (clients, *(_over([used[clients].get(role, 0.0) for used in cpu_ms]) for role in roles))
            for clients in _CLIENTS
        )
        return table(("clients", *(f"{role}, CPU ms a request" for role in roles)), rows)


def _over(repetitions: Sequence[float]) -> str:
    return spread(Spread.of(repetitions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--window", type=float, default=4.0, help="seconds of a measurement")
    given = parser.parse_args()
    environment = environment_now(quick=False, repetitions=given.repetitions)
    documents = factbook_documents(None)
    questions = [question.text for question in read_xquad(XQUAD_SMALL).questions]
    settings = {_CORPUS: CorpusSettings(shards=2, replicas=1)}
    with running_region(settings) as region, LoadGenerator() as load:
        started_s = time.perf_counter()
        pipeline.store_embedder(region.installation)
        stored_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        region.add_texts(_CORPUS, documents)
        built_s = time.perf_counter() - started_s
        region.serve()
        bench = _TextBench(region, load, questions, given.window)
        for repetition in range(given.repetitions):
            print(f"repetition {repetition + 1} of {given.repetitions}", flush=True)
            bench.repeat()
        passages = region.index(_CORPUS).num_passages
    what = (
        f"{len(questions)} questions of XQuAD over {passages:,} passages; the embedder was "
        f"measured and stored in {stored_s:.1f} s, the corpus read, embedded and built in "
        f"{built_s:.1f} s"
    )
    print("\n\n".join((heading("Search by text", environment, what), bench.tables())))


if __name__ == "__main__":
    main()
