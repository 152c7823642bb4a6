"""Puts a query engine together, for the gateway and for the region's front actor alike."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from actors import names
from actors.answering import Answering
from actors.generator_client import ServeGenerator
from actors.local_shards import LocalShards
from actors.prompt_tokenizer import FolderTokenizer
from actors.query_engine import QueryEngine
from actors.routes import Routes
from actors.view_follower import ViewFollower
from cluster.artifact_cache import ArtifactCache
from cluster.artifacts import Artifacts
from cluster.clock import SYSTEM_CLOCK
from cluster.generation import Generator, PromptTokenizer
from cluster.object_store import ObjectStore
from cluster.region_view import GeneratorView


class ServeGenerators:
    """A `GeneratorDirectory` over Serve applications, with tokenizers from the node's cache."""

    def __init__(self, store: ObjectStore, cache_folder: Path) -> None:
        self._cache = ArtifactCache(Artifacts(store), cache_folder)
        self._generators: dict[str, ServeGenerator] = {}
        self._tokenizers: dict[str, asyncio.Task[FolderTokenizer]] = {}

    def generator(self, view: GeneratorView) -> Generator:
        if view.application not in self._generators:
            self._generators[view.application] = ServeGenerator(view.application)
        return self._generators[view.application]

    async def tokenizer(self, view: GeneratorView) -> PromptTokenizer:
        """Loaded at the first use, once for all who wait; a failure is tried again."""
        task = self._tokenizers.get(view.application)
        if task is None or (task.done() and task.exception() is not None):
            task = asyncio.create_task(asyncio.to_thread(self._load, view))
            self._tokenizers[view.application] = task
        return await asyncio.shield(task)

    def _load(self, view: GeneratorView) -> FolderTokenizer:
        return FolderTokenizer(self._cache.folder_for(view.tokenizer_files))


def assemble_engine(
    store: ObjectStore, cache_folder: Path, *, local_first: bool
) -> tuple[QueryEngine, ViewFollower]:
    """The engine, and the follower that the caller starts and stops.

    `local_first`: shards whose files are on this node are searched in this process.
    """
    rng = random.Random()
    local = LocalShards(store, cache_folder) if local_first else None
    views = ViewFollower(names.COORDINATOR, rng)
    engine = QueryEngine(
        views=views,
        routes=Routes(SYSTEM_CLOCK, rng, local),
        answering=Answering(ServeGenerators(store, cache_folder)),
        clock=SYSTEM_CLOCK,
    )
    return engine, views
