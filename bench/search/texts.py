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
from bench.load.client import Load, LoadGenerator, json_request, run_load
from bench.load.cpu_time import cpu_between, cpu_by_process
from bench.markdown import heading, spread, table
from bench.region import BenchRegion, running_region
from bench.reports import Spread, environment_now
from bench.search.in_process import timed
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.manifests import Runtime
from deployments.hosting import pipeline
from deployments.hosting.interrupts import end_alike

_CORPUS = "factbook"
_CLIENTS = (1, 8, 32)
_BATCH = 32
_MS = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """One way to have questions embedded, or searched."""

    questions_per_s: float
    p50_ms: float
    cpu_ms: Mapping[str, float]
    """CPU time of a question in each kind of process."""

    @property
    def all_cpu_ms(self) -> float:
        return sum(self.cpu_ms.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repetition:
    alone: Mapping[Runtime, _Measured]
    """One question after the other, on one thread."""
    batches: Mapping[Runtime, _Measured]
    """Batches of like length, on all cores."""
    served: Mapping[int, _Measured]

    def over_alone_ms(self, clients: int) -> float:
        return self.served[clients].p50_ms - min(one.p50_ms for one in self.alone.values())

    def share_of_best(self, clients: int) -> float:
        best = max(one.questions_per_s for one in self.batches.values())
        return self.served[clients].questions_per_s / best

    def cpu_share_of_best(self, clients: int) -> float:
        """The same by CPU time, of which others on the machine take none away."""
        return (
            min(one.all_cpu_ms for one in self.batches.values()) / self.served[clients].all_cpu_ms
        )


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
        by_length = sorted(self.questions, key=self._num_tokens)
        ends = range(_BATCH, len(by_length) + 1, _BATCH)
        batches = [by_length[end - _BATCH : end] for end in ends]
        singles = [[question] for question in self.questions]
        repetition = _Repetition(
            alone={of: self._alone(of, singles, 1) for of in self._embedders},
            batches={of: self._alone(of, batches, num_cores()) for of in self._embedders},
            served={clients: self._served(clients) for clients in _CLIENTS},
        )
        self.repetitions.append(repetition)

    def _alone(self, runtime: Runtime, batches: Sequence[Sequence[str]], threads: int) -> _Measured:
        embed, size = self._embedders[runtime].embed, len(batches[0])
        used_s = time.process_time()
        took = timed(embed, batches, threads=threads, window_s=self.window_s)
        used_s = time.process_time() - used_s
        return _Measured(
            questions_per_s=took.calls_per_s * size,
            p50_ms=took.p50_s * _MS,
            # A first call is not timed.
            cpu_ms={"embedder": used_s / (len(took.latencies_s) + 1) / size * _MS},
        )

    def _num_tokens(self, text: str) -> int:
        (windows,) = next(iter(self._embedders.values())).windows([text])
        return len(windows)

    def _served(self, clients: int) -> _Measured:
        bodies = ({"query": text, "corpus": _CORPUS, "top_k": 10} for text in self.questions)
        load = Load(
            host=self.region.host,
            port=self.region.port,
            requests=[json_request("POST", "/v1/search", body) for body in bodies],
            clients=clients,
            warm_up_s=0.0,
            window_s=self.window_s,
        )
        before = cpu_by_process(self.region.pids())
        report = self.load.run(run_load, load)
        used_s = cpu_between(before, cpu_by_process(self.region.pids()))
        used_s["load generator"] = report.client_cpu_s
        number = len(report.latencies_s)
        return _Measured(
            questions_per_s=report.requests_per_s,
            p50_ms=report.latency_s(0.5) * _MS,
            cpu_ms={role: role_s / number * _MS for role, role_s in used_s.items()},
        )

    def tables(self) -> str:
        runs = self.repetitions
        rows: list[Sequence[object]] = []
        for runtime in self._embedders:
            singles = [run.alone[runtime] for run in runs]
            batches = [run.batches[runtime] for run in runs]
            what = f"{runtime} alone, {_BATCH} of like length, {num_cores()} threads"
            rows += [
                (f"{runtime} alone, one at a time, 1 thread", *_figures(singles), "", "", ""),
                (what, *_figures(batches), "", "", ""),
            ]
        for clients in _CLIENTS:
            rows.append(
                (
                    f"`/v1/search` by text, clients: {clients}",
                    *_figures([run.served[clients] for run in runs]),
                    _over([run.over_alone_ms(clients) for run in runs]),
                    _over([run.share_of_best(clients) for run in runs]),
                    _over([run.cpu_share_of_best(clients) for run in runs]),
                )
            )
        columns = (
            "",
            "questions/s",
            "p50 ms of a call",
            "CPU ms a question",
            "p50 over alone, ms",
            "÷ best alone on all cores",
            "the same by CPU",
        )
        return "\n\n".join((table(columns, rows), self._cpu_table()))

    def _cpu_table(self) -> str:
        served = [run.served for run in self.repetitions]
        roles = sorted({role for run in served for one in run.values() for role in one.cpu_ms})
        rows = (
            (n, *(_over([run[n].cpu_ms.get(role, 0.0) for run in served]) for role in roles))
            for n in _CLIENTS
        )
        return table(("clients", *(f"{role}, CPU ms" for role in roles)), rows)


def _figures(measured: Sequence[_Measured]) -> Sequence[str]:
    return (
        _over([one.questions_per_s for one in measured]),
        _over([one.p50_ms for one in measured]),
        _over([one.all_cpu_ms for one in measured]),
    )


def _over(repetitions: Sequence[float]) -> str:
    return spread(Spread.of(repetitions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--documents", type=int, help="of the demo's corpus; all by default")
    parser.add_argument("--window", type=float, default=4.0, help="seconds of a measurement")
    given = parser.parse_args()
    end_alike()
    environment = environment_now(quick=False, repetitions=given.repetitions)
    documents = factbook_documents(given.documents)
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
