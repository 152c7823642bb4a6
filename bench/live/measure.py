"""Live documents: how soon a write is found, and what writes cost those who search beside them.

One region on this machine. Two corpora whose documents bring vectors (made up, unit length, 384
numbers), of which one is only for deltas of known sizes, and a corpus of texts that the region
embeds. Every write waits until it is visible, so the latency of a write is the time from sending it
to its being found in all gateways.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from bench.data import factbook_documents
from bench.load.client import Load, LoadGenerator, LoadReport, json_request, run_load
from bench.load.paced import Pace, PacedLoad, PacedReport, run_paced
from bench.plan import Plan
from bench.region import BenchRegion, StoredVectors, running_region
from bench.reports import LiveCost, LiveReport, Spread, environment_now
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings

_VECTORS, _TEXTS, _GROWING = "vectors", "texts", "growing"
_DIMENSION = 384
_SEARCHES_PER_S = 500.0
_WRITES_PER_S = 200.0
_TEXT_WRITES_PER_S = 20.0
_WINDOW_MIN_S = 2.0
_QUICK_SHARE = 0.1
"""Share of these rates in a run that is only to show that everything runs."""
_BULK = 1000
_BULK_CLIENTS = 2
_MS = 1e3


def measure(plan: Plan) -> LiveReport:
    environment = environment_now(quick=plan.quick, repetitions=plan.serve_repetitions)
    rows = plan.documents_max or 20_000
    texts = factbook_documents(plan.documents_max or 2000)
    corpora = (_VECTORS, _TEXTS, _GROWING)
    settings = {name: CorpusSettings(shards=2, replicas=1) for name in corpora}
    with running_region(settings) as region, LoadGenerator() as load:
        for corpus in (_VECTORS, _GROWING):
            region.add_vectors(corpus, _made_up(rows))
        region.add_texts(_TEXTS, texts)
        region.serve()
        bench = _LiveBench(region, load, plan, [str(one["text"]) for one in texts])
        costs = [*bench.beside_writes(), *bench.bulk(), *bench.over_deltas()]
    return LiveReport(
        environment=environment,
        num_rows=rows,
        dimension=_DIMENSION,
        costs=tuple(costs),
    )


class _LiveBench:
    def __init__(
        self, region: BenchRegion, load: LoadGenerator, plan: Plan, texts: Sequence[str]
    ) -> None:
        self._region = region
        self._load = load
        self._plan = plan
        self._texts = texts
        self._window_s = max(plan.window_s, _WINDOW_MIN_S)
        self._share = _QUICK_SHARE if plan.quick else 1.0
        self._numbers = itertools.count()
        self._rng = np.random.default_rng(11)
        self._queries = _unit(self._rng, 64)
        self._searches = self._searches_of(_VECTORS)

    def beside_writes(self) -> Iterator[LiveCost]:
        """Searches alone, and beside writes of both kinds."""
        searches_per_s = self._share * _SEARCHES_PER_S
        search = Pace(requests=self._searches, per_s=searches_per_s)
        quiet = [self._paced({"search": search}) for _ in range(self._plan.serve_repetitions)]
        yield _cost("searches alone", "search", quiet, searches_per_s)
        writes = {
            "ready vectors": (self._share * _WRITES_PER_S, self._vector_writes),
            "a paragraph to embed": (self._share * _TEXT_WRITES_PER_S, self._text_writes),
        }
        for what, (per_s, make) in writes.items():
            runs = [
                self._paced({"search": search, "write": Pace(requests=make(per_s), per_s=per_s)})
                for _ in range(self._plan.serve_repetitions)
            ]
            yield _cost(f"writes until visible, {what}", "write", runs, per_s)
            beside = _cost(f"searches beside them, {what}", "search", runs, searches_per_s)
            ratios = [
                run["search"].latency_s(0.99) / alone["search"].latency_s(0.99)
                for run, alone in zip(runs, quiet, strict=True)
            ]
            yield beside.model_copy(update={"ratio": Spread.of(ratios)})

    def bulk(self) -> Iterator[LiveCost]:
        """Documents a second, a thousand in a request, each client its own documents."""
        vectors = _unit(self._rng, _BULK)
        requests = [
            _put(_VECTORS, [_document(f"bulk-{client}-{n}", v) for n, v in enumerate(vectors)])
            for client in range(_BULK_CLIENTS)
        ]
        runs = [self._closed(requests, _BULK_CLIENTS) for _ in range(self._plan.serve_repetitions)]
        yield LiveCost(
            what=f"documents a second, {_BULK} in a request, {_BULK_CLIENTS} clients",
            per_s=Spread.over(runs, lambda run: run.requests_per_s * _BULK),
            p50_ms=Spread.over(runs, lambda run: run.latency_s(0.5) * _MS),
            p99_ms=Spread.over(runs, lambda run: run.latency_s(0.99) * _MS),
        )

    def over_deltas(self) -> Iterator[LiveCost]:
        """One client's searches over deltas that grow, against those of the base alone.

        The base is searched by the release's number with `documents: "base"`.
        """
        of_base = self._searches_of(_GROWING, release=1, documents="base")
        of_all = self._searches_of(_GROWING)
        num_rows = 0
        for size in (1_000, 10_000) if self._plan.quick else (1_000, 10_000, 50_000):
            self._grow(num_rows, size)
            num_rows = size
            ratios, found = [], []
            for _ in range(self._plan.serve_repetitions):
                base, live = self._closed(of_base, 1), self._closed(of_all, 1)
                found.append(live)
                ratios.append(live.latency_s(0.5) / base.latency_s(0.5))
            yield LiveCost(
                what=f"searches over a delta of {size:,} rows, 1 client",
                per_s=Spread.over(found, lambda run: run.requests_per_s),
                p50_ms=Spread.over(found, lambda run: run.latency_s(0.5) * _MS),
                p99_ms=Spread.over(found, lambda run: run.latency_s(0.99) * _MS),
                ratio=Spread.of(ratios),
            )

    def _grow(self, num_rows: int, size: int) -> None:
        """Writes documents until the delta, which has `num_rows` rows, has `size`."""
        for start in range(num_rows, size, _BULK):
            vectors = _unit(self._rng, min(_BULK, size - start))
            documents = [_document(f"grown-{start + n}", v) for n, v in enumerate(vectors)]
            self._load.run(
                run_once, self._region.host, self._region.port, _put(_GROWING, documents)
            )

    def _searches_of(self, corpus: str, **asked: object) -> list[bytes]:
        return [
            json_request(
                "POST", "/v1/search", {"vector": query, "corpus": corpus, "top_k": 10, **asked}
            )
            for query in self._queries
        ]

    def _vector_writes(self, per_s: float) -> list[bytes]:
        number = self._number(per_s)
        vectors = _unit(self._rng, number)
        return [
            _put(_VECTORS, [_document(f"live-{next(self._numbers) % 5000}", vector)])
            for vector in vectors
        ]

    def _text_writes(self, per_s: float) -> list[bytes]:
        texts = itertools.islice(itertools.cycle(self._texts), self._number(per_s))
        return [
            _put(_TEXTS, [{"id": f"live-{next(self._numbers) % 500}", "text": text[:1000]}])
            for text in texts
        ]

    def _number(self, per_s: float) -> int:
        return int((self._plan.warm_up_s + self._window_s) * per_s) + 1

    def _paced(self, paces: dict[str, Pace]) -> dict[str, PacedReport]:
        load = PacedLoad(
            host=self._region.host,
            port=self._region.port,
            paces=paces,
            warm_up_s=self._plan.warm_up_s,
            window_s=self._window_s,
        )
        return self._load.run(run_paced, load)

    def _closed(self, requests: Sequence[bytes], clients: int) -> LoadReport:
        load = Load(
            host=self._region.host,
            port=self._region.port,
            requests=requests,
            clients=clients,
            warm_up_s=self._plan.warm_up_s,
            window_s=self._window_s,
        )
        return self._load.run(run_load, load)


def run_once(host: str, port: int, request: bytes) -> None:
    """Sends one request and waits for its reply. Raises LoadFailed when it is refused."""
    once = Pace(requests=[request], per_s=1.0)
    run_paced(PacedLoad(host=host, port=port, paces={"": once}, warm_up_s=0.0, window_s=1.0))


def _cost(what: str, kind: str, runs: Sequence[dict[str, PacedReport]], per_s: float) -> LiveCost:
    return LiveCost(
        what=what,
        per_s=Spread.of([per_s]),
        p50_ms=Spread.over(runs, lambda run: run[kind].latency_s(0.5) * _MS),
        p99_ms=Spread.over(runs, lambda run: run[kind].latency_s(0.99) * _MS),
    )


def _put(corpus: str, documents: Sequence[dict[str, object]]) -> bytes:
    body = {"corpus": corpus, "documents": documents, "wait": "visible"}
    return json_request("PUT", "/v1/documents", body)


def _document(id: str, vector: Float32Array) -> dict[str, object]:
    return {"id": id, "text": f"document {id}", "vector": vector}


def _made_up(rows: int) -> StoredVectors:
    ids = [f"base-{n:06}" for n in range(rows)]
    vectors = _unit(np.random.default_rng(7), rows)
    return StoredVectors(ids=ids, texts=[f"document {id}" for id in ids], vectors=vectors)


def _unit(rng: np.random.Generator, rows: int) -> Float32Array:
    """float32 [rows, 384] of length 1, in clusters as embeddings are."""
    centres = rng.standard_normal((50, _DIMENSION), dtype=np.float32)
    vectors = centres[rng.integers(len(centres), size=rows)]
    vectors = vectors + 0.7 * rng.standard_normal(vectors.shape, dtype=np.float32)
    unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
