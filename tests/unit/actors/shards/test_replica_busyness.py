"""What a replica tells of its work, by which more of them are started."""

from __future__ import annotations

import threading
from typing import cast

import numpy as np

from actors.shards.hidden_documents import HiddenDocuments
from actors.shards.index import ShardIndex
from actors.shards.opened_index import OpenedIndex
from cluster.query.search import ShardHits, ShardQuery
from cluster.shards.index_parameters import IndexParameters
from tests.support.fakes import SimClock

QUERY = ShardQuery(corpus="c", index_version="v", vectors=np.zeros((0, 2), np.float32), top_k=1)


class SlowIndex:
    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def search(self, query: ShardQuery) -> ShardHits:
        self.begun.set()
        assert self.may_end.wait(10)
        return cast(ShardHits, None)


def test_searches_side_by_side_are_all_work_before_they_end() -> None:
    slow, brief = SlowIndex(), SlowIndex()
    brief.may_end.set()
    shard = cast(ShardIndex, slow)
    clock = SimClock()
    opened = OpenedIndex(
        shard, shard, (), IndexParameters(), HiddenDocuments(), now_s=clock.monotonic_s
    )
    searching = threading.Thread(target=opened.search, args=(QUERY,))
    searching.start()
    assert slow.begun.wait(10)
    clock.sleep(2.0)
    # As a search on the event loop, while a thread has another one under way.
    opened.index = cast(ShardIndex, brief)
    opened.search(QUERY)
    assert (opened.busy_s, opened.spent_s()) == (0.0, 2.0)
    clock.sleep(1.0)
    assert opened.spent_s() == 3.0
    slow.may_end.set()
    searching.join()
    assert opened.spent_s() == opened.busy_s == 3.0


def test_a_long_search_is_work_before_it_ends() -> None:
    index = SlowIndex()
    shard = cast(ShardIndex, index)
    clock = SimClock()
    opened = OpenedIndex(
        shard, shard, (), IndexParameters(), HiddenDocuments(), now_s=clock.monotonic_s
    )
    searching = threading.Thread(target=opened.search, args=(QUERY,))
    searching.start()
    assert index.begun.wait(10)
    clock.sleep(2.0)
    assert (opened.busy_s, opened.spent_s()) == (0.0, 2.0)
    clock.sleep(1.0)
    index.may_end.set()
    searching.join()
    assert opened.spent_s() == opened.busy_s == 3.0
