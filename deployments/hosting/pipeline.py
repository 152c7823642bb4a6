"""The steps from documents to a release, as the command line and the demo take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.markup import escape
from rich.table import Table

from actors.builds.build import build_index
from actors.documents.ingest import Ingested, ingest
from actors.documents.source_files import SourceListing
from actors.models.publishing import publish_model
from cluster.catalog.catalog import Published
from cluster.catalog.manifests import (
    IndexManifest,
    ManifestRef,
    ModelKind,
    ModelManifest,
)
from cluster.catalog.model_files import delta_note
from cluster.catalog.model_settings import STARTER
from cluster.clock import SYSTEM_CLOCK
from cluster.config import Settings
from cluster.corpora.next_release import corpora_for_release, indexes_for_release
from cluster.documents.declared_types import DeclaredTypes
from cluster.mutations.store_log import StoreMutationLog
from cluster.progress import UNSEEN, Progress
from cluster.query.evidence import EvidencePolicy, score_min_of
from cluster.releases.entries import ReleaseContents
from cluster.shards.index_parameters import IndexKind, IndexParameters, IndexTuning
from cluster.vectors.metric import Metric
from deployments.installation import Installation
from deployments.terminal import REUSED, err, share, table


def store_embedder(
    installation: Installation, progress: Progress = UNSEEN
) -> Published[ModelManifest]:
    """Stores the embedder, and prints what was measured of its runtimes if any was measured."""
    settings = installation.settings.embedder
    model = publish_model(
        installation.catalog,
        installation.cache,
        kind=ModelKind.EMBEDDER,
        source=settings.source,
        name=None,
        scratch=installation.scratch_folder,
        note=progress.note,
        precision=settings.precision,
        runtimes=settings.runtimes,
    )
    _note_model(model, progress)
    if model.manifest.trials and not model.reused:
        err.print(_trials_table(model.manifest))
    return model


def store_generator(
    installation: Installation, progress: Progress = UNSEEN
) -> Published[ModelManifest] | None:
    """None when the settings name no generator."""
    settings = installation.settings.generator
    if settings.source is None:
        progress.note("none: search only")
        return None
    model = publish_model(
        installation.catalog,
        installation.cache,
        kind=ModelKind.GENERATOR,
        source=settings.source,
        name=settings.name,
        scratch=installation.scratch_folder,
        note=progress.note,
    )
    _note_model(model, progress)
    return model


def ingest_documents(
    installation: Installation,
    corpus: str,
    listing: SourceListing,
    *,
    replace: bool,
    skip_errors: bool = False,
    types: DeclaredTypes = MappingProxyType({}),
    progress: Progress = UNSEEN,
) -> Ingested:
    """Reads the listed files into the corpus. Needs a driver that has joined a Ray cluster."""
    before = installation.catalog.latest_corpus(corpus)
    ingested = ingest(
        catalog=installation.catalog,
        artifacts=installation.cache.artifacts,
        corpus=corpus,
        listing=listing,
        replace=replace,
        skip_errors=skip_errors,
        types=types,
        count=progress.count,
    )
    manifest = ingested.manifest
    progress.note(REUSED if manifest == before else f"{manifest.num_documents} documents")
    return ingested


def build(
    installation: Installation,
    corpus: str,
    embedder: Published[ModelManifest] | None,
    progress: Progress = UNSEEN,
) -> Published[IndexManifest]:
    """Builds the latest position of a corpus. Needs a driver that has joined a Ray cluster.

    Prints what was measured where the settings leave the kind of index to the build.
    """
    built = build_index(
        installation.catalog,
        installation.cache,
        corpus,
        installation.settings.corpus(corpus),
        None if embedder is None else embedder.manifest,
        progress.count,
        StoreMutationLog(installation.store, corpus),
    )
    manifest = built.manifest
    what = f"{len(manifest.shards)} shards" if manifest.base is None else "deleted documents only"
    progress.note(REUSED if built.reused else f"{what}, {recall_text(manifest)}")
    for remark in () if built.reused else _remarks(manifest):
        err.print(f"[yellow]{escape(remark)}[/]", soft_wrap=True)
    if manifest.tuning is not None and not built.reused and manifest.base is None:
        err.print(_tuning_table(manifest.tuning))
    return built


def recall_text(manifest: IndexManifest) -> str:
    """The average, beside it the least stratum, and the effort if the build has measured it."""
    text = f"recall@10 {manifest.recall_at_10:.3f}"
    if (least := manifest.recall_at_10_least) is not None:
        text += f" (least {least:.3f})"
    effort, target = effort_text(manifest.parameters), manifest.parameters.target_recall
    if target is not None and effort:
        text += f" with {effort}, measured for {target}"
    return text


def effort_text(parameters: IndexParameters) -> str:
    """How far a search looks; nothing for Flat, which compares with all vectors."""
    match parameters.kind:
        case IndexKind.FLAT:
            return ""
        case IndexKind.HNSW | IndexKind.HNSW_SQ:
            return f"ef_search {parameters.ef_search}"
        case IndexKind.IVF_PQ:
            return f"rescore {parameters.rescore}, nprobe {parameters.nprobe}"
        case IndexKind.IVF_FLAT | IndexKind.IVF_SQ:
            return f"nprobe {parameters.nprobe}"


def _remarks(manifest: IndexManifest) -> list[str]:
    """Remarks on what the build had to do about recall, what is still wrong with it, and which
    passages are hard to find.
    """
    flat = [shard.shard for shard in manifest.shards if shard.kind is not None]
    remarks = []
    if flat:
        remarks.append(
            f"Shards {', '.join(map(str, flat))}: {manifest.parameters.kind} leaves some of these "
            "passages out of reach, however far it looks. They were built as Flat, which finds all."
        )
    if any(shard.recall.has_hole for shard in manifest.shards):
        remarks.append(
            "For some queries much less is found than on average. Build the corpus anew from all "
            "of its documents, or with index.kind: Flat."
        )
    if manifest.num_averaged is not None:
        remarks.append(
            f"{manifest.num_averaged:,} passages are longer than the embedder reads: each has the "
            "mean of the vectors of its windows, which finds less of what it holds."
        )
    return remarks


def contents_of_next(
    installation: Installation,
    progress: Progress = UNSEEN,
    *,
    corpora: Sequence[str] | None = None,
) -> ReleaseContents:
    """A release of the indexes and models that the settings ask for, of these corpora (None: all).

    A corpus all of whose documents were deleted is left out. Says on standard error where an index
    is another than the settings ask for, and what is left out since it was never built. Raises
    NotFound when a corpus that may not be left out has no index that fits, or there is none.
    """
    catalog, settings = installation.catalog, installation.settings
    wanted = corpora_for_release(catalog, corpora)
    needs_embedder = any(corpus.vector_dimension is None for corpus in wanted)
    embedder = store_embedder(installation, progress) if needs_embedder else None
    following = indexes_for_release(
        catalog,
        settings,
        None if embedder is None else embedder.manifest,
        wanted,
        served=_served_indexes(installation),
        are_named=corpora is not None,
    )
    for remark in following.remarks:
        err.print(f"[yellow]{escape(remark)}[/]", soft_wrap=True)
    manifests = {corpus: manifest for corpus, (manifest, _) in following.indexes.items()}
    embeds = any(manifest.embedder_fingerprint is not None for manifest in manifests.values())
    generator = store_generator(installation, progress)
    return ReleaseContents(
        indexes={corpus: ref for corpus, (_, ref) in following.indexes.items()},
        embedder=embedder.ref if embedder is not None and embeds else None,
        generator=None if generator is None else generator.ref,
        prompt=settings.prompt,
        evidence=evidence_policy(
            settings, {corpus: m.parameters.metric for corpus, m in manifests.items()}
        ),
    )


def _served_indexes(installation: Installation) -> Mapping[str, ManifestRef]:
    """The indexes of the current release, by corpus."""
    state = installation.read_release_log()
    current = state.current(SYSTEM_CLOCK.wall_ms())
    return {} if current is None else state.proposals[current].release.contents.indexes


def evidence_policy(settings: Settings, metrics: Mapping[str, Metric]) -> EvidencePolicy:
    """The policy on what answers of a release may rest on, by the metric of each corpus's index."""
    is_starter = settings.embedder.source == STARTER
    least = {
        corpus: score_min_of(settings.corpus(corpus).score_min, metric, is_starter=is_starter)
        for corpus, metric in metrics.items()
    }
    return EvidencePolicy(
        nothing_found=settings.evidence.nothing_found,
        score_min={corpus: score for corpus, score in least.items() if score is not None},
    )


def _tuning_table(tuning: IndexTuning) -> Table:
    asked = tuning.asked
    memory = asked.memory_bytes_max
    within = "" if memory is None else f" within {memory / 1e6:,.1f} MB"
    rows = [
        (
            trial.parameters.kind,
            _searched_with(trial.parameters),
            f"{trial.recall_at_10:.3f}",
            share(trial.recall_at_10_least),
            f"{trial.query_us:,.0f}",
            f"{trial.memory_bytes / 1e6:,.1f}",
            "✓" if trial.is_chosen else "",
        )
        for trial in tuning.trials
    ]
    return table(
        f"Tried on {tuning.rows_sampled} passages, for recall@10 of {asked.target_recall}{within}",
        ("index", "with", "recall@10", "least", "us a query", "MB", "taken"),
        rows,
    )


def _searched_with(parameters: IndexParameters) -> str:
    """The parameters that tell trials of one kind apart, and how far they looked."""
    effort = effort_text(parameters)
    if parameters.kind.is_graph:
        return f"hnsw_m {parameters.hnsw_m}, {effort}"
    return f"pq_m {parameters.pq_m}, {effort}" if parameters.kind is IndexKind.IVF_PQ else effort


def _note_model(model: Published[ModelManifest], progress: Progress) -> None:
    manifest = model.manifest
    delta = delta_note(manifest.files)
    stored = manifest.name if delta is None else f"{manifest.name}: {delta}"
    progress.note(REUSED if model.reused else stored)


def _trials_table(model: ModelManifest) -> Table:
    rows = [
        (
            trial.runtime,
            f"{trial.question_ms:.1f}",
            f"{trial.passages_per_s:,.1f}",
            f"{trial.cosine_min:.7f}",
            "✓" if trial.runtime is model.runtime else "",
        )
        for trial in model.trials
    ]
    return table(
        f"{model.name} on one core, with vectors as PyTorch makes them",
        ("runtime", "ms a question", "passages/s", "least cosine", "taken"),
        rows,
    )
