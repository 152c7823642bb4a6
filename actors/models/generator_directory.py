"""Finds the generators and tokenizers of a region's releases."""

from __future__ import annotations

import asyncio
from functools import partial

from actors.models.prompt_tokenizer import FolderTokenizer
from actors.models.remote_generator import RemoteGenerator
from actors.models.serve_generator import ServeGenerator
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile
from cluster.generation.generator import Generator, PromptTokenizer
from cluster.logs.context import log_scope
from cluster.regions.peers import GeneratingPeers
from cluster.serving.view import GeneratorView, RegionView, ReleaseView


class RegionGenerators:
    """A `cluster.serving.generators.GeneratorDirectory`: Serve applications here, other regions
    where none runs here, and tokenizers from the node's cache.
    """

    def __init__(self, cache: ArtifactCache, peers: GeneratingPeers) -> None:
        self._cache = cache
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
            self._cache.unpin(files)

    def _load(self, view: GeneratorView) -> FolderTokenizer:
        # The log must not name the one request that comes first.
        with log_scope():
            return FolderTokenizer(self._cache.folder_for(view.tokenizer_files))
