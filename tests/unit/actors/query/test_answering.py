"""Answers rest on evidence, keep to their time, and forget the models of releases that are gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.models.generator_directory import RegionGenerators
from actors.query.answering import Answering
from cluster.artifacts.files import ArtifactFile
from cluster.clock import Deadline
from cluster.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    RaygionError,
)
from cluster.generation.generator import (
    ChatMessage,
    GenerationChunk,
    GenerationRequest,
    Generator,
    PromptTokenizer,
)
from cluster.generation.prompt import PromptTemplate, Truncated, Truncation
from cluster.metadata import ColumnType
from cluster.query.answers import (
    AnswerEvent,
    AnswerOutcome,
    AnswerRequest,
    AnswerResult,
    Retrieved,
    Token,
)
from cluster.query.evidence import EvidencePolicy
from cluster.query.search import Hit, SearchRequest, SearchResult
from cluster.serving.view import CorpusView, GeneratorView, RegionView, ReleaseView
from cluster.store.local_store import LocalStore
from cluster.vectors.metric import Metric
from tests.support.fakes import FakeTokenizer, provenance_of
from tests.support.node_cache import node_cache

CORPUS = CorpusView(
    corpus="c",
    index_version="1",
    dimension=2,
    metric=Metric.COSINE,
    metadata_schema={},
    has_embedder=True,
    num_passages=3,
    recall_at_10=1.0,
    shards=(("r",),),
)
POLICY = EvidencePolicy(nothing_found="Nothing.", score_min={"c": 0.5})


def release_of(number: int, application: str | None = "app") -> ReleaseView:
    file = ArtifactFile(path="tokenizer.json", sha256=f"{number:064x}", size_bytes=1)
    return ReleaseView(
        number=number,
        corpora={"c": CORPUS},
        embedders=(),
        generator=GeneratorView(
            application=application,
            model="m",
            context_tokens_max=512,
            tokenizer_files=(file,),
        ),
        prompt=PromptTemplate(),
    )


class Stuck:
    """A directory whose store does not answer."""

    def generator(self, release: ReleaseView, corpus: str | None) -> Generator:
        raise AssertionError("there is no prompt yet")

    async def tokenizer(self, view: GeneratorView) -> PromptTokenizer:
        await asyncio.Event().wait()
        raise AssertionError

    def follow(self, view: RegionView) -> None:
        pass


async def not_asked(request: SearchRequest) -> SearchResult:
    raise AssertionError("the plain model is asked")


async def test_a_tokenizer_that_does_not_come_uses_up_the_time_and_no_more() -> None:
    events = Answering(Stuck()).events(
        AnswerRequest(question="why?", retrieve=False),
        release=release_of(1),
        provenance=provenance_of("here"),
        search=not_asked,
        deadline=Deadline.after(0.05),
        elapsed_ms=lambda: 0.0,
    )
    with pytest.raises(DeadlineExceeded, match="tokenizer"):
        await anext(events)


async def test_what_no_release_uses_is_forgotten(tmp_path: Path) -> None:
    cache = node_cache(LocalStore(tmp_path / "store"), tmp_path / "cache")
    generators = RegionGenerators(cache, None)  # type: ignore[arg-type]
    old, new = release_of(1, "old"), release_of(2, "new")
    clients = {release.number: generators.generator(release, None) for release in (old, new)}
    for release in (old, new):
        assert release.generator is not None
        with pytest.raises(NotFound):
            await generators.tokenizer(release.generator)
    generators.follow(RegionView(region="here", releases={2: new}))
    assert generators.generator(new, None) is clients[2]
    assert generators.generator(old, None) is not clients[1]
    assert len(generators._tokenizers) == 1


def test_passages_that_may_be_missing_leave_the_model_its_time() -> None:
    asked = AnswerRequest(question="why?", timeout_s=60.0, min_coverage=0.5).retrieval()
    assert asked.timeout_s == 60.0
    assert asked.partial_share < SearchRequest(queries=("why?",)).partial_share


class Writer:
    """A directory whose model writes two words, and whose tokenizer says where it counts."""

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []
        self.counted_in: set[threading.Thread] = set()
        self.corpora: list[str | None] = []
        """Whose passages each prompt was said to have."""
        self.refusal: RaygionError | None = None

    def generator(self, release: ReleaseView, corpus: str | None) -> Generator:
        self.corpora.append(corpus)
        if self.refusal is not None:
            raise self.refusal
        return self

    async def tokenizer(self, view: GeneratorView) -> PromptTokenizer:
        writer = self

        class Watched(FakeTokenizer):
            def count(self, messages: tuple[ChatMessage, ...]) -> int:
                writer.counted_in.add(threading.current_thread())
                return super().count(messages)

        return Watched()

    def follow(self, view: RegionView) -> None:
        pass

    async def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        self.asked.append(request)
        yield GenerationChunk(text="It ", completion_tokens=1)
        yield GenerationChunk(
            text="is.", finish_reason="stop", prompt_tokens=9, completion_tokens=2
        )


def found(*scores: float, text: str = "A passage.") -> SearchResult:
    hits = tuple(Hit(id=f"p{s}", score=s, text=text, metadata={}) for s in scores)
    return SearchResult(
        results=(hits,), provenance=provenance_of("here", coverage=0.5), took_ms=1.0
    )


async def answer(
    hits: SearchResult | None,
    policy: EvidencePolicy | None = POLICY,
    writer: Writer | None = None,
    **asked: Any,
) -> list[AnswerEvent]:
    return [event async for event in answering(hits, policy, writer or Writer(), **asked)]


def answering(
    hits: SearchResult | None, policy: EvidencePolicy | None, writer: Writer, **asked: Any
) -> AsyncGenerator[AnswerEvent, None]:
    async def search(request: SearchRequest) -> SearchResult:
        assert request.queries == ("why?",)
        assert hits is not None, "the plain model is asked"
        return hits

    return Answering(writer).events(
        AnswerRequest(question="why?", retrieve=hits is not None, max_tokens=10, **asked),
        release=replace(release_of(1), evidence=policy),
        provenance=provenance_of("here"),
        search=search,
        deadline=Deadline.after(30),
        elapsed_ms=lambda: 7.0,
    )


@pytest.mark.parametrize("hits", [found(), found(0.49, 0.2)])
async def test_without_evidence_the_release_answers_and_no_model(hits: SearchResult) -> None:
    writer = Writer()
    first, token, last = await answer(hits, writer=writer)
    assert isinstance(first, Retrieved)
    assert isinstance(last, AnswerResult)
    assert token == Token(text="Nothing.")
    for event in (first, last):
        assert (event.citations, event.outcome) == ((), AnswerOutcome.NOTHING_FOUND)
        assert (event.coverage, event.model, event.truncated) == (0.5, "m", None)
    assert (last.answer, last.finish_reason, last.took_ms) == ("Nothing.", "stop", 7.0)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (0, 0)
    assert not writer.asked
    assert not writer.counted_in


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        ({}, ()),
        ({"year": ColumnType.INT}, ()),
        ({"title": ColumnType.STRING, "year": ColumnType.INT}, ("title",)),
    ],
)
async def test_passages_are_cited_by_their_titles_where_the_corpus_has_them(
    schema: dict[str, ColumnType], fields: tuple[str, ...]
) -> None:
    searches: list[SearchRequest] = []
    hits = [
        Hit(id=str(title), score=0.9, text="A passage.", metadata={"title": title})
        for title in ("Tea", "", None, 1984)
    ]

    async def search(request: SearchRequest) -> SearchResult:
        searches.append(request)
        return replace(found(), results=(tuple(hits),))

    events = Answering(Writer()).events(
        AnswerRequest(question="why?", max_tokens=10),
        release=replace(release_of(1), corpora={"c": replace(CORPUS, metadata_schema=schema)}),
        provenance=provenance_of("here"),
        search=search,
        deadline=Deadline.after(30),
        elapsed_ms=lambda: 7.0,
    )
    last = [event async for event in events][-1]
    assert isinstance(last, AnswerResult)
    assert [search.fields for search in searches] == [fields]
    # A title is a text; that of another type is a value to filter by.
    assert [citation.title for citation in last.citations] == ["Tea", None, None, None]


async def test_hits_that_are_no_evidence_are_neither_cited_nor_read() -> None:
    writer = Writer()
    first, *_, last = await answer(found(0.9, 0.5, 0.4), writer=writer)
    assert isinstance(first, Retrieved)
    assert isinstance(last, AnswerResult)
    for event in (first, last):
        assert [citation.score for citation in event.citations] == [0.9, 0.5]
        assert event.outcome is AnswerOutcome.ANSWERED
    assert "[3]" not in writer.asked[0].messages[-1].content
    assert last.answer == "It is."


@pytest.mark.parametrize(
    ("policy", "cited"), [(None, 2), (EvidencePolicy(nothing_found="Nothing."), 2)]
)
async def test_without_a_least_score_every_hit_is_evidence(
    policy: EvidencePolicy | None, cited: int
) -> None:
    last = (await answer(found(0.1, -3.0), policy))[-1]
    assert isinstance(last, AnswerResult)
    assert len(last.citations) == cited


async def test_a_release_from_before_has_its_model_answer_without_passages() -> None:
    writer = Writer()
    last = (await answer(found(), None, writer))[-1]
    assert isinstance(last, AnswerResult)
    assert (last.answer, last.outcome) == ("It is.", AnswerOutcome.ANSWERED)
    assert writer.asked


async def test_what_was_cut_is_told_first_and_last() -> None:
    history = tuple(ChatMessage(role="user", content="x" * 100) for _ in range(9))
    first, *_, last = await answer(found(0.9), history=history)
    assert isinstance(first, Retrieved)
    assert isinstance(last, AnswerResult)
    assert first.truncated == last.truncated
    assert first.truncated is not None
    assert 0 < first.truncated.history_messages < 9
    assert first.truncated == Truncated(history_messages=first.truncated.history_messages)
    with pytest.raises(ContextLengthExceeded):
        await answer(found(0.9), history=history, truncation=Truncation.DISABLED)


async def test_the_plain_model_gets_the_whole_conversation_or_is_not_asked() -> None:
    history = tuple(ChatMessage(role="user", content="x" * 100) for _ in range(9))
    writer = Writer()
    with pytest.raises(ContextLengthExceeded):
        await answer(None, writer=writer, history=history)
    assert not writer.asked
    last = (await answer(None, writer=writer, history=history, truncation=Truncation.AUTO))[-1]
    assert isinstance(last, AnswerResult)
    assert last.truncated is not None
    assert len(writer.asked[0].messages) == 9 - last.truncated.history_messages + 1


@pytest.mark.parametrize("named", [None, "c"])
async def test_a_model_is_looked_for_that_may_read_the_passages(named: str | None) -> None:
    writer = Writer()
    await answer(found(0.9), writer=writer, corpus=named)
    await answer(None, writer=writer, corpus=named)
    assert writer.corpora == ["c", None]
    writer.refusal = InvalidArgument("no model may read them", "corpus")
    # It is refused before anything is told of it.
    with pytest.raises(InvalidArgument):
        await anext(answering(found(0.9), POLICY, writer))
    # No model reads what is not there.
    assert isinstance((await answer(found(), writer=writer))[-1], AnswerResult)


@pytest.mark.parametrize("hits", [None, found(0.9)])
async def test_prompts_are_counted_beside_the_event_loop(hits: SearchResult | None) -> None:
    writer = Writer()
    await answer(hits, writer=writer)
    assert writer.counted_in
    assert threading.current_thread() not in writer.counted_in
