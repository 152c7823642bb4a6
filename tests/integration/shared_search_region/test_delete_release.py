"""Deleted documents, from the command to the answer: no build, a release of the same files, and
nobody finds them but who asks for the release before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.documents.source_files import find_source_files
from actors.runtime import names
from cluster.arrays import Float32Array
from cluster.catalog.manifests import IndexManifest, ManifestRef
from cluster.query.search import ShardQuery
from cluster.releases.entries import ReleaseContents
from cluster.releases.requests import ProposeRelease
from tests.support.regions.search_region import (
    CORPUS,
    DIMENSION,
    REGION,
    REPLICAS,
    SHARDS,
    TOP_K,
    Load,
    SearchRegion,
    Vectors,
    replica_status,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
RAYGION = str(Path(sys.executable).with_name("raygion"))
NUM_DOCUMENTS = 300
WHOLE, LESS = "c", "d"
ALL_REPLICAS = [names.replica(CORPUS, s, r) for s in range(SHARDS) for r in range(REPLICAS)]


def id_of(number: int) -> str:
    return f"c-{number:03}"


def expected(queries: Float32Array, documents: Float32Array, gone: Sequence[int]) -> Vectors:
    scores = queries @ (documents / np.linalg.norm(documents, axis=1, keepdims=True)).T
    scores[:, list(gone)] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :TOP_K]
    return Vectors("c", documents, tuple(tuple(id_of(n) for n in row) for row in best.tolist()))


def write(path: Path, documents: Float32Array, numbers: range) -> str:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(documents[numbers].ravel()), DIMENSION)
    ids = [id_of(number) for number in numbers]
    odd = [number % 2 for number in numbers]
    pq.write_table(pa.table({"id": ids, "text": ids, "vector": vectors, "odd": odd}), path)
    return str(path)


def delete(region: SearchRegion, folder: Path, numbers: Sequence[int], *more: str) -> Any:
    """By the command itself."""
    file = folder / "ids.txt"
    file.write_text("".join(f"{id_of(number)}\n" for number in numbers))
    store = region.installation.settings.store.url
    command = [RAYGION, "delete", CORPUS, *more, "--from", str(file), "--store", store, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=folder, check=True
    )
    return json.loads(done.stdout)


def propose(region: SearchRegion, ref: ManifestRef) -> int:
    contents = ReleaseContents(indexes={CORPUS: ref})
    number = region.request(ProposeRelease(contents=contents, targets=(REGION,), auto_commit=True))
    region.coordinator("wait_until_serving", number, 120.0)
    return number


def found_by(region: SearchRegion, client: httpx.Client, **options: object) -> set[str]:
    replies = [region.search(client, n, **options) for n in range(len(region.queries))]
    assert [reply.error for reply in replies if reply.error] == []
    return {id for reply in replies for id in reply.ids}


def test_what_is_deleted_is_found_in_the_release_before_and_nowhere_else(
    region: SearchRegion, tmp_path: Path
) -> None:
    documents = np.random.default_rng(11).standard_normal((NUM_DOCUMENTS, DIMENSION))
    documents = documents.astype(np.float32)
    whole = expected(region.queries, documents, ())
    gone = sorted({int(ids[0].removeprefix("c-")) for ids in whole.expected})
    gone_ids = {id_of(number) for number in gone}
    # Two files are two parts; the second is deleted wholly before all is built anew.
    sources = [
        write(tmp_path / "1.parquet", documents, range(260)),
        write(tmp_path / "2.parquet", documents, range(260, NUM_DOCUMENTS)),
    ]
    region.run(ingest, sources[:1], True)
    region.run(ingest, sources[1:], False)
    base, ref = region.run(build)
    assert base.num_documents == NUM_DOCUMENTS
    less_expected = expected(region.queries, documents, gone)
    region.vectors = {**region.vectors, WHOLE: whole, LESS: less_expected}
    region.contents[WHOLE] = ReleaseContents(indexes={CORPUS: ref})
    before = propose(region, ref)

    told = delete(region, tmp_path, gone, "nobody")
    assert told["deleted"] == len(gone)
    assert told["unknown"] == ["nobody"]
    assert told["num_documents"] == NUM_DOCUMENTS - len(gone)
    started_s = time.monotonic()
    less, ref = region.run(build)
    print(f"\nbuilt without {len(gone)} documents in {time.monotonic() - started_s:.1f} s")
    assert (less.base, base.base) == (base.version, None)
    assert (less.num_documents, less.num_passages) == (told["num_documents"],) * 2
    assert less.recall_at_10 == 1.0
    assert [s.built_files for s in less.shards] == [s.files for s in base.shards]
    assert region.run(build) == (less, ref)
    assert region.run(newest_version) == less.version

    region.contents[LESS] = ReleaseContents(indexes={CORPUS: ref})
    with Load(region) as load:
        after = propose(region, ref)
        load.go_on()
    assert load.verdict("deleted documents under load") == ([], [])

    with region.client() as client:
        odd = {"odd": 1}
        assert found_by(region, client) & gone_ids == set()
        assert found_by(region, client, filter=odd, top_k=50) & gone_ids == set()
        assert found_by(region, client, recall="exact") & gone_ids == set()
        assert found_by(region, client, release=before) >= gone_ids
        assert found_by(region, client, release=before, filter=odd) & gone_ids != set()
        # The gateway alone.
        pids = [region.run(replica_status, name).pid for name in ALL_REPLICAS]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert found_by(region, client, release=after) & gone_ids == set()
            assert found_by(region, client, release=before) >= gone_ids
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    # Each replica by itself.
    for name in ALL_REPLICAS:
        ids = region.run(ids_in_replica, name, less.version, region.queries)
        assert ids & gone_ids == set()
        assert region.run(ids_in_replica, name, base.version, region.queries) & gone_ids != set()

    wait_until(region.is_whole, "a whole region")
    # More than half is gone, all of one part with it: built anew, without them.
    delete(region, tmp_path, range(100, NUM_DOCUMENTS))
    anew, _ = region.run(build)
    left = NUM_DOCUMENTS - len({*gone, *range(100, NUM_DOCUMENTS)})
    assert (anew.base, anew.num_documents) == (None, left)
    assert sum(shard.num_rows for shard in anew.shards) == left
    # The files again, and the corpus is what it was: so is its index.
    for source in sources:
        region.run(ingest, [source], False)
    assert region.run(build)[0] == base
    assert region.run(newest_version) == base.version


# What runs in the driver's process.


def ingest(sources: list[str], replace: bool) -> None:
    from deployments.hosting import pipeline
    from tests.support.regions import search_region

    (installation,) = search_region._joined
    listing = find_source_files(sources)
    pipeline.ingest_documents(installation, CORPUS, listing, replace=replace)


def build() -> tuple[IndexManifest, ManifestRef]:
    from deployments.hosting import pipeline
    from tests.support.regions import search_region

    built = pipeline.build(search_region._joined[0], CORPUS, None)
    return built.manifest, built.ref


def newest_version() -> str:
    """What `release propose` would take."""
    from deployments.hosting import pipeline
    from tests.support.regions import search_region

    contents = pipeline.contents_of_next(search_region._joined[0])
    return contents.indexes[CORPUS].version


def ids_in_replica(name: str, version: str, queries: Float32Array) -> set[str]:
    import ray

    from actors.runtime.calls import NAMESPACE

    query = ShardQuery(corpus=CORPUS, index_version=version, vectors=queries, top_k=50)
    hits = ray.get(ray.get_actor(name, namespace=NAMESPACE).search.remote(query, 30.0))
    return {id.decode() for id in hits.ids.ravel().tolist()}
