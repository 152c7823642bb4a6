"""Checks that answers are found beside many passages that are equal, or nearly so.

    make bench-peers
    python -m bench.serve.equal_passages [PEER...]

Sixty vectors in random directions stand beside 1,500 that are equal, or differ by a millionth, or
are ten times 150 equal ones. A question lies near each of the sixty. An answer is found when it is
among the ten that come back; it is the first of them in exact search. Every system has a graph of
the same parameters and the same length of the candidate list; what a system finds is a matter of
its index, so of Raygion a shard is built and searched, without a region. Prints a Markdown table.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.faiss_index import faiss
from actors.shards.index import ShardIndex
from bench.load.client import LoadFailed, LoadGenerator
from bench.markdown import table
from bench.peers.contract import NotMeasured
from bench.peers.systems import running
from bench.peers.vector_sets import EF_CONSTRUCTION, HNSW_M, TOP_K, SetFacts, VectorSet
from cluster.arrays import Float32Array
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.checks import normalized

PEERS = ("faiss-1", "chroma", "lancedb", "milvus-lite", "pgvector")
_KINDS = (IndexKind.HNSW, IndexKind.HNSW_SQ)
_EF_SEARCH = 128
_DIMENSION = 384
_NUM_ANSWERS = 60
_NUM_CROWD = 1500
_SETS = {"1,500 equal": (1, 0.0), "10 x 150 equal": (10, 0.0), "1,500 within 1e-6": (1, 1e-6)}
"""Number of crowds beside the answers, and distance of a crowd's vectors from its middle."""


def make_set(name: str, num_crowds: int, apart: float, folder: Path) -> VectorSet:
    """The set, as `VectorSet` says; the first of each query's ten right rows is its answer."""
    rng = np.random.default_rng(0)
    crowds = np.repeat(_directions(rng, num_crowds), _NUM_CROWD // num_crowds, axis=0)
    crowds = crowds + apart * _directions(rng, len(crowds))
    answers = _directions(rng, _NUM_ANSWERS)
    queries = normalized((answers + 0.1 * _directions(rng, _NUM_ANSWERS)).astype(np.float32))
    vectors = np.concatenate([normalized(crowds.astype(np.float32)), answers])
    vectors = vectors[rng.permutation(len(vectors))]
    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    graph = faiss.IndexHNSWFlat(vectors.shape[1], HNSW_M, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = EF_CONSTRUCTION
    graph.add(vectors)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", exact.search(queries, TOP_K)[1])
    faiss.write_index(graph, str(folder / "index.faiss"))
    facts = SetFacts(title=name, ef_search=_EF_SEARCH, recall=0.0, build_s=0.0)
    (folder / "facts.json").write_bytes(facts.to_bytes())
    return VectorSet(name=name, folder=folder)


def _directions(rng: np.random.Generator, number: int) -> Float32Array:
    """float32 [number, d], of length 1"""
    return normalized(rng.standard_normal((number, _DIMENSION), dtype=np.float32))


def answers_found(system: str, data: VectorSet) -> str:
    """How many of the set's queries find their answer. Needs a process of its own."""
    answers = np.load(data.folder / "truth.npy")[:, :1]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="rge-") as folder,
            LoadGenerator() as load,
            running(system, data, Path(folder), load) as started,
        ):
            started.set_effort(_EF_SEARCH)
            rows = started.rows(started.forms[0], data.queries)
    except (NotMeasured, LoadFailed) as error:
        return f"not measured: {error}"
    return f"{int((rows == answers).any(axis=1).sum())}"


def answers_found_in_shard(kind: IndexKind, data: VectorSet) -> str:
    """The same of a shard of Raygion, and what the build made of it if not what was asked for."""
    parameters = IndexParameters(
        kind=kind, hnsw_m=HNSW_M, ef_construction=EF_CONSTRUCTION, ef_search=_EF_SEARCH
    )
    vectors = np.array(data.vectors)
    ids = [f"{row:06}" for row in range(len(vectors))]
    rows = pa.table({"id": ids, "document": ids, "text": ids})
    answers = np.load(data.folder / "truth.npy")[:, :1]
    with tempfile.TemporaryDirectory(prefix="rge-") as folder:
        built = build_shard(rows, vectors, ShardPlan(parameters), Path(folder))
        searched = built.parameters
        index = ShardIndex.open(Path(folder), searched, vectors.shape[1])
        query = ShardQuery(corpus="", index_version="", vectors=data.queries, top_k=TOP_K)
        found = int((index.search(query).rows == answers).any(axis=1).sum())
    remarks = [f"as {built.kind}"] if built.kind is not kind else []
    remarks += [f"efSearch {searched.ef_search}"] if searched.ef_search > _EF_SEARCH else []
    return f"{found} ({', '.join(remarks)})" if remarks else f"{found}"


def main(peers: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="rge-") as scratch:
        sets = []
        for number, (name, (num_crowds, apart)) in enumerate(_SETS.items()):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            sets.append(make_set(name, num_crowds, apart, folder))
        found = [
            (f"raygion, {kind}", *(answers_found_in_shard(kind, data) for data in sets))
            for kind in _KINDS
        ]
        for system in peers:
            # Libraries read their settings once in a process.
            with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
                cells = [pool.submit(answers_found, system, data).result() for data in sets]
            found.append((system, *cells))
            print(*found[-1], flush=True)
    print(table(("system", *(f"found of {_NUM_ANSWERS} beside {one.name}" for one in sets)), found))


if __name__ == "__main__":
    main(sys.argv[1:] or PEERS)
