"""Consistent hashing is balanced and moves little."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.shards.placement import shard_of

IDS = [f"document-{n}" for n in range(20_000)]


@given(document_id=st.text(st.characters(codec="utf-8")), num_shards=st.integers(1, 1024))
def test_every_document_has_one_shard_in_range(document_id: str, num_shards: int) -> None:
    shard = shard_of(document_id, num_shards)
    assert 0 <= shard < num_shards
    assert shard == shard_of(document_id, num_shards)


@given(document_id=st.text(st.characters(codec="utf-8")), num_shards=st.integers(1, 200))
def test_a_document_moves_only_to_the_new_shard(document_id: str, num_shards: int) -> None:
    before, after = shard_of(document_id, num_shards), shard_of(document_id, num_shards + 1)
    assert after in (before, num_shards)


@pytest.mark.parametrize("num_shards", [2, 3, 8, 17])
def test_shards_are_balanced(num_shards: int) -> None:
    sizes = Counter(shard_of(document_id, num_shards) for document_id in IDS)
    fair = len(IDS) / num_shards
    assert len(sizes) == num_shards
    # Five standard deviations of a fair draw.
    assert all(abs(size - fair) < 5 * fair**0.5 for size in sizes.values())


@pytest.mark.parametrize("num_shards", [1, 2, 7])
def test_few_documents_move_when_a_shard_is_added(num_shards: int) -> None:
    moved = sum(shard_of(x, num_shards) != shard_of(x, num_shards + 1) for x in IDS)
    assert moved / len(IDS) == pytest.approx(1 / (num_shards + 1), rel=0.1)


def test_the_hash_is_the_same_in_every_process_and_version() -> None:
    # Shards that exist in stores depend on it: these numbers never change.
    assert [shard_of(x, 8) for x in ("", "a", "b", "Zürich", "日本")] == [5, 6, 0, 6, 7]
