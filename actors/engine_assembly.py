"""Puts together what answers in a region, for the gateway and the front actor alike."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from actors import names
from actors.actor_calls import NamedActor
from actors.answering import Answering
from actors.generator_client import ServeGenerator
from actors.local_shards import LocalShards
from actors.pinned_generators import PinnedGenerators
from actors.prompt_tokenizer import FolderTokenizer
from actors.query_engine import QueryEngine
from actors.region_peers import RegionPeers
from actors.regional_service import RegionalService
from actors.remote_generator import RemoteGenerator
from actors.routes import Routes
from actors.view_follower import ViewFollower
from cluster.answers import EmbeddingService
from cluster.artifact_cache import ArtifactCache
from cluster.artifact_files import ArtifactFile
from cluster.artifacts import Artifacts
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.config import Settings
from cluster.divergence import STANDING_MAX, Found
from cluster.generation import Generator, PromptTokenizer
from cluster.object_store import ObjectStore
from cluster.region_peers import GeneratingPeers, RegionInternals
from cluster.region_routing import loads_of
from cluster.region_view import GeneratorView, RegionView, ReleaseView


class RegionGenerators:
    """A `cluster.generators.GeneratorDirectory`: Serve applications here, other regions where
    none runs here, and tokenizers from the node's cache.
    """

    def __init__(self, store: ObjectStore, cache_folder: Path, peers: GeneratingPeers) -> None:
        self._cache = ArtifactCache(Artifacts(store), cache_folder)
        self._peers = peers
        self._generators: dict[str, ServeGenerator] = {}
        self._tokenizers: dict[tuple[ArtifactFile, ...], asyncio.Task[FolderTokenizer]] = {}

    def generator(self, release: ReleaseView, corpus: str | None) -> Generator:
        assert release.generator is not None, "only search is served"
        application = release.generator.application
        if application is None:
            return RemoteGenerator(self._peers, release.number, corpus)
        if application not in self._generators:
            self._generators[application] = ServeGenerator(application)
        return self._generators[application]

    async def tokenizer(self, view: GeneratorView) -> PromptTokenizer:
        """Loaded at the first use, once for all who wait; a failure is tried again."""
        task = self._tokenizers.get(view.tokenizer_files)
        if task is None or (task.done() and task.exception() is not None):
            task = asyncio.create_task(asyncio.to_thread(self._load, view))
            self._tokenizers[view.tokenizer_files] = task
        return await asyncio.shield(task)

    def follow(self, view: RegionView) -> None:
        """Forgets what no release of the view uses."""
        generators = [r.generator for r in view.releases.values() if r.generator is not None]
        applications = {generator.application for generator in generators}
        self._generators = {k: v for k, v in self._generators.items() if k in applications}
        for files in self._tokenizers.keys() - {g.tokenizer_files for g in generators}:
            # One that is being loaded is let go of when it is there.
            self._tokenizers.pop(files).add_done_callback(partial(self._forgotten, files))

    def _forgotten(
        self, files: tuple[ArtifactFile, ...], loading: asyncio.Task[FolderTokenizer]
    ) -> None:
        if not loading.cancelled():
            loading.exception()  # told to whoever waited for it
        if files not in self._tokenizers:
            self._cache.let_go(files)

    def _load(self, view: GeneratorView) -> FolderTokenizer:
        return FolderTokenizer(self._cache.folder_for(view.tokenizer_files))


@dataclass(frozen=True, slots=True)
class RegionParts:
    """What answers in one process of a region."""

    service: EmbeddingService
    internals: RegionInternals
    views: ViewFollower
    peers: RegionPeers
    quorum_found: deque[Found]
    """The last differences between regions that searches by quorum found here."""

    async def start(self, deadline: Deadline) -> None:
        """Raises Unavailable when the region's coordinator does not answer."""
        await self.views.start(deadline)

    async def stop(self) -> None:
        self.views.stop()
        await self.peers.aclose()


def assemble_region(
    settings: Settings, region: str, store: ObjectStore, cache_folder: Path
) -> RegionParts:
    """Everything but the start, which needs the event loop that it will run in."""
    rng = random.Random()
    local_first = settings.regions[region].http.local_first
    local = LocalShards(store, cache_folder) if local_first else None
    views = ViewFollower(names.COORDINATOR, rng)
    peers = RegionPeers(
        settings,
        region,
        rng=rng,
        loads=lambda: loads_of(views.known.pulse.regions, SYSTEM_CLOCK.wall_ms()),
    )
    generators = RegionGenerators(store, cache_folder, peers)
    skew_max_ms = settings.routing.clock_skew_max_ms
    engine = QueryEngine(
        views=views,
        routes=Routes(SYSTEM_CLOCK, rng, local),
        answering=Answering(generators),
        clock=SYSTEM_CLOCK,
        skew_max_ms=skew_max_ms,
    )
    quorum_found: deque[Found] = deque(maxlen=STANDING_MAX)
    service = RegionalService(
        region=region,
        engine=engine,
        views=views,
        peers=peers,
        clock=SYSTEM_CLOCK,
        skew_max_ms=skew_max_ms,
        differed=quorum_found.append,
    )
    return RegionParts(
        service=service,
        internals=PinnedGenerators(
            lambda: views.view, views.uses, generators, NamedActor(names.COORDINATOR)
        ),
        views=views,
        peers=peers,
        quorum_found=quorum_found,
    )
