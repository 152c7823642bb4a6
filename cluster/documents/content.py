"""The documents of a corpus's parts that count, and the next state of a corpus when documents are
added or deleted.

Parts are never rewritten. What is replaced is hidden by a later part that holds it, what is deleted
by the tombstones, and what comes back after it was deleted is taken out of the tombstones again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import pyarrow as pa

from cluster.arrays import Mask
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.manifests import TOMBSTONES_FILE, CorpusManifest
from cluster.documents.documents import Schema, column_types, merge_schemas, schema_of
from cluster.documents.ingest_report import EXAMPLES_MAX, DocumentChanges
from cluster.documents.passages import (
    count_passages,
    current_rows,
    document_digests,
    document_ids,
    long_integer_rows,
    write_part,
)
from cluster.documents.tombstones import store_tombstones, stored_tombstones
from cluster.metadata import ColumnType


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusContent:
    """The documents of a corpus, as its manifest describes them."""

    parts: tuple[ArtifactFile, ...]
    tombstones: ArtifactFile | None
    num_documents: int
    num_passages: int


class PartDocuments:
    """The document of every passage of a part, each part read from the store at most once."""

    def __init__(
        self, artifacts: Artifacts, known: Mapping[ArtifactFile, Sequence[str]] | None = None
    ) -> None:
        self.artifacts = artifacts
        self._known = dict(known or {})

    def of(self, file: ArtifactFile) -> Sequence[str]:
        if file not in self._known:
            self._known[file] = document_ids(self.artifacts.read_bytes(file), source=file.path)
        return self._known[file]

    def counts(
        self, parts: Sequence[ArtifactFile], deleted: Collection[str]
    ) -> tuple[dict[str, int], list[bool]]:
        """The passages of every document that counts, and for each part whether any of its rows
        does.
        """
        documents = [self.of(file) for file in parts]
        counts: dict[str, int] = {}
        in_use: list[bool] = []
        for of_part, mask in zip(documents, current_rows(documents, deleted), strict=True):
            counts.update(count_passages(compress(of_part, mask)))
            in_use.append(bool(mask.any()))
        return counts, in_use


def store_part(artifacts: Artifacts, table: pa.Table) -> ArtifactFile:
    """Stores a table of passages as a part, under the content's own name, so that equal sources
    give equal manifests.
    """
    sha256, size_bytes = artifacts.put_bytes(write_part(table))
    return ArtifactFile(path=f"{sha256}.parquet", sha256=sha256, size_bytes=size_bytes)


def with_parts(
    base: CorpusManifest | None, new: Sequence[ArtifactFile], documents: PartDocuments
) -> CorpusContent:
    """The corpus once the new parts stand after those of `base`."""
    deleted = stored_tombstones(documents.artifacts, base.tombstones if base else None)
    deleted -= {document for file in new for document in documents.of(file)}
    if base is not None and _holds(base, new, documents):
        # The same parts in the same order, so that an index of them that was built still fits.
        parts = base.parts
        counts, _ = documents.counts(parts, deleted)
    else:
        old = [part for part in (base.parts if base else ()) if part not in new]
        counts, in_use = documents.counts((*old, *new), deleted)
        # A part without a row that counts would be carried along for ever.
        parts = tuple(compress((*old, *new), in_use))
        deleted &= {document for file in parts for document in documents.of(file)}
    return _content(parts, deleted, counts, documents.artifacts)


def without_documents(
    base: CorpusManifest, unwanted: Collection[str], documents: PartDocuments
) -> tuple[CorpusContent, frozenset[str]]:
    """The corpus without these documents, and which of them it had. All parts stay, so that an
    index of them only has to be told what is gone.
    """
    deleted = stored_tombstones(documents.artifacts, base.tombstones)
    counts, _ = documents.counts(base.parts, deleted)
    found = frozenset(document for document in unwanted if document in counts)
    left = {document: count for document, count in counts.items() if document not in found}
    return _content(base.parts, deleted | found, left, documents.artifacts), found


def document_changes(
    latest: CorpusManifest | None,
    new: Sequence[ArtifactFile],
    documents: PartDocuments,
    *,
    starts_anew: bool,
) -> DocumentChanges:
    """The changes that the new parts make to the corpus as it is at `latest`."""
    old = latest.parts if latest else ()
    deleted = stored_tombstones(documents.artifacts, latest.tombstones if latest else None)
    masks = current_rows([documents.of(file) for file in old], deleted)
    counted = {
        file: set(compress(documents.of(file), mask)) for file, mask in zip(old, masks, strict=True)
    }
    before = {document for found in counted.values() for document in found}
    after = {document for file in new for document in documents.of(file)}
    in_both = before & after
    # Documents in the very same part need not be compared.
    differing = in_both - {document for file in new for document in counted.get(file, ())}
    old_digests = _digests(old, masks, differing, documents)
    all_rows = [np.ones(len(documents.of(file)), dtype=np.bool_) for file in new]
    new_digests = _digests(new, all_rows, differing, documents)
    replaced = [id for id in new_digests if new_digests[id] != old_digests[id]]
    return DocumentChanges(
        new=len(after - before),
        replaced=len(replaced),
        replaced_examples=tuple(replaced[:EXAMPLES_MAX]),
        unchanged=len(in_both) - len(replaced),
        removed=len(before - after) if starts_anew else 0,
    )


def _digests(
    parts: Sequence[ArtifactFile],
    masks: Sequence[Mask],
    wanted: Collection[str],
    documents: PartDocuments,
) -> dict[str, bytes]:
    """The hash of the content of each wanted document, of the rows that the masks let pass."""
    found: dict[str, bytes] = {}
    for file, mask in zip(parts, masks, strict=True):
        ids = documents.of(file)
        rows = mask & np.fromiter((id in wanted for id in ids), dtype=np.bool_, count=len(ids))
        if rows.any():
            data = documents.artifacts.read_bytes(file)
            found.update(document_digests(data, rows, source=file.path))
    return found


def joined_types(
    base: CorpusManifest,
    content: CorpusContent,
    new: Sequence[ArtifactFile],
    new_schema: Schema,
    documents: PartDocuments,
) -> dict[str, ColumnType]:
    """The types of the metadata fields once the new parts stand after those of `base`.

    Raises InvalidArgument as `merge_schemas` does.
    """
    name = f"the corpus {base.corpus!r}"
    old = schema_of(base.metadata_schema, name)
    for field, found in new_schema.items():
        if found.type == ColumnType.FLOAT and base.metadata_schema.get(field) == ColumnType.INT:
            document = _long_integer(content, new, field, documents)
            long_example = None if document is None else f"{name} ({document!r})"
            old[field] = replace(old[field], long_example=long_example)
    return column_types(merge_schemas(old, new_schema))


def _long_integer(
    content: CorpusContent, new: Sequence[ArtifactFile], field: str, documents: PartDocuments
) -> str | None:
    """A document that stays in the corpus and whose integer in `field` a float might round."""
    ids = [documents.of(file) for file in content.parts]
    deleted = stored_tombstones(documents.artifacts, content.tombstones)
    for file, of_part, mask in zip(content.parts, ids, current_rows(ids, deleted), strict=True):
        if file not in new:
            data = documents.artifacts.read_bytes(file)
            rows = np.flatnonzero(mask & long_integer_rows(data, field, source=file.path))
            if rows.size:
                return of_part[int(rows[0])]
    return None


def _holds(base: CorpusManifest, new: Sequence[ArtifactFile], documents: PartDocuments) -> bool:
    """True when the corpus has these parts already and no later part replaces any of their rows."""
    if not set(new) <= set(base.parts):
        return False
    masks = zip(base.parts, current_rows([documents.of(file) for file in base.parts]), strict=True)
    return all(mask.all() for file, mask in masks if file in new)


def _content(
    parts: tuple[ArtifactFile, ...],
    deleted: frozenset[str],
    counts: Mapping[str, int],
    artifacts: Artifacts,
) -> CorpusContent:
    return CorpusContent(
        parts=parts,
        tombstones=store_tombstones(artifacts, deleted, TOMBSTONES_FILE),
        num_documents=len(counts),
        num_passages=sum(counts.values()),
    )
