from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.query.search import MergedHits, ShardHits
from cluster.shards.merge import merge_hits, padding

Line = list[tuple[float, bytes, int]]


def hits_of(lines: list[Line], width: int) -> ShardHits:
    """Sorted and padded, as a shard answers."""
    hits = padding(len(lines), width)
    ids = hits.ids.astype("S12")
    for i, line in enumerate(lines):
        for j, (score, id, row) in enumerate(sorted(line, key=lambda h: (-h[0], h[1]))[:width]):
            hits.scores[i, j], ids[i, j], hits.rows[i, j] = score, id, row
    return ShardHits(scores=hits.scores, rows=hits.rows, ids=ids)


def as_lists(merged: MergedHits) -> list[list[tuple[float, bytes, int, int]]]:
    columns = (merged.scores, merged.ids, merged.rows, merged.shards)
    return [
        list(zip(*line, strict=True)) for line in zip(*(c.tolist() for c in columns), strict=True)
    ]


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[list[Line]], int, int]:
    """Hits of each shard and query, few scores and so many ties; `width` is what shards cut to."""
    num_shards, num_queries = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    top_k = draw(st.integers(1, 12))
    width = draw(st.sampled_from([top_k, top_k + 3]))
    rng = random.Random(draw(st.integers(0, 2**32)))
    shards = []
    for shard in range(num_shards):
        lines = []
        for _ in range(num_queries):
            numbers = rng.sample(range(1000), rng.randrange(0, 15))
            line = [
                (float(rng.randrange(-2, 3)), f"{n:0{rng.choice([3, 6])}}-{shard}".encode(), n)
                for n in numbers
            ]
            lines.append(line)
        shards.append(lines)
    return shards, top_k, width


@given(answers(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_merge_is_sorting_everything(
    case: tuple[list[list[Line]], int, int], shuffler: random.Random
) -> None:
    shards, top_k, width = case
    parts = [(shard, hits_of(lines, width)) for shard, lines in enumerate(shards)]
    merged = as_lists(merge_hits(parts, top_k))
    for i, line in enumerate(merged):
        all_hits = [(*hit, shard) for shard, lines in enumerate(shards) for hit in lines[i]]
        expected = sorted(all_hits, key=lambda hit: (-hit[0], hit[1]))[:top_k]
        missing = top_k - len(expected)
        assert line == expected + [(float("-inf"), b"", -1, -1)] * missing

    shuffler.shuffle(parts)
    assert as_lists(merge_hits(parts, top_k)) == merged


def test_types_and_shapes() -> None:
    merged = merge_hits([(3, hits_of([[(1.0, b"a", 0)], []], 4))], 2)
    assert merged.scores.dtype == np.float32
    assert merged.rows.dtype == np.int64
    assert merged.shards.dtype == np.int32
    assert merged.scores.shape == merged.rows.shape == merged.ids.shape == merged.shards.shape
    assert as_lists(merged) == [
        [(1.0, b"a", 0, 3), (float("-inf"), b"", -1, -1)],
        [(float("-inf"), b"", -1, -1)] * 2,
    ]


@pytest.mark.parametrize("top_k", [1, 5])
def test_no_part_at_all(top_k: int) -> None:
    assert merge_hits([], top_k).scores.shape == (0, top_k)


def test_shards_without_hits_merge_to_padding() -> None:
    merged = merge_hits([(0, padding(2, 3)), (1, padding(2, 3))], 5)
    assert (merged.rows == -1).all()
    assert (merged.shards == -1).all()
    assert (merged.ids == b"").all()
    assert np.isneginf(merged.scores).all()
