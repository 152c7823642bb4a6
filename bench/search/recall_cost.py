"""The cost of measuring recall in strata for a build.

    python -m bench.search.recall_cost --rows 200000 --dimension 384 --kinds IVFFlat IVFSQ HNSWSQ
    HNSW

A shard of each kind is built as `raygion build` builds it, and measured once more by itself, each
in a process of its own with one thread. Times are of the CPU. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.builds.shard import ShardPlan, build_shard, measured_effort
from actors.builds.shard_recall import ShardRecall
from actors.shards.faiss_build import num_lists, train_index
from actors.shards.faiss_index import one_thread
from bench.markdown import table
from cluster.arrays import Float32Array
from cluster.shards.index_parameters import IndexKind, IndexParameters, NamedIndex
from cluster.vectors.checks import prepared
from deployments.hosting.pipeline import effort_text

_CENTRES = 2000
_NOISE = 0.6
_ROWS_PER_LIST = 64
"""Rows of the sample for each list that is trained, as in a build."""
_COLUMNS = (
    "kind",
    "training, s",
    "building the shard, s",
    "of which recall, s",
    "of both",
    "made as",
    "most memory, MiB",
)


def vectors_of(number: int, dimension: int) -> Float32Array:
    """float32 [number, d], around some centres, as the passages of some topics are."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((_CENTRES, dimension), dtype=np.float32)
    vectors = centres[rng.integers(0, _CENTRES, number)]
    vectors += np.float32(_NOISE) * rng.standard_normal((number, dimension), dtype=np.float32)
    return vectors


def measure(kind: IndexKind, num_rows: int, dimension: int) -> Sequence[object]:
    """A row of the table. Needs a process of its own, whose memory it reads."""
    parameters = NamedIndex(kind=kind).parameters
    vectors = prepared(vectors_of(num_rows, dimension), parameters.metric)
    ids = pa.array([f"{row:08}" for row in range(num_rows)])
    rows = pa.table({"id": ids, "document": ids, "text": ids})
    started_s = time.process_time()
    sample = vectors[: min(num_rows, max(1 << 16, _ROWS_PER_LIST * num_lists(num_rows, None)))]
    trained = train_index(sample, parameters, num_rows)
    trained_s = time.process_time() - started_s
    with tempfile.TemporaryDirectory(prefix="rgr-") as name:
        folder = Path(name)
        started_s = time.process_time()
        built = build_shard(rows, vectors, ShardPlan(parameters, trained=trained), folder)
        built_s = time.process_time() - started_s
        most_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        recall_s = 0.0
        if built.kind is kind:
            recall_s = _recall_s(folder, parameters, vectors)
    return (
        kind,
        f"{trained_s:,.1f}",
        f"{built_s:,.1f}",
        f"{recall_s:,.1f}",
        f"{100 * recall_s / (trained_s + built_s):.0f} %",
        f"{built.kind}, {effort_text(built.parameters)}",
        f"{most_mib:,.0f}",
    )


def _recall_s(folder: Path, parameters: IndexParameters, vectors: Float32Array) -> float:
    """The time of the measurement as `build_shard` makes it."""
    started_s = time.process_time()
    with one_thread():
        measured_effort(ShardRecall.open(folder, vectors, parameters), parameters)
    return time.process_time() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--kinds", type=IndexKind, nargs="+", default=list(IndexKind))
    given = parser.parse_args()
    # As Ray sets it for a task of one CPU, before the process of the task loads NumPy.
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    for kind in given.kinds:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            rows.append(process.submit(measure, kind, given.rows, given.dimension).result())
    print(table(_COLUMNS, rows))


if __name__ == "__main__":
    main()
