"""The index version of each corpus that the next release names.

as asked    built from the documents that the corpus has, with the present settings and embedder
else        what comes closest: the latest documents first, then the present settings, then what
            the current release serves, then age; the user is told
else        none: a corpus that no release serves is left out, and the user is told
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.index_versions import BuildPlan, has_settings, index_as_planned, is_index_of
from cluster.catalog.manifests import CorpusManifest, IndexManifest, ManifestRef, ModelManifest
from cluster.config import Settings
from cluster.errors import NotFound
from cluster.store.numbered_log import read_each

Index = tuple[IndexManifest, ManifestRef]
_SHORT = 8
"""Characters of a version that are enough to tell it from others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextIndexes:
    """The index versions of the next release, and what the user is to know of them."""

    indexes: dict[str, Index] = field(default_factory=dict)
    """Indexes by corpus."""
    remarks: list[str] = field(default_factory=list)


def corpora_for_release(
    catalog: Catalog, named: Sequence[str] | None
) -> tuple[CorpusManifest, ...]:
    """The latest positions of the named corpora. None: of all corpora with documents.

    Raises NotFound for a named corpus without documents, and if no corpus is left.
    """
    known = catalog.list_corpora()
    latest = {name: catalog.latest_corpus(name) for name in (known if named is None else named)}
    full = {name: at for name, at in latest.items() if at is not None and at.num_passages > 0}
    for name in named or ():
        if name not in full:
            raise NotFound(f"corpus {name!r} has no documents; add some with `raygion ingest`")
    if not full:
        what = "every corpus is empty" if known else "there is no corpus yet"
        raise NotFound(f"{what}; add documents with `raygion ingest`")
    return tuple(full.values())


def indexes_for_release(
    catalog: Catalog,
    settings: Settings,
    embedder: ModelManifest | None,
    corpora: Sequence[CorpusManifest],
    *,
    served: Mapping[str, ManifestRef],
    are_named: bool,
) -> NextIndexes:
    """Chooses the index version of each of these corpora. `served`: those of the current release.
    `are_named`: whether the user asked for these corpora, so that none may be left out.

    Raises NotFound, with the command that builds it, for a corpus that may not be left out and has
    no index version that fits; also when all would be left out.
    """
    following = NextIndexes()
    gone = () if are_named else sorted(served.keys() - {corpus.corpus for corpus in corpora})
    for name in gone:
        following.remarks.append(f"corpus {name!r} has no documents any more; it is left out")
    for corpus in corpora:
        asked, name = settings.corpus(corpus.corpus), corpus.corpus
        model = embedder if corpus.vector_dimension is None else None
        index = index_as_planned(catalog, BuildPlan(corpus, asked, model))
        if index is None:
            index = _closest(catalog, corpus, asked, model, served.get(name))
            if index is not None:
                following.remarks.append(_remark(catalog, corpus, index, served.get(name)))
            elif are_named or name in served:
                raise NotFound(f"{_unbuilt(catalog, name)}, or name the others with `--corpora`")
            else:
                following.remarks.append(f"{_unbuilt(catalog, name)}; it is left out")
        if index is not None:
            following.indexes[name] = index
    if not following.indexes:
        raise NotFound(_unbuilt(catalog, corpora[0].corpus))
    return following


def _closest(
    catalog: Catalog,
    corpus: CorpusManifest,
    settings: CorpusSettings,
    embedder: ModelManifest | None,
    served: ManifestRef | None,
) -> Index | None:
    """Among what was built with this embedder; a release has one embedder for all corpora."""

    def order(index: Index) -> tuple[bool, int, bool, bool, int]:
        manifest, ref = index
        return (
            is_index_of(manifest, corpus, catalog),
            manifest.corpus_position,
            has_settings(catalog, manifest, settings, embedder),
            ref == served,
            manifest.built_at_ms,
        )

    fingerprint = None if embedder is None else embedder.fingerprint
    built = catalog.list_indexes(corpus.corpus)
    fitting = [index for index in built if index[0].embedder_fingerprint == fingerprint]
    best = max(fitting, key=order, default=None)
    if best is None or is_index_of(best[0], corpus, catalog):
        return best

    def is_empty(position: int) -> bool:
        return catalog.corpus_at(corpus.corpus, position).num_passages == 0

    # Documents from before a corpus was emptied do not come back with the first one after that.
    # Since the build there may be thousands of positions, each a request to the store.
    since = range(best[0].corpus_position + 1, corpus.position)
    return None if any(read_each(is_empty, since)) else best


def _remark(
    catalog: Catalog, corpus: CorpusManifest, index: Index, served: ManifestRef | None
) -> str:
    manifest, ref = index
    name, version = corpus.corpus, manifest.version[:_SHORT]
    carried = "the current release's " if ref == served else ""
    if is_index_of(manifest, corpus, catalog):
        shards = f"{len(manifest.shards)} shards"
        what = f"{carried}index {version} ({manifest.parameters.kind}, {shards})"
        return (
            f"corpus {name!r} was not built with the present settings by this version of Raygion: "
            f"{what} is taken; `raygion build {name}` builds it so"
        )
    return (
        f"corpus {name!r} has changed since {carried}index {version} was built, which is taken; "
        f"`raygion build {name}` takes the changes in"
    )


def _unbuilt(catalog: Catalog, corpus: str) -> str:
    known = catalog.list_indexes(corpus)
    what = (
        "was not built with this embedder from its present documents" if known else "was not built"
    )
    return f"corpus {corpus!r} {what}; run `raygion build {corpus}`"
