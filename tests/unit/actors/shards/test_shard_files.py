"""The files of a shard: mapped rather than read, and damage that never crashes the process."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.documents import DOCUMENTS_FILE
from actors.shards.index import INDEX_FILE, ShardIndex
from actors.shards.vector_rows import VECTOR_ROWS_FILE
from cluster.arrays import Float32Array
from cluster.errors import Corrupt, InvalidArgument
from cluster.query.filters import parse_filter
from cluster.query.search import SearchEffort, ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.metric import Metric

DIMENSION = 8
FILES = (INDEX_FILE, DOCUMENTS_FILE, VECTOR_ROWS_FILE)


def normal(*shape: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_shard(
    folder: Path, parameters: IndexParameters, *, num_rows: int = 200, dimension: int = DIMENSION
) -> Path:
    folder.mkdir()
    ids = [f"p{i:05}" for i in range(num_rows)]
    table = pa.table(
        {
            "id": ids,
            "document": ids,
            "text": [f"text {i}" for i in range(num_rows)],
            "meta.region": [["a", "b", None][i % 3] for i in range(num_rows)],
        }
    )
    vectors = normal(num_rows, dimension)
    vectors[::10] = vectors[:1]
    build_shard(table, vectors, ShardPlan(parameters), folder)
    return folder


def use(folder: Path, parameters: IndexParameters) -> None:
    index = ShardIndex.open(folder, parameters, DIMENSION)
    for filter in (None, parse_filter({"region": "a"})):
        for exact in (False, True):
            query = ShardQuery(
                corpus="c",
                index_version="v",
                vectors=normal(2, DIMENSION),
                top_k=7,
                filter=filter,
                effort=SearchEffort(exact=exact),
            )
            rows = index.search(query).rows[0]
            index.passages(rows[rows >= 0], ("region",))


@pytest.mark.parametrize("kind", IndexKind)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_reported_or_harmless(tmp_path: Path, kind: IndexKind, name: str) -> None:
    # Hashes are verified before a shard is opened; this is what happens if that is ever missed.
    parameters = IndexParameters(kind=kind, hnsw_m=8)
    folder = write_shard(tmp_path / "s", parameters)
    whole = (folder / name).read_bytes()
    rng = random.Random(f"{kind} {name}")
    num_reported = 0
    for attempt in range(80):
        damaged = bytearray(whole)
        # Half of the damage goes where the structure is: the start and the end.
        at = rng.choice([rng.randrange(64), -rng.randrange(1, 1000), rng.randrange(len(whole))])
        if attempt % 2:
            damaged[at] ^= 1 << rng.randrange(8)
        else:
            damaged[at : at + 8 or None] = rng.choice([b"\xff" * 8, bytes(8), rng.randbytes(8)])
        (folder / name).write_bytes(damaged[: len(whole)])
        try:
            use(folder, parameters)
        except (Corrupt, InvalidArgument):
            # A field whose name is damaged is a field that nobody knows.
            num_reported += 1
    assert num_reported > 0


@pytest.mark.parametrize("kind", IndexKind)
@pytest.mark.parametrize("name", FILES)
def test_cut_and_foreign_files_are_reported(tmp_path: Path, kind: IndexKind, name: str) -> None:
    parameters = IndexParameters(kind=kind, hnsw_m=8)
    folder = write_shard(tmp_path / "s", parameters)
    whole = (folder / name).read_bytes()
    lengths = [0, 1, 4, 25, 100, len(whole) // 2, len(whole) - 1]
    contents = [whole[:n] for n in lengths] + [whole + b"\0" * 8, bytes(len(whole)), b"x" * 5000]
    for content in contents:
        (folder / name).write_bytes(content)
        if name == DOCUMENTS_FILE and content[: len(whole)] == whole:
            continue
        with pytest.raises(Corrupt):
            ShardIndex.open(folder, parameters, DIMENSION)
    (folder / name).unlink()
    with pytest.raises(Corrupt):
        ShardIndex.open(folder, parameters, DIMENSION)


@pytest.mark.parametrize("kind", IndexKind)
def test_files_that_do_not_belong_together_are_reported(tmp_path: Path, kind: IndexKind) -> None:
    parameters = IndexParameters(kind=kind)
    folder = write_shard(tmp_path / "s", parameters)
    smaller = write_shard(tmp_path / "smaller", parameters, num_rows=199)
    wider = write_shard(tmp_path / "wider", parameters, dimension=DIMENSION + 1)
    for other in (smaller, wider):
        for name in FILES:
            if (other / name).read_bytes() == (folder / name).read_bytes():
                continue
            mixed = tmp_path / "mixed"
            shutil.copytree(folder, mixed)
            shutil.copy(other / name, mixed / name)
            with pytest.raises(Corrupt):
                ShardIndex.open(mixed, parameters, DIMENSION)
            shutil.rmtree(mixed)
    with pytest.raises(Corrupt):
        ShardIndex.open(folder, parameters, DIMENSION + 1)
    # A graph over directions compares them as L2 does.
    metrics = [] if kind.is_graph else [{"metric": Metric.L2}]
    for update in (*metrics, *({"kind": k} for k in IndexKind if k is not kind)):
        with pytest.raises(Corrupt):
            ShardIndex.open(folder, parameters.model_copy(update=update), DIMENSION)


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


@pytest.mark.parametrize("kind", IndexKind)
def test_files_are_mapped_so_that_processes_share_their_pages(
    tmp_path: Path, kind: IndexKind
) -> None:
    parameters = IndexParameters(kind=kind, ef_construction=8, nlist=4, pq_m=64)
    folder = write_shard(tmp_path / "s", parameters, num_rows=6000, dimension=1024)
    if not kind.is_quantized:
        assert (folder / INDEX_FILE).stat().st_size > 22_000_000
    before = anonymous_bytes()
    index = ShardIndex.open(folder, parameters, 1024)
    query = ShardQuery(corpus="c", index_version="v", vectors=normal(1, 1024), top_k=10)
    assert (index.search(query).rows >= 0).all()
    assert anonymous_bytes() - before < 12_000_000
    maps = Path("/proc/self/maps").read_text().splitlines()
    for name in FILES:
        modes = [line.split()[1] for line in maps if str(folder / name) in line]
        assert modes
        # What nobody may write to stays a page of the file, private mapping or not.
        assert all(mode[1] == "-" for mode in modes)
    del index
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert not [line for line in maps if str(folder) in line]
