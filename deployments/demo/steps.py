"""The steps of the demo of several regions inside of a region: each function runs in the region's
driver process.
"""

from __future__ import annotations

from actors.coordinator.client import CoordinatorClient
from actors.documents.source_files import find_source_files
from cluster.clock import SYSTEM_CLOCK
from cluster.generation.prompt import PromptTemplate
from cluster.progress import Note
from cluster.releases.entries import ReleaseContents
from cluster.releases.requests import RollBackTo
from cluster.shards.index_parameters import NamedIndex
from deployments.hosting import pipeline, release_commands
from deployments.installation import Installation
from deployments.terminal import REUSED


def ingest(installation: Installation, note: Note, corpus: str, source: str) -> None:
    listing = find_source_files([source])
    ingested = pipeline.ingest_documents(installation, corpus, listing, replace=False)
    note(f"{ingested.manifest.num_documents} documents")


def store_models(installation: Installation, note: Note) -> None:
    note("embedding model")
    embedder = pipeline.store_embedder(installation)
    note("language model")
    generator = pipeline.store_generator(installation)
    names = [model.manifest.name for model in (embedder, generator) if model is not None]
    note(", ".join(names))


def build(
    installation: Installation,
    note: Note,
    corpus: str,
    index: NamedIndex | None,
    prompt: PromptTemplate | None,
) -> ReleaseContents:
    """A release of the corpus, with the index and the prompt of the settings or with these."""
    settings = installation.settings
    if index is not None:
        changed = settings.corpus(corpus).model_copy(update={"index": index})
        settings = settings.model_copy(update={"corpora": {corpus: changed}})
    embedder = pipeline.store_embedder(installation)
    generator = pipeline.store_generator(installation)
    built = pipeline.build(Installation(settings, installation.region), corpus, embedder)
    manifest = built.manifest
    detail = REUSED if built.reused else pipeline.recall_text(manifest)
    note(f"{len(manifest.shards)} shards, {manifest.parameters.kind}, {detail}")
    return ReleaseContents(
        indexes={corpus: built.ref},
        embedder=embedder.ref,
        generator=None if generator is None else generator.ref,
        prompt=prompt or settings.prompt,
        evidence=pipeline.evidence_policy(settings, {corpus: manifest.parameters.metric}),
    )


def propose(installation: Installation, note: Note, contents: ReleaseContents) -> int:
    """Proposes, and returns when the release is committed everywhere and served here."""
    return release_commands.propose(installation, contents, commit=True, note=note)


def propose_unless_current(
    installation: Installation, note: Note, contents: ReleaseContents
) -> tuple[int, bool]:
    """The current release when it is made of the same parts, and True; or a new one."""
    state = CoordinatorClient().log_state()
    current = state.current(SYSTEM_CLOCK.wall_ms())
    if current is not None and state.proposals[current].release.contents == contents:
        return current, True
    return propose(installation, note, contents), False


def rollback(installation: Installation, note: Note, number: int) -> int:
    """Makes a committed release current again; returns when it is served here."""
    return release_commands.switch(RollBackTo(release=number))


def wait_until_serving(
    installation: Installation, note: Note, number: int, timeout_s: float
) -> None:
    CoordinatorClient().wait_until_serving(number, timeout_s)
