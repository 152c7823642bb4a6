"""A region without a language model writes with another region's: vLLM for real, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from actors.models.remote_generator import RemoteGenerator
from actors.models.serve_generator import ServeGenerator
from actors.query.release_uses import ReleaseUses
from actors.regions.peer_services import RegionPeerServices
from actors.runtime import names
from actors.runtime.calls import NamedActor
from cluster.clock import Deadline
from cluster.errors import InvalidArgument, NotYet, Unavailable
from cluster.generation.generator import (
    GenerationChunk,
    GenerationRequest,
    Generator,
    PromptTokenizer,
)
from cluster.generation.prompt import PromptTemplate
from cluster.serving.view import GeneratorView, RegionView, ReleaseView
from tests.support.regions.one_generator import (
    APP,
    ENDLESS,
    MODEL_LEN,
    SEQUENCES,
    answer,
    asking,
    cluster,
    folder,
    generator,
)
from tests.support.worlds.fake_service import FakeService
from tests.support.worlds.region_servers import peers_of, serving, settings_of

__all__ = ["cluster", "folder", "generator"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
RELEASE = 5
STORY = asking("Tell me a story of a whale.", max_tokens=32)


@dataclass
class Directory:
    """The generator of every release is the one that runs."""

    running: Generator

    def generator(self, release: ReleaseView, corpus: str | None) -> Generator:
        return self.running

    def follow(self, view: RegionView) -> None:
        pass

    async def tokenizer(self, view: GeneratorView) -> PromptTokenizer:
        raise AssertionError("prompts come ready made")


@dataclass
class BreaksOff:
    """Dies after so many pieces of each answer."""

    running: Generator
    pieces: int

    async def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        left = self.pieces
        async with aclosing(self.running.stream(request, deadline)) as chunks:
            async for chunk in chunks:
                yield chunk
                left -= 1
                if not left:
                    raise Unavailable("the region died")


def peer_services(running: Generator, application: str | None = APP) -> RegionPeerServices:
    view = GeneratorView(
        application=application, model="smol", tokenizer_files=(), context_tokens_max=MODEL_LEN
    )
    release = ReleaseView(
        number=RELEASE, corpora={}, embedders=(), generator=view, prompt=PromptTemplate()
    )
    region = RegionView(region="there", releases={RELEASE: release})
    return RegionPeerServices(
        lambda: region,
        ReleaseUses(),
        Directory(running),
        NamedActor(names.COORDINATOR),
        NamedActor(names.DOCUMENTS),
    )


@asynccontextmanager
async def elsewhere(*regions: RegionPeerServices) -> AsyncIterator[RemoteGenerator]:
    """The generator as a region sees it that has none, with these regions to ask, in this order."""
    async with AsyncExitStack() as stack:
        urls = {
            f"r{number}": await stack.enter_async_context(serving(FakeService(), each))
            for number, each in enumerate(regions)
        }
        peers = await stack.enter_async_context(peers_of(settings_of(urls)))
        yield RemoteGenerator(peers, RELEASE, None)


async def test_it_writes_what_the_other_region_writes(generator: ServeGenerator) -> None:
    hot = replace(STORY, temperature=1.0, seed=7)
    async with elsewhere(peer_services(generator)) as remote:
        for request in (STORY, hot, replace(STORY, stop=(".",))):
            told, last = await answer(remote, request)
            there, last_there = await answer(generator, request)
            assert (told, last) == (there, last_there)
        with pytest.raises(InvalidArgument) as caught:
            await answer(remote, asking("The quick brown fox. " * 1000, max_tokens=3))
    assert caught.value.field == "messages"


async def test_leaving_stops_the_engine_over_there(generator: ServeGenerator) -> None:
    """It decodes two sequences at once: a third gets its turn only if one has ended."""
    async with elsewhere(peer_services(generator)) as remote:
        streams = [remote.stream(ENDLESS, Deadline.after(120)) for _ in range(SEQUENCES)]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()
        _, last = await answer(remote, asking("Hello", max_tokens=2), timeout_s=10)
    assert last.completion_tokens == 2


async def test_another_region_goes_on_where_one_died(generator: ServeGenerator) -> None:
    runs_none = peer_services(generator, application=None)
    dying = peer_services(BreaksOff(generator, pieces=3))
    async with elsewhere(runs_none, dying, peer_services(generator)) as remote:
        told, last = await answer(remote, STORY)
    whole, last_of_whole = await answer(generator, STORY)
    assert told[:12] == whole[:12]
    assert (last.prompt_tokens, last.completion_tokens) == (
        last_of_whole.prompt_tokens,
        STORY.max_tokens,
    )


async def test_a_release_that_is_not_there_is_not_written_for(generator: ServeGenerator) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(FakeService(), peer_services(generator)))
        peers = await stack.enter_async_context(peers_of(settings_of({"there": url})))
        with pytest.raises(NotYet, match="release 6 is not resident in region 'there'"):
            await answer(RemoteGenerator(peers, RELEASE + 1, None), STORY)
