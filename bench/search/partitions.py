"""The cost of 10,000 partitions in one shard: `python -m bench.search.partitions [FOLDER]`.

100,000 random vectors of 384 numbers in 10,000 partitions whose sizes fall off as those of cities
do, one Flat shard, opened and searched in a process of its own. Then, for partitions of several
sizes, a scan of the rows against an HNSW of their own. Prints Markdown tables.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.faiss_build import write_index
from actors.shards.faiss_index import FaissIndex, one_thread
from actors.shards.index import ShardIndex
from cluster.arrays import Float32Array, Int64Array
from cluster.query.filters import Compare, Comparison
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric
from cluster.vectors.scoring import best, scan, score_rows

ROWS, DIMENSION, PARTITIONS = 100_000, 384, 10_000
FLAT = IndexParameters(kind=IndexKind.FLAT, metric=Metric.COSINE)
HNSW = IndexParameters(kind=IndexKind.HNSW, metric=Metric.COSINE)
LINES = (
    "open, ms",
    "RSS / PSS / anonymous when open, MB",
    "after 2,000 partitions, MB",
    "first search of a partition, us (median / p99)",
    "search of one not asked for lately",
    "search of the same one again",
)
SIZES = (1000, 2000, 4000, 8000, 16_000)


def make_vectors() -> Float32Array:
    """Vectors around 300 centres, as the passages of a few hundred topics are."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((300, DIMENSION), dtype=np.float32)
    vectors = centres[rng.integers(0, 300, ROWS)]
    vectors += np.float32(0.8) * rng.standard_normal((ROWS, DIMENSION), dtype=np.float32)
    return prepared(vectors, Metric.COSINE)


def make_cities() -> list[str]:
    shares = 1.0 / (np.arange(PARTITIONS) + 10.0)
    drawn = np.random.default_rng(1).choice(PARTITIONS, ROWS, p=shares / shares.sum())
    drawn[:PARTITIONS] = np.arange(PARTITIONS)
    return [f"city {city}" for city in drawn.tolist()]


def write_shard(vectors: Float32Array, folder: Path, partition_by: str | None) -> None:
    folder.mkdir()
    ids = pa.array([f"{row:06}" for row in range(len(vectors))])
    names = pa.array(make_cities()[: len(vectors)])
    table = pa.table({"id": ids, "document": ids, "text": ids, "meta.city": names})
    build_shard(table, vectors, ShardPlan(FLAT, partition_by=partition_by), folder)


def memory_bytes() -> Int64Array:
    """int64 [3]: RSS, PSS and anonymous memory of this process."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    kinds = ("Rss", "Pss", "Anonymous")
    return np.array([int(rollup.partition(f"{k}:")[2].split()[0]) for k in kinds]) * 1024


def timed_us(work: Callable[[int], object], times: int) -> Float32Array:
    took = np.empty(times, dtype=np.float32)
    for number in range(times):
        started_s = time.perf_counter()
        work(number)
        took[number] = 1e6 * (time.perf_counter() - started_s)
    return took


def measure(folder: Path, queries: Float32Array) -> list[str]:
    """One column of the first table."""
    # Whatever a process loads once, with another shard.
    warm = ShardIndex.open(folder.parent / "few", FLAT, DIMENSION)
    warm.search(ShardQuery(corpus="", index_version="", vectors=queries[:1], top_k=10))
    before = memory_bytes()
    started_s = time.perf_counter()
    index = ShardIndex.open(folder, FLAT, DIMENSION)
    opened_ms = 1e3 * (time.perf_counter() - started_s)
    when_open = memory_bytes() - before

    def search(city: int) -> None:
        filter = Compare("city", Comparison.EQ, f"city {city}")
        vectors = queries[city % len(queries)][None]
        index.search(
            ShardQuery(corpus="", index_version="", vectors=vectors, top_k=10, filter=filter)
        )

    with one_thread():
        search(0)
        # Far more than are remembered, so that each is looked up anew.
        order = np.random.default_rng(2).permutation(PARTITIONS)[:2000].tolist()
        times = [timed_us(lambda i: search(order[i]), len(order)) for _ in range(2)]
        times.append(timed_us(lambda _: search(5), 500))
    sizes = (" / ".join(f"{x / 1e6:.1f}" for x in m) for m in (when_open, memory_bytes() - before))
    medians = [f"{np.median(x):.0f} / {np.quantile(x, 0.99):.0f}" for x in times]
    return [f"{opened_ms:.1f}", *sizes, *medians]


def compare_sizes(vectors: Float32Array, queries: Float32Array, folder: Path) -> None:
    print("\n| rows | scan, us | scan in batches of 32, us | own HNSW, us | its build, s |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        rows = np.sort(np.random.default_rng(3).choice(ROWS, size, replace=False)).astype(np.int64)
        with one_thread():
            started_s = time.perf_counter()
            path = folder / "own"
            write_index(vectors[rows], HNSW, path)
            built_s = time.perf_counter() - started_s
            size_bytes = path.stat().st_size
            index = FaissIndex.open(path, HNSW, DIMENSION, size_bytes=size_bytes, num_vectors=size)

            def scanned(i: int, rows: Int64Array = rows) -> object:
                return scan(queries[i][None], vectors, rows, 10, Metric.COSINE, 1.0)

            def walked(i: int, rows: Int64Array = rows, index: FaissIndex = index) -> object:
                query = queries[i][None]
                found = rows[index.search(query, 14)[1]]
                return best(score_rows(query, vectors, found, Metric.COSINE), found, 10)

            started_s = time.perf_counter()
            scan(queries[:32], vectors, rows, 10, Metric.COSINE, 1.0)
            batch_us = 1e6 * (time.perf_counter() - started_s) / 32
            one, own = (float(np.median(timed_us(work, 60))) for work in (scanned, walked))
        print(f"| {size} | {one:.0f} | {batch_us:.0f} | {own:.0f} | {built_s:.1f} |", flush=True)


def main(folder: Path) -> None:
    vectors = make_vectors()
    queries = prepared(vectors[:64] + np.float32(0.02), Metric.COSINE)
    write_shard(vectors[:10], folder / "few", "city")
    columns = []
    for name, partition_by in (("plain", None), ("parted", "city")):
        write_shard(vectors, folder / name, partition_by)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            columns.append(process.submit(measure, folder / name, queries).result())
    print(
        f"| {PARTITIONS} values, {ROWS} x {DIMENSION} | filter only | partitions |\n|---|---|---|"
    )
    for line in zip(LINES, *columns, strict=True):
        print("| " + " | ".join(line) + " |", flush=True)
    compare_sizes(vectors, queries, folder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as scratch:
        main(Path(scratch))
