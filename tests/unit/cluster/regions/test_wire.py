"""What one region sends another one, and what comes back, bit for bit."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from cluster import errors
from cluster.clock import Deadline
from cluster.query.answers import AnswerEvent, AnswerRequest, last_event
from cluster.query.caller import Caller, Location
from cluster.query.filters import parse_filter
from cluster.query.read_consistency import read_consistency_of
from cluster.query.request import Embedded
from cluster.query.search import (
    Hit,
    MergedHits,
    SearchEffort,
    SearchRequest,
    SearchResult,
)
from cluster.query.session import SessionToken
from cluster.query.terms import Terms
from cluster.regions.quorum import vote_of
from tests.support.worlds.fake_service import DIMENSION, FakeService
from tests.support.worlds.region_servers import peers_of, serving, settings_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SEARCH = SearchRequest(queries=("tea",), trace_id=TRACE)
AWKWARD = [0.1, 1 / 3, 1e-38, 3.4028235e38, -0.0, 0.30000001192092896, 1.1754944e-38, 5e-45]
"""As float32: what decimal notation is known to get wrong."""


class Nothing(FakeService):
    """Finds hits for the first `found` queries, and none for the others."""

    def __init__(self, found: int) -> None:
        super().__init__()
        self.found = found

    async def search(self, request: SearchRequest) -> SearchResult:
        made = await super().search(request)
        shape = (len(request.queries or ()), 2)
        arrays = MergedHits(
            scores=np.full(shape, -np.inf, dtype=np.float32),
            rows=np.full(shape, -1, dtype=np.int64),
            ids=np.zeros(shape, dtype="S1"),
            shards=np.full(shape, -1, dtype=np.int32),
        )
        arrays.scores[: self.found, 0] = 0.5
        arrays.rows[: self.found, 0] = 4
        arrays.ids[: self.found, 0] = b"a"
        fell_back = tuple(number % 2 == 0 for number in range(shape[0]))
        return replace(made, results=(), arrays=arrays, fell_back=fell_back)


class Scores(FakeService):
    """Finds hits with given scores."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = np.array(scores, dtype=np.float32)

    async def search(self, request: SearchRequest) -> SearchResult:
        found = await super().search(request)
        if request.passages:
            hits = tuple(
                Hit(
                    id=f"p{i}",
                    score=score.item(),
                    text="caf\u00e9\u2028\u0085\n",
                    metadata={"n": i},
                )
                for i, score in enumerate(self.scores)
            )
            return replace(found, results=(hits,), fell_back=(True,))
        arrays = MergedHits(
            scores=self.scores[np.newaxis],
            rows=np.arange(len(self.scores))[np.newaxis],
            ids=np.array([[f"p{i}".encode() for i in range(len(self.scores))]]),
            shards=np.zeros((1, len(self.scores)), dtype=np.int32),
        )
        return replace(found, arrays=arrays)


def bits(scores: Any) -> bytes:
    return np.asarray(scores, dtype=np.float32).tobytes()


async def test_scores_come_back_bit_for_bit() -> None:
    service = Scores(AWKWARD)
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        found = await peers.search("there", SEARCH, Deadline.after(5.0))
        assert bits([hit.score for hit in found.hits]) == bits(AWKWARD)
        doubles = [struct.pack("d", hit.score) for hit in found.hits]
        assert doubles == [struct.pack("d", score) for score in service.scores.astype(float)]
        assert found.hits[0].text == "caf\u00e9\u2028\u0085\n"
        assert found.hits[3].metadata == {"n": 3}
        assert found.fell_back == (True,)
        binary = await peers.search("there", replace(SEARCH, passages=False), Deadline.after(5.0))
        assert binary.arrays is not None
        assert bits(binary.arrays.scores) == bits(AWKWARD)
        assert binary.arrays.ids[0].tolist() == [f"p{i}".encode() for i in range(len(AWKWARD))]
    for result in (found, binary):
        assert (result.release, result.region, result.served_by) == (7, "north", "south")
        assert (result.staleness_ms, result.session, result.trace_id) == (140, "a-token", TRACE)


@pytest.mark.parametrize(("queries", "found"), [(1, 0), (3, 0), (3, 1), (3, 3)])
async def test_searches_that_find_nothing_are_told_too(queries: int, found: int) -> None:
    service = Nothing(found)
    asked = SearchRequest(queries=("tea",) * queries, passages=False)
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        there = await peers.search("there", asked, Deadline.after(5.0))
    here = await service.search(asked)
    assert there.arrays is not None
    assert len(there.arrays.rows) == queries
    assert there.fell_back == here.fell_back
    assert vote_of(there) == vote_of(here)


async def test_vectors_arrive_bit_for_bit_in_rows_and_flat() -> None:
    service = FakeService()
    some = np.random.default_rng(5).integers(0, 2**32, 3000, dtype=np.uint32).view(np.float32)
    vectors = np.concatenate([np.array(AWKWARD, dtype=np.float32), some[np.isfinite(some)]])
    vectors = vectors[: 600 * DIMENSION]
    rows = vectors.reshape(-1, DIMENSION)
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        for given in (rows, vectors):
            for passages in (True, False):
                asked = SearchRequest(vectors=given, passages=passages)
                found = await peers.search("there", asked, Deadline.after(5.0))
                assert len(found.results or found.arrays.ids) == len(rows)  # type: ignore[union-attr]
                got = service.searches[-1].vectors
                assert got is not None
                assert got.shape == given.shape
                assert got.tobytes() == given.tobytes()


async def test_vectors_that_go_along_with_texts_arrive_bit_for_bit() -> None:
    service = FakeService()
    vectors = np.array([AWKWARD, AWKWARD[::-1]], dtype=np.float32)
    asked = SearchRequest(
        queries=("tea", "salt"), embedded=Embedded(model="0af7651916cd43dd", vectors=vectors)
    )
    one = Embedded(model="0af7651916cd43dd", vectors=vectors[:1])
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        await peers.search("there", asked, Deadline.after(5.0))
        question = AnswerRequest(question="Who grows tea?", embedded=one)
        await last_event(peers.answer_events("there", question, Deadline.after(5.0)))
    (got,), (got_question,) = service.searches, service.answers
    assert got.queries == asked.queries
    for received, sent in ((got.embedded, vectors), (got_question.embedded, vectors[:1])):
        assert received is not None
        assert received.model == "0af7651916cd43dd"
        assert received.vectors.shape == sent.shape
        assert received.vectors.tobytes() == sent.tobytes()
    assert got_question.retrieval().embedded is got_question.embedded


@pytest.mark.parametrize("title", ["Iceland", None])
async def test_a_citation_keeps_its_title(title: str | None) -> None:
    service = FakeService()
    service.citation = replace(service.citation, title=title)
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        question = AnswerRequest(question="Who grows tea?")
        answer = await last_event(peers.answer_events("there", question, Deadline.after(5.0)))
    assert answer.citations == (service.citation,)


class Older(FakeService):
    """Of a version that does not know the fields `embedded` and `documents`."""

    async def search(self, request: SearchRequest) -> SearchResult:
        self.check(request)
        return await super().search(request)

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        self.check(request)
        async for event in super().answer_events(request):
            yield event

    def check(self, request: SearchRequest | AnswerRequest) -> None:
        for field in ("embedded", "documents"):
            if getattr(request, field) is not None:
                raise errors.InvalidArgument("is not known; known: corpus, queries", field)


async def test_a_region_without_live_documents_is_asked_for_a_release_as_it_always_was() -> None:
    asked = replace(SEARCH, release=3, documents="base")
    service = Older()
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        assert (await peers.search("there", asked, Deadline.after(5.0))).hits
        with pytest.raises(errors.InvalidArgument):
            await peers.search("there", replace(asked, release=None), Deadline.after(5.0))
    assert [(got.release, got.documents) for got in service.searches] == [(3, None)]


async def test_a_region_that_does_not_know_of_such_vectors_is_sent_the_texts_alone() -> None:
    vectors = np.ones((1, DIMENSION), np.float32)
    asked = replace(SEARCH, embedded=Embedded(model="m", vectors=vectors))
    service = Older()
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        assert (await peers.search("there", asked, Deadline.after(5.0))).hits
        question = AnswerRequest(question="Who grows tea?", embedded=asked.embedded)
        events = peers.answer_events("there", question, Deadline.after(5.0))
        assert (await last_event(events)).answer
    (got,), (got_question,) = service.searches, service.answers
    assert (got.queries, got.embedded) == (SEARCH.queries, None)
    assert (got_question.question, got_question.embedded) == (question.question, None)


async def test_rows_of_another_length_than_the_indexs_are_refused_and_not_cut_anew() -> None:
    service = FakeService()
    asked = SearchRequest(vectors=np.ones((1, 2 * DIMENSION), np.float32))
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        with pytest.raises(errors.InvalidArgument, match=f"must have {DIMENSION} numbers"):
            await peers.search("there", asked, Deadline.after(5.0))


async def test_what_does_not_fit_into_a_url_is_no_fault_of_the_region() -> None:
    service = FakeService()
    long = parse_filter({"region": {"in": [f"{n:0100}" for n in range(900)]}})
    flat = np.ones(DIMENSION, np.float32)
    asked = SearchRequest(vectors=flat, filter=long)
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        for _ in range(4):
            with pytest.raises(errors.TooLarge):
                await peers.search("there", asked, Deadline.after(5.0))
        in_rows = replace(asked, vectors=flat[np.newaxis], fields=("a,b",))
        await peers.search("there", in_rows, Deadline.after(5.0))
    (got,) = service.searches
    assert (got.filter, got.fields) == (long, ("a,b",))


OPTIONS: dict[str, Any] = {
    "corpus": "factbook",
    "top_k": 17,
    "filter": parse_filter({"and": [{"region": {"in": ["a&b", None]}}, {"year": {"gte": 2000}}]}),
    "fields": ("region", "year"),
    "min_coverage": 0.25,
    "effort": SearchEffort(ef_search=40, nprobe=3, exact=True),
    "user": "caf\u00e9 & co",
    "trace_id": TRACE,
}
DEMAND = read_consistency_of("strong", SessionToken("store", 12).encode(), None)


PINNED = read_consistency_of(None, SessionToken("store", 12).encode(), None, release=9)


def test_the_options_below_are_all_that_a_request_has() -> None:
    tried = OPTIONS.keys() | {"timeout_s", "release", "documents", "consistency"}
    assert {term.name for term in fields(Terms)} - tried == set()


@pytest.mark.parametrize(
    "how",
    [
        {"release": 9},
        {"release": 9, "documents": "base"},
        {"consistency": DEMAND},
        {"release": 9, "consistency": PINNED},
        {"fields": ()},
    ],
)
@pytest.mark.parametrize("binary", [True, False])
async def test_a_search_arrives_as_it_was_asked(how: dict[str, Any], binary: bool) -> None:
    service = FakeService()
    options = OPTIONS | how
    if binary:
        asked = SearchRequest(vectors=np.ones((1, DIMENSION), np.float32), **options)
    else:
        asked = SearchRequest(queries=("tea", "salt"), **options)
    sent = replace(asked, caller=Caller(location=Location(latitude=1, longitude=2)))
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        await peers.search("there", sent, Deadline.after(20.0))
    (got,) = service.searches
    # Where the caller is has been made use of; the time is what was left of it.
    assert 5.0 < got.timeout_s <= 20.0
    assert got.forwarded_by == "here"
    empty = {"vectors": None, "timeout_s": 1.0, "forwarded_by": ""}
    assert replace(got, **empty) == replace(asked, **empty)
