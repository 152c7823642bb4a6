"""The steps from the log of live documents to a release of them, as the command line takes them.

Of the current release only the index of the corpus changes: its embedder embeds what is new, and
all else that the settings may ask for by now waits for `raygion release propose`.
"""

from __future__ import annotations

from cluster.catalog.catalog import Published
from cluster.catalog.manifests import IndexManifest
from cluster.clock import SYSTEM_CLOCK
from cluster.corpora.compaction import Compacted, compact_corpus
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.store_log import StoreMutationLog
from cluster.progress import UNSEEN, Progress
from cluster.releases.entries import ReleaseContents
from deployments.hosting import pipeline
from deployments.installation import Installation
from deployments.terminal import REUSED


def compact_documents(
    installation: Installation, corpus: str, progress: Progress = UNSEEN
) -> Compacted:
    """Takes the changes of live documents into the corpus. Raises what `compact_corpus` does."""
    before = installation.catalog.latest_corpus(corpus)
    compacted = compact_corpus(
        catalog=installation.catalog,
        artifacts=installation.cache.artifacts,
        log=StoreMutationLog(installation.store, corpus),
        corpus=corpus,
        policy=ConflictPolicy.LAST_WRITER,
    )
    manifest = compacted.manifest
    progress.note(REUSED if manifest == before else f"{manifest.num_documents} documents")
    return compacted


def served_contents(installation: Installation, corpus: str) -> ReleaseContents | None:
    """What the current release is made of; None where there is none, or it lacks the corpus."""
    state = installation.read_release_log()
    current = state.current(SYSTEM_CLOCK.wall_ms())
    contents = None if current is None else state.proposals[current].release.contents
    return contents if contents is not None and corpus in contents.indexes else None


def build_for(
    installation: Installation,
    contents: ReleaseContents,
    corpus: str,
    progress: Progress = UNSEEN,
) -> Published[IndexManifest]:
    """Builds the latest position of the corpus with the embedder of a release. Needs a driver that
    has joined a Ray cluster.
    """
    ref, embedder = contents.embedder, None
    if ref is not None:
        embedder = Published(installation.catalog.read_model(ref), ref, reused=True)
    return pipeline.build(installation, corpus, embedder, progress)


def contents_with(
    contents: ReleaseContents, index: Published[IndexManifest]
) -> ReleaseContents | None:
    """The release with this index of its corpus; None where it has just that one."""
    corpus = index.manifest.corpus
    if contents.indexes[corpus] == index.ref:
        return None
    return contents.model_copy(update={"indexes": {**contents.indexes, corpus: index.ref}})
