"""Writes and reads of documents between the callers of a region and its documents actor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from ray.exceptions import RayActorError

from actors.regions.region_documents import RegionDocuments
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.deltas.changes import Changes
from cluster.deltas.document_service import Acknowledgement, WriteRequest
from cluster.documents.documents import Document
from cluster.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    NotYet,
    OutcomeUnknown,
    Unavailable,
)
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content, Mutation
from cluster.mutations.region_writer import Outcome, Written
from cluster.mutations.requests import DocumentWrite
from cluster.mutations.watermark import Watermark
from cluster.query.session import SessionToken
from cluster.serving.view import CorpusView
from cluster.vectors.metric import Metric
from tests.support.worlds.known_releases import STORE, known

TIME = HybridTime(1_700_000_000_000, 0, "a")
CORPUS = CorpusView(
    corpus="tickets",
    index_version="v1",
    dimension=2,
    metric=Metric.COSINE,
    metadata_schema={},
    has_embedder=True,
    num_passages=1,
    recall_at_10=1.0,
    shards=(),
)
WRITE = DocumentWrite(id="T-1", text="text", metadata={})


def written(position: int, region: str = "a", *, repeated: bool = False) -> Written:
    return Written(version=replace(TIME, region=region), position=position, is_repeated=repeated)


@dataclass
class Region:
    """A region of release 1, whose actor answers by `answers`."""

    answers: dict[str, Callable[..., Any]] = field(default_factory=dict)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    base: dict[str, Document] = field(default_factory=dict)
    held: Watermark = field(default_factory=Watermark)
    """What the index holds of the logs."""
    applied: list[bool] = field(default_factory=list)
    applied_error: NotYet | None = None

    async def call(self, method: str, *args: object) -> Any:
        self.calls.append((method, *args))
        answer = self.answers[method](*args)
        return await answer if isinstance(answer, Awaitable) else answer

    async def await_applied(
        self, corpus: str, watermark: Watermark, deadline: Deadline, *, everywhere: bool
    ) -> None:
        self.applied.append(everywhere)
        if self.applied_error is not None:
            raise self.applied_error

    def documents(self) -> RegionDocuments:
        knowledge = known((3, 1, 500), resident=(1,))
        release = replace(
            knowledge.view.releases[1], corpora={"tickets": CORPUS}, embedder="m1", embedders=("e",)
        )
        knowledge = replace(knowledge, view=replace(knowledge.view, releases={1: release}))
        base = SimpleNamespace(
            find=lambda corpus, version, id: self.base.get(id),
            watermark=lambda corpus, version: self.held,
        )
        return RegionDocuments(
            region="a",
            views=cast(Any, SimpleNamespace(knowledge=knowledge)),
            documents=self,
            base=cast(Any, base),
            applied=self,
            clock=SYSTEM_CLOCK,
        )


def writing(*outcomes: Outcome, **answers: Callable[..., Any]) -> Region:
    return Region({"write": lambda *_: outcomes, "await_visible": lambda *_: None, **answers})


def request(wait: str = "durable", timeout_s: float = 5.0, count: int = 1) -> WriteRequest:
    return WriteRequest(
        corpus="tickets",
        writes=(WRITE,) * count,
        wait=Acknowledgement(wait),
        timeout_s=timeout_s,
        trace_id="t",
    )


async def test_the_token_of_a_write_has_all_that_is_written() -> None:
    refused = Conflict("has another version")
    region = writing(written(4), refused, written(6), written(2, "b", repeated=True))

    result = await region.documents().write(request(count=4))

    assert result.outcomes == (written(4), refused, written(6), written(2, "b", repeated=True))
    assert (result.acknowledged, result.unmet) == (Acknowledgement.DURABLE, None)
    assert (result.region, result.trace_id) == ("a", "t")
    token = SessionToken.decode(result.session)
    assert (token.store_id, token.position) == (STORE, 3)
    assert token.documents == {"tickets": Watermark.of({"a": 6, "b": 2})}
    assert [method for method, *_ in region.calls] == ["write"]


async def test_where_nothing_is_written_nothing_is_waited_for() -> None:
    region = writing(Conflict("has another version"))

    result = await region.documents().write(request("all"))

    assert SessionToken.decode(result.session).documents == {}
    assert [method for method, *_ in region.calls] == ["write"]
    assert region.applied == []


@pytest.mark.parametrize(
    ("wait", "everywhere"), [("visible", []), ("quorum", [False]), ("all", [True])]
)
async def test_a_write_is_waited_for_as_far_as_is_asked(wait: str, everywhere: list[bool]) -> None:
    region = writing(written(4))

    result = await region.documents().write(request(wait))

    assert (result.acknowledged, result.unmet) == (Acknowledgement(wait), None)
    assert region.calls[1][:3] == ("await_visible", "tickets", Watermark.of({"a": 4}))
    assert region.applied == everywhere


async def test_what_is_not_met_in_time_is_told_beside_what_is_written() -> None:
    def not_yet(*_: object) -> None:
        raise NotYet("a process lags behind")

    invisible = writing(written(4), await_visible=not_yet)
    result = await invisible.documents().write(request("all"))
    assert (result.acknowledged, type(result.unmet)) == (Acknowledgement.DURABLE, NotYet)
    assert result.outcomes == (written(4),)

    alone = writing(written(4))
    alone.applied_error = NotYet("region b does not answer")
    result = await alone.documents().write(request("quorum"))
    assert (result.acknowledged, type(result.unmet)) == (Acknowledgement.VISIBLE, NotYet)


async def test_what_is_wrong_with_a_document_stands_in_its_place() -> None:
    region = writing(written(4), written(5))
    wrong = InvalidArgument("must be a string, not missing", "text")

    result = await region.documents().write(replace(request(), writes=(WRITE, wrong, WRITE)))
    nothing = await region.documents().write(replace(request(), writes=(wrong,)))

    assert result.outcomes == (written(4), wrong, written(5))
    assert region.calls[0][2] == (WRITE, WRITE)
    assert nothing.outcomes == (wrong,)
    assert len(region.calls) == 1
    with pytest.raises(InvalidArgument, match="not missing"):
        nothing.check()


async def test_a_corpus_that_is_not_here_is_refused_before_the_actor_is_asked() -> None:
    region = writing(written(1))
    with pytest.raises(InvalidArgument, match="there is no corpus 'other'"):
        await region.documents().write(replace(request(), corpus="other"))
    assert region.calls == []


async def test_a_write_whose_actor_is_lost_has_no_known_end() -> None:
    def lost(*_: object) -> None:
        raise Unavailable("documents does not answer") from RayActorError()

    def refused(*_: object) -> None:
        raise Unavailable("the region is starting")

    with pytest.raises(OutcomeUnknown):
        await writing(write=lost).documents().write(request())
    with pytest.raises(Unavailable, match="starting"):
        await writing(write=refused).documents().write(request())


def content(text: str, embedder: str | None = "m1") -> Content:
    vectors = np.ones((1, 2), dtype=np.float32)
    cuts = ((0, len(text)),)
    return Content(text=text, metadata={"n": 1}, cuts=cuts, vectors=vectors, embedder=embedder)


def versions(*contents: Content | None) -> Callable[..., Any]:
    mutations = tuple(Mutation(document="T-1", time=TIME, content=one) for one in contents)
    return lambda *_: mutations


async def test_a_document_is_the_one_that_was_written_last() -> None:
    region = Region({"document": versions(content("new"))}, base={"T-1": base("old")})
    found = await region.documents().document("tickets", "T-1", 5.0, "t")
    assert (found.text, found.version, found.num_passages) == ("new", TIME, 1)
    assert (found.metadata, found.is_embedded, found.trace_id) == ({"n": 1}, True, "t")

    other = Region({"document": versions(content("new", embedder="m0"))})
    assert not (await other.documents().document("tickets", "T-1", 5.0)).is_embedded


def base(text: str) -> Document:
    return Document(id="T-1", text=text, metadata={"n": 0})


async def test_a_document_that_nobody_has_written_is_as_it_was_built() -> None:
    region = Region({"document": versions()}, base={"T-1": base("old")})
    found = await region.documents().document("tickets", "T-1", 5.0)
    assert (found.text, found.metadata, found.version) == ("old", {"n": 0}, None)
    assert (found.num_passages, found.is_embedded) == (None, True)


async def test_a_deleted_document_is_not_looked_for_in_the_index() -> None:
    region = Region({"document": versions(None)}, base={"T-1": base("old")})
    with pytest.raises(NotFound, match="T-1"):
        await region.documents().document("tickets", "T-1", 5.0)
    with pytest.raises(NotFound, match="T-2"):
        await Region({"document": versions()}).documents().document("tickets", "T-2", 5.0)


async def test_a_document_has_its_time() -> None:
    region = Region({"document": lambda *_: asyncio.Event().wait()})
    with pytest.raises(DeadlineExceeded):
        await region.documents().document("tickets", "T-1", 0.01)


def changes(epoch: str = "e", **positions: int) -> Changes:
    return Changes(
        epoch=epoch, after=0, version=1, watermark=Watermark.of(positions), read_ms=1, changes=()
    )


async def test_a_feed_goes_on_from_where_it_is_and_never_back() -> None:
    # The actor begins anew after the first reply.
    replies = iter([changes(a=5, b=1), changes(a=2), changes(a=6)])
    region = Region({"feed": lambda *_: next(replies)})

    feed = region.documents().changes("tickets", Watermark.of({"a": 4}))
    found = [(await anext(feed)).watermark for _ in range(3)]
    await cast(AsyncGenerator[Changes, None], feed).aclose()

    assert found == [Watermark.of(each) for each in ({"a": 5, "b": 1},) * 2 + ({"a": 6, "b": 1},)]
    assert [after for _, _, after, _ in region.calls] == [Watermark.of({"a": 4}), *found[:2]]
    # The first reply comes at once, so that a reader knows that it is heard.
    assert [poll_s for *_, poll_s in region.calls] == [0.0, 10.0, 10.0]


async def test_a_reader_is_told_when_changes_that_it_lacks_are_in_the_index_alone() -> None:
    region = Region({"feed": lambda *_: changes(a=9)}, held=Watermark.of({"a": 5}))
    documents = region.documents()

    for after in (Watermark(), Watermark.of({"a": 5}), Watermark.of({"a": 7, "b": 1})):
        assert (await anext(documents.changes("tickets", after))).watermark["a"] == 9
    with pytest.raises(NotFound, match="behind a:4 are kept"):
        await anext(documents.changes("tickets", Watermark.of({"a": 4})))


async def test_a_compaction_while_a_reader_lags_behind_is_told() -> None:
    replies = iter([changes(a=4), changes("e2", a=9)])
    region = Region({"feed": lambda *_: next(replies)})
    feed = region.documents().changes("tickets", Watermark.of({"a": 3}))

    assert (await anext(feed)).watermark == Watermark.of({"a": 4})
    region.held = Watermark.of({"a": 6})
    with pytest.raises(NotFound, match="behind a:4 are kept"):
        await anext(feed)
