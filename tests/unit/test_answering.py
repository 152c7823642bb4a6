"""Answers keep to their time, and forget the models of releases that are gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.answering import Answering
from actors.engine_assembly import RegionGenerators
from cluster.answers import AnswerRequest
from cluster.clock import Deadline
from cluster.consistency import Pinned
from cluster.errors import DeadlineExceeded, NotFound
from cluster.generation import Generator, PromptTokenizer
from cluster.local_store import LocalStore
from cluster.manifests import ArtifactFile
from cluster.prompt import PromptTemplate
from cluster.region_view import GeneratorView, RegionView, ReleaseView
from cluster.search import SearchRequest


def release_of(number: int, application: str | None = "app") -> ReleaseView:
    file = ArtifactFile(path="tokenizer.json", sha256=f"{number:064x}", size_bytes=1)
    return ReleaseView(
        number=number,
        corpora={},
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

    def generator(self, release: ReleaseView) -> Generator:
        raise AssertionError("there is no prompt yet")

    async def tokenizer(self, view: GeneratorView) -> PromptTokenizer:
        await asyncio.sleep(60)
        raise AssertionError

    def follow(self, view: RegionView) -> None:
        pass


async def test_a_tokenizer_that_does_not_come_uses_up_the_time_and_no_more() -> None:
    events = Answering(Stuck()).events(
        AnswerRequest(question="why?", retrieve=False),
        pinned=Pinned(release=release_of(1), staleness_ms=0, session=""),
        region="here",
        found=None,
        deadline=Deadline.after(0.05),
        elapsed_ms=lambda: 0.0,
    )
    with pytest.raises(DeadlineExceeded, match="tokenizer"):
        await anext(events)


async def test_what_no_release_uses_is_forgotten(tmp_path: Path) -> None:
    generators = RegionGenerators(LocalStore(tmp_path / "store"), tmp_path / "cache", None)  # type: ignore[arg-type]
    old, new = release_of(1, "old"), release_of(2, "new")
    clients = {release.number: generators.generator(release) for release in (old, new)}
    for release in (old, new):
        assert release.generator is not None
        with pytest.raises(NotFound):
            await generators.tokenizer(release.generator)
    generators.follow(RegionView(region="here", releases={2: new}))
    assert generators.generator(new) is clients[2]
    assert generators.generator(old) is not clients[1]
    assert len(generators._tokenizers) == 1


def test_passages_that_may_be_missing_leave_the_model_its_time() -> None:
    asked = AnswerRequest(question="why?", timeout_s=60.0, min_coverage=0.5).retrieval()
    assert asked.timeout_s == 60.0
    assert asked.partial_share < SearchRequest(queries=("why?",)).partial_share
