"""The steps from documents to a release, as the command line and the demo take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from actors.index_build import build_index
from actors.ingest import ingest
from actors.models import publish_model
from cluster.artifacts import Artifacts
from cluster.config import Settings
from cluster.errors import NotFound
from cluster.evidence import EvidencePolicy, score_min_of
from cluster.index_versions import is_index_of, newest_index
from cluster.manifests import (
    CorpusManifest,
    IndexKind,
    IndexManifest,
    IndexParameters,
    IndexTuning,
    ManifestRef,
    Metric,
    ModelKind,
    ModelManifest,
)
from cluster.model_files import delta_note
from cluster.model_settings import STARTER
from cluster.releases import ReleaseContents
from deployments.console import REUSED, Step, err, table
from deployments.installation import Installation


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    manifest: ModelManifest
    ref: ManifestRef
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIndex:
    manifest: IndexManifest
    ref: ManifestRef
    reused: bool


def store_embedder(installation: Installation, step: Step) -> StoredModel:
    settings = installation.settings.embedder
    return _store_model(installation, ModelKind.EMBEDDER, settings.source, None, step)


def store_generator(installation: Installation, step: Step) -> StoredModel | None:
    """None when the settings name no generator."""
    settings = installation.settings.generator
    if settings.source is None:
        step.note("none: search only")
        return None
    return _store_model(installation, ModelKind.GENERATOR, settings.source, settings.name, step)


def ingest_documents(
    installation: Installation, corpus: str, sources: Sequence[str], *, replace: bool, step: Step
) -> CorpusManifest:
    """Reads the sources into the corpus. Needs a driver that has joined a Ray cluster."""
    before = installation.catalog.latest_corpus(corpus)
    manifest = ingest(
        catalog=installation.catalog,
        artifacts=Artifacts(installation.store),
        corpus=corpus,
        sources=sources,
        chars_max=installation.settings.corpus(corpus).chunks.chars_max,
        replace=replace,
        progress=step.count,
    )
    step.note(REUSED if manifest == before else f"{manifest.num_passages} passages")
    return manifest


def build(
    installation: Installation, corpus: str, embedder: StoredModel | None, step: Step
) -> BuiltIndex:
    """Builds the latest position of a corpus. Needs a driver that has joined a Ray cluster.

    Prints what was measured where the settings leave the kind of index to the build.
    """
    settings = installation.settings
    manifest, ref, reused = build_index(
        installation.store,
        corpus,
        settings.corpus(corpus),
        embedder=None if embedder is None else embedder.manifest,
        cache_folder=installation.cache_folder,
        progress=step.count,
    )
    recall = f"recall@10 {manifest.recall_at_10:.3f}"
    what = f"{len(manifest.shards)} shards" if manifest.base is None else "deleted documents only"
    step.note(REUSED if reused else f"{what}, {recall}")
    if manifest.tuning is not None and not reused and manifest.base is None:
        err.print(_tuning_table(manifest.tuning))
    return BuiltIndex(manifest=manifest, ref=ref, reused=reused)


def contents_of_latest(installation: Installation, step: Step) -> ReleaseContents:
    """A release of the newest index of every corpus, and of the models that the settings name.

    A corpus all of whose documents were deleted is left out. Says on standard error which corpora
    have changed since their index was built, as when documents were deleted. Raises NotFound when
    another one was not built, or there is none.
    """
    indexes: dict[str, ManifestRef] = {}
    metrics: dict[str, Metric] = {}
    needs_embedder = False
    corpora = installation.catalog.list_corpora()
    for corpus in corpora:
        latest = installation.catalog.latest_corpus(corpus)
        if latest is None or latest.num_passages == 0:
            # Its older indexes have what was deleted.
            continue
        newest = newest_index(installation.catalog, corpus)
        if newest is None:
            raise NotFound(f"corpus {corpus!r} was not built; run `raygion build {corpus}`")
        manifest, ref = newest
        if not is_index_of(manifest, latest, installation.catalog):
            err.print(
                f"[yellow]corpus {corpus!r} has changed since this index was built[/]; "
                f"`raygion build {corpus}` takes the changes in",
                soft_wrap=True,
            )
        indexes[corpus] = ref
        metrics[corpus] = manifest.parameters.metric
        needs_embedder |= manifest.embedder_fingerprint is not None
    if not indexes:
        what = "every corpus is empty" if corpora else "there is no corpus yet"
        raise NotFound(f"{what}; add documents with `raygion ingest`")
    embedder = store_embedder(installation, step) if needs_embedder else None
    generator = store_generator(installation, step)
    return ReleaseContents(
        indexes=indexes,
        embedder=None if embedder is None else embedder.ref,
        generator=None if generator is None else generator.ref,
        prompt=installation.settings.prompt,
        evidence=evidence_policy(installation.settings, metrics),
    )


def evidence_policy(settings: Settings, metrics: Mapping[str, Metric]) -> EvidencePolicy:
    """What answers of a release may rest on, by the metric of each corpus's index."""
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
            f"{trial.query_us:,.0f}",
            f"{trial.memory_bytes / 1e6:,.1f}",
            "✓" if trial.is_chosen else "",
        )
        for trial in tuning.trials
    ]
    return table(
        f"Tried on {tuning.rows_sampled} passages, for recall@10 of {asked.target_recall}{within}",
        ("index", "with", "recall@10", "us a query", "MB", "taken"),
        rows,
    )


def _searched_with(parameters: IndexParameters) -> str:
    """What tells trials of one kind apart, and how far they looked."""
    match parameters.kind:
        case IndexKind.FLAT:
            return ""
        case IndexKind.HNSW | IndexKind.HNSW_SQ:
            return f"hnsw_m {parameters.hnsw_m}, ef_search {parameters.ef_search}"
        case IndexKind.IVF_PQ:
            pq = f"pq_m {parameters.pq_m}, rescore {parameters.rescore}"
            return f"{pq}, nprobe {parameters.nprobe}"
        case IndexKind.IVF_FLAT | IndexKind.IVF_SQ:
            return f"nprobe {parameters.nprobe}"


def _store_model(
    installation: Installation, kind: ModelKind, source: str, name: str | None, step: Step
) -> StoredModel:
    manifest, ref, reused = publish_model(
        installation.store,
        kind=kind,
        source=source,
        name=name,
        scratch=installation.scratch_folder,
        cache_folder=installation.cache_folder,
        progress=step.note,
    )
    delta = delta_note(manifest.files)
    stored = manifest.name if delta is None else f"{manifest.name}: {delta}"
    step.note(REUSED if reused else stored)
    return StoredModel(manifest=manifest, ref=ref, reused=reused)
