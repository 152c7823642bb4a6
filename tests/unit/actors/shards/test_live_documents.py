"""A base and a delta together are one index of the documents that there are, at every version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.shards.index import ShardIndex
from cluster.deltas.delta import Delta, DeltaView
from cluster.deltas.hidden_rows import HiddenRows, hiding_changes
from cluster.deltas.space import Space
from cluster.mutations.mutation import Content
from cluster.query.filters import parse_filter
from cluster.query.search import MergedHits, Passages, ShardQuery
from cluster.shards.merge import merge_hits, padding
from cluster.shards.placement import shard_of
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric
from tests.support.values.changing_documents import (
    DIMENSION,
    EMBEDDER,
    NAMES,
    SCHEMA,
    Documents,
    Step,
    after,
    changes_of,
    content_of,
    flat_index,
    steps,
)

SPACE = Space(EMBEDDER, DIMENSION)
SHARDS = 2
FILTERS = (
    None,
    {"region": "x"},
    {"region": None},
    {"not": {"region": {"in": ["y", None]}}},
    {"year": {"gt": 2000}},
    {"or": [{"year": 2000}, {"region": "y"}]},
)
QUERIES = np.array([[1, 0.5, -1], [0, 0, 0], [0.5, 0.5, 0.5]], dtype=np.float32)


class Base:
    """Shards of an index, and which of their rows are hidden."""

    def __init__(self, documents: Documents, metric: Metric, folder: Path) -> None:
        self.shards: list[ShardIndex] = []
        for number in range(SHARDS):
            own = {id: c for id, c in documents.items() if shard_of(id, SHARDS) == number}
            if any(content.vectors is not None for content in own.values()):
                self.shards.append(flat_index(own, metric, folder / str(number)))
        self.hidden = [HiddenRows(s.num_rows, s.rows_of_document) for s in self.shards]

    def live_at(self, version: int) -> list[ShardIndex]:
        masks = [hidden.live_at(version, SPACE) for hidden in self.hidden]
        pairs = zip(self.shards, masks, strict=True)
        return [shard if live is None else shard.among(live) for shard, live in pairs]


def live_hits(base: Base, view: DeltaView, query: ShardQuery) -> MergedHits:
    parts = [(n, shard.search(query)) for n, shard in enumerate(base.live_at(view.version))]
    return merge_hits([*parts, (SHARDS, view.search(query, SCHEMA))], query.top_k)


def passages_of(base: Base, view: DeltaView, hits: MergedHits) -> list[Passages]:
    found = []
    for shard, row in zip(hits.shards.ravel(), hits.rows.ravel(), strict=True):
        rows = np.array([row])
        if shard == SHARDS:
            found.append(view.passages(rows, None, SCHEMA))
        elif row >= 0:
            found.append(base.shards[shard].passages(rows, None))
    return found


@given(
    steps(least=2),
    st.lists(steps(), min_size=1, max_size=5),
    st.sampled_from(Metric),
    st.sampled_from([1, 2, 30]),
    st.sampled_from(FILTERS),
    st.integers(1, 3),
)
@settings(max_examples=100)
def test_base_and_delta_answer_as_one_index_of_the_documents_at_each_version(
    tmp_path_factory: pytest.TempPathFactory,
    first: Step,
    later: Sequence[Step],
    metric: Metric,
    top_k: int,
    condition: object,
    jump: int,
) -> None:
    folder = tmp_path_factory.mktemp("live")
    documents = after({}, first)
    base, delta = Base(documents, metric, folder / "base"), Delta(SPACE, metric)
    delta.take(changes_of({}, after=0, version=0, since={}))
    query = ShardQuery(
        corpus="c",
        index_version="v",
        vectors=prepared(QUERIES, metric),
        top_k=top_k,
        filter=None if condition is None else parse_filter(condition),
    )
    since: dict[str, int] = {}
    seen: list[tuple[DeltaView, Documents]] = []
    # Shards that are searched for others come past several versions at once.
    jumped: dict[str, Content | None] = {}
    for version, step in enumerate(later, start=1):
        since = dict.fromkeys(step, version) | since
        delta.take(changes_of(step, after=version - 1, version=version, since=since))
        documents = after(documents, step)
        assert delta.view is not None
        seen.append((delta.view, documents))
        jumped |= step
        if version % jump == 0 or version == len(later):
            start = version - 1 - (version - 1) % jump
            changes = changes_of(jumped, after=start, version=version, since=since)
            for hidden in base.hidden:
                hidden.take(hiding_changes(changes), version)
            jumped = {}
    for number, (view, now) in enumerate(seen):
        hits = live_hits(base, view, query)
        if not any(content.vectors is not None for content in now.values()):
            assert hits.ids.tolist() == padding(len(QUERIES), top_k).ids.tolist()
            continue
        whole = flat_index(now, metric, folder / f"whole {number}")
        expected = whole.search(query)
        assert hits.ids.tolist() == expected.ids.tolist()
        assert hits.scores.tobytes() == expected.scores.tobytes()
        found = expected.rows[expected.rows >= 0]
        told = whole.passages(found, None)
        each = passages_of(base, view, hits)
        assert [text for one in each for text in one.texts] == list(told.texts)
        assert repr([m for one in each for m in one.metadata]) == repr([*told.metadata])


def test_a_document_is_found_among_those_named_like_its_passages(tmp_path: Path) -> None:
    documents = {name: content_of([[1, 0, 0]] * (1 + n % 3)) for n, name in enumerate(NAMES)}
    index = flat_index(documents, Metric.INNER_PRODUCT, tmp_path / "index")
    rows = {name: index.rows_of_document(name) for name in NAMES}
    assert {name: len(rows[name]) for name in NAMES} == {n: 1 + i % 3 for i, n in enumerate(NAMES)}
    assert sorted(row for each in rows.values() for row in each) == list(range(index.num_rows))
    assert index.rows_of_document("a#") == index.rows_of_document("zzz") == []
