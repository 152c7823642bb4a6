"""Vectors that are known reach the processes of a build on a real Ray; nothing is embedded then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from actors.builds.earlier_vectors import EarlierVectors, KnownVectors
from actors.builds.embedding import embedded
from actors.runtime.progress import watched
from cluster.documents.passages import vectors_of
from cluster.store.object_store import open_store
from tests.support.node_cache import node_cache
from tests.support.regions.local_ray import local_ray
from tests.support.worlds.next_release_world import embedder

pytestmark = [
    pytest.mark.integration,
    # Ray's own code warns of its own deprecations.
    pytest.mark.filterwarnings("default::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("default::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
NUM_PASSAGES = 700


def test_no_model_is_needed_where_all_vectors_are_known(tmp_path: Path) -> None:
    texts = tuple(f"text {number}" for number in range(NUM_PASSAGES))
    vectors = np.random.default_rng(1).standard_normal((NUM_PASSAGES, 4)).astype(np.float32)
    cache = node_cache(open_store(str(tmp_path / "store")), tmp_path / "cache")
    counts: list[int] = []
    with local_ray():
        known = KnownVectors(live_texts=texts, live_vectors=vectors)
        earlier = EarlierVectors(cache, ray.put(known))
        passages = ray.data.from_arrow(pa.table({"text": list(texts)}))
        with watched(counts.append) as counter:
            # The store has no such model.
            made = embedded(passages, NUM_PASSAGES, embedder("a"), cache, counter, earlier)
            tables: list[pa.Table] = ray.get(made.to_arrow_refs())
    table = pa.concat_tables(tables).sort_by("text")
    order = sorted(range(NUM_PASSAGES), key=lambda row: texts[row])
    assert vectors_of(table).tobytes() == vectors[order].tobytes()
    assert counts[-1] == NUM_PASSAGES
