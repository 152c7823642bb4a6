"""The query engine between a region's view and its shards: what is pinned, checked and asked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from actors.query.engine import QueryEngine
from actors.query.release_uses import ReleaseUses
from cluster.arrays import Float32Array
from cluster.canary.counts import OutcomeCounts, Work
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.embedding.embedders import CountedVectors
from cluster.errors import InvalidArgument, NotFound, Unavailable
from cluster.generation.prompt import PromptTemplate
from cluster.logs.context import bound_context, log_scope
from cluster.metadata import ColumnType
from cluster.query.filters import parse_filter
from cluster.query.request import Embedded
from cluster.query.search import SearchRequest
from cluster.releases.entries import Switch
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.view import CorpusView, RegionView, ReleaseView
from cluster.shards.partitions import shards_to_ask
from cluster.vectors.metric import Metric
from tests.support.worlds.fake_shards import DIMENSION, QUERIES, SHARDS, FakeShard, kind_of

CORPUS = CorpusView(
    corpus="c",
    index_version="v",
    dimension=DIMENSION,
    metric=Metric.INNER_PRODUCT,
    metadata_schema={"country": ColumnType.STRING},
    has_embedder=False,
    num_passages=60,
    recall_at_10=1.0,
    shards=(("a",), ("b",), ("c",)),
)
REQUEST = SearchRequest(vectors=QUERIES[:2], top_k=3, trace_id="t")


def view_of(corpus: CorpusView, *, switched: tuple[int, ...] = (1,)) -> RegionView:
    releases = {
        number: ReleaseView(
            number=number,
            corpora={"c": corpus},
            embedders=(),
            generator=None,
            prompt=PromptTemplate(),
        )
        for number in (1, 2)
    }
    switches = tuple(
        Switch(release=number, at_ms=0, position=position)
        for position, number in enumerate(switched, 1)
    )
    return RegionView(region="here", releases=releases, switches=switches)


@dataclass
class Region:
    """What an engine sees of a region, with shards that are told apart by their ids."""

    view: RegionView
    shards: list[FakeShard]
    uses: ReleaseUses = field(default_factory=ReleaseUses)
    outcomes: OutcomeCounts = field(default_factory=lambda: OutcomeCounts("here", SYSTEM_CLOCK))
    embedders: Embedders = field(default_factory=lambda: Embedders())

    def engine(self) -> QueryEngine:
        routes = kind_of(self.shards).shards
        views = SimpleNamespace(
            view=self.view,
            knowledge=RegionKnowledge(self.view, skew_max_ms=100),
        )
        return QueryEngine(
            views=cast(Any, views),
            uses=self.uses,
            outcomes=self.outcomes,
            replica_sets=cast(
                Any,
                SimpleNamespace(
                    shards=lambda _: routes,
                    embedders=lambda _: self.embedders,
                    follow=lambda _: None,
                ),
            ),
            answering=cast(Any, SimpleNamespace(follow=lambda _: None)),
            clock=SYSTEM_CLOCK,
        )


@pytest.fixture
def region() -> Region:
    return Region(view_of(CORPUS), [FakeShard(number) for number in range(SHARDS)])


async def test_every_answer_names_its_release_and_where_its_time_went(region: Region) -> None:
    found = await region.engine().search(REQUEST)
    assert (found.release, found.region, found.coverage, found.trace_id) == (1, "here", 1.0, "t")
    assert [len(hits) for hits in found.results] == [3, 3]
    assert {"embed", "wait", "scatter", "merge", "fetch"} == found.timings_ms.keys()


class Embedders:
    """The embedders of a release: all texts get the first of `QUERIES`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def embed(self, texts: tuple[str, ...], deadline: Deadline) -> Float32Array:
        self.asked.append(texts)
        return np.repeat(QUERIES[:1], len(texts), axis=0)

    async def embed_counted(self, texts: tuple[str, ...], deadline: Deadline) -> CountedVectors:
        vectors = await self.embed(texts, deadline)
        return CountedVectors(vectors=vectors, num_tokens=10 * len(texts))


TEXTS = SearchRequest(queries=("tea", "salt"), top_k=3, trace_id="t")


@pytest.fixture
def of_texts(region: Region) -> Region:
    view = view_of(replace(CORPUS, has_embedder=True))
    releases = {
        n: replace(release, embedder="m", embedding_dimension=DIMENSION)
        for n, release in view.releases.items()
    }
    region.view = replace(view, releases=releases)
    return region


async def test_texts_are_embedded_for_other_regions_as_for_a_search(of_texts: Region) -> None:
    engine = of_texts.engine()
    made = await engine.embedded(TEXTS)
    assert made.embedded is not None
    assert (made.queries, made.embedded.model) == (TEXTS.queries, "m")
    assert made.embedded.vectors.tobytes() == np.repeat(QUERIES[:1], 2, axis=0).tobytes()
    assert await engine.embedded(REQUEST) is REQUEST
    with pytest.raises(InvalidArgument, match="empty"):
        await engine.embedded(replace(TEXTS, queries=("",)))


async def test_callers_get_the_vectors_that_a_search_looks_for(of_texts: Region) -> None:
    engine = of_texts.engine()
    made = await engine.embed(TEXTS)
    assert (made.release, made.region, made.trace_id, made.coverage) == (1, "here", "t", 1.0)
    assert (made.embedded.model, made.num_tokens) == ("m", 20)
    along = await engine.embedded(TEXTS)
    assert along.embedded is not None
    assert made.embedded.vectors.tobytes() == along.embedded.vectors.tobytes()
    (named,) = of_texts.view.releases[1].corpora
    assert (await engine.embed(replace(TEXTS, corpus=named))).num_tokens == 20


async def test_vectors_of_another_length_are_refused_before_any_is_made(of_texts: Region) -> None:
    engine = of_texts.engine()
    with pytest.raises(InvalidArgument, match=f"other than as {DIMENSION}") as refused:
        await engine.embed(TEXTS, DIMENSION + 1)
    assert (refused.value.field, of_texts.embedders.asked) == ("dimensions", [])
    assert (await engine.embed(TEXTS, DIMENSION)).num_tokens == 20


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"corpus": "nowhere"}, "corpus"),
        ({"queries": ()}, "queries"),
        ({"queries": (" ",)}, "query"),
        ({"queries": ("a" * 8193,)}, "query"),
        ({"timeout_s": 0.0}, "timeout_ms"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_name(
    of_texts: Region, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await of_texts.engine().embed(replace(TEXTS, **changes))
    assert refused.value.field == field
    assert of_texts.embedders.asked == []


async def test_a_release_without_an_embedder_embeds_nothing(region: Region) -> None:
    with pytest.raises(InvalidArgument, match="no embedder"):
        await region.engine().embed(TEXTS)
    # Of several corpora, one may have brought its own vectors.
    releases = {n: replace(r, embedder="m") for n, r in region.view.releases.items()}
    region.view = replace(region.view, releases=releases)
    with pytest.raises(InvalidArgument, match="brought its own vectors"):
        await region.engine().embed(replace(TEXTS, corpus="c"))


async def test_vectors_that_came_along_are_used_by_a_release_of_their_embedder(
    of_texts: Region,
) -> None:
    engine = of_texts.engine()
    by_vectors = await engine.search(REQUEST)
    along = replace(TEXTS, embedded=Embedded(model="m", vectors=QUERIES[:2]))
    assert (await engine.search(along)).results == by_vectors.results
    assert of_texts.embedders.asked == []
    of_another = replace(along, embedded=Embedded(model="other", vectors=QUERIES[:2, :1]))
    found = await engine.search(of_another)
    assert found.results[0] == found.results[1] == by_vectors.results[0]
    assert of_texts.embedders.asked == [TEXTS.queries]


@pytest.mark.parametrize("vectors", [QUERIES[:1], QUERIES[:2, :1], QUERIES[:2] * np.inf])
async def test_vectors_that_came_along_must_fit(of_texts: Region, vectors: Float32Array) -> None:
    wrong = replace(TEXTS, embedded=Embedded(model="m", vectors=vectors))
    with pytest.raises(InvalidArgument, match=r"^embedded\.vectors"):
        await of_texts.engine().search(wrong)


async def test_the_newest_switch_is_current_and_another_release_may_be_named(
    region: Region,
) -> None:
    region.view = view_of(CORPUS, switched=(1, 2))
    engine = region.engine()
    assert (await engine.search(REQUEST)).release == 2
    assert (await engine.search(replace(REQUEST, release=1))).release == 1
    with pytest.raises(NotFound, match="release 3"):
        await engine.search(replace(REQUEST, release=3))


async def test_the_log_knows_the_release_that_a_request_is_pinned_to(region: Region) -> None:
    region.view = view_of(CORPUS, switched=(1, 2))
    with log_scope(trace_id="t"):
        await region.engine().search(REQUEST)
        assert bound_context() == {"trace_id": "t", "release": 2}
        await region.engine().search(replace(REQUEST, release=1))
        assert bound_context() == {"trace_id": "t", "release": 1}
    assert bound_context() == {}


async def test_a_release_is_in_use_as_long_as_a_request_is_pinned_to_it(region: Region) -> None:
    region.shards[1].gate.clear()
    searching = asyncio.create_task(region.engine().search(REQUEST))
    await asyncio.sleep(0)
    assert region.uses.releases() == {1}
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    assert not region.uses.releases()


@pytest.mark.parametrize(("named", "counted"), [(None, 1), (1, 0)])
async def test_beside_a_canary_requests_count_that_name_no_release(
    region: Region, named: int | None, counted: int
) -> None:
    region.outcomes.follow(2)
    await region.engine().search(replace(REQUEST, release=named))
    report = region.outcomes.take()
    ended = 0 if report is None else report.ended.current.ended[Work.SEARCH]
    assert ended == counted


async def test_nothing_wrong_reaches_a_shard(region: Region) -> None:
    wrong = np.ones((1, DIMENSION + 1), dtype=np.float32)
    for request in (replace(REQUEST, vectors=wrong), replace(REQUEST, corpus="other")):
        with pytest.raises(InvalidArgument):
            await region.engine().search(request)
    assert [shard.batches for shard in region.shards] == [[], [], []]


async def test_flat_vectors_are_a_batch(region: Region) -> None:
    flat = replace(REQUEST, vectors=QUERIES[:2].reshape(-1))
    found = await region.engine().search(flat)
    assert found.results == (await region.engine().search(REQUEST)).results


async def test_a_filter_that_names_its_partition_asks_the_one_shard_that_has_it(
    region: Region,
) -> None:
    region.view = view_of(replace(CORPUS, partition_by="country"))
    filter = parse_filter({"country": "iceland"})
    (wanted,) = shards_to_ask(filter, "country", SHARDS)
    found = await region.engine().search(replace(REQUEST, filter=filter))
    assert [len(shard.batches) for shard in region.shards] == [
        int(number == wanted) for number in range(SHARDS)
    ]
    assert {hit.id[0] for hits in found.results for hit in hits} == {str(wanted)}
    assert {hit.text for hits in found.results for hit in hits} == {
        f"text {hit.id}" for hits in found.results for hit in hits
    }
    assert found.coverage == 1.0


async def test_too_little_coverage_is_an_error(region: Region) -> None:
    region.shards[2].error = Unavailable("down")
    with pytest.raises(Unavailable, match="coverage"):
        await region.engine().search(REQUEST)
    found = await region.engine().search(replace(REQUEST, min_coverage=0.5))
    assert found.coverage == pytest.approx(2 / 3)


async def test_shards_that_may_be_missing_are_waited_for_as_long_as_the_request_says(
    region: Region,
) -> None:
    region.shards[1].gate.clear()
    lenient = replace(REQUEST, timeout_s=600.0, min_coverage=0.5, partial_share=0.0001)
    assert (await region.engine().search(lenient)).coverage == pytest.approx(2 / 3)
