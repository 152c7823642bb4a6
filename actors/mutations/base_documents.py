"""The documents that an index was built of, read from the parts of their corpus."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import CorpusManifest, IndexManifest
from cluster.documents.documents import Document
from cluster.documents.passages import META_PREFIX, conform
from cluster.documents.tombstones import stored_tombstones
from cluster.errors import Corrupt, Unavailable
from cluster.mutations.watermark import Watermark


@dataclass(frozen=True, slots=True)
class _Base:
    index_version: str
    manifest: CorpusManifest
    folder: Path
    """Folder of this machine's cache with the parts."""
    deleted: frozenset[str]


class BaseDocuments:
    """Thread-safe; for threads that may wait: the first question about an index has the parts of
    its corpus copied to this machine.
    """

    def __init__(self, catalog: Catalog, cache: ArtifactCache) -> None:
        self._catalog = catalog
        self._cache = cache
        self._bases: dict[str, _Base] = {}
        """By corpus."""
        self._watermarks: dict[tuple[str, str], Watermark] = {}
        """By corpus and index version."""
        self._opening = threading.Lock()

    def watermark(self, corpus: str, index_version: str) -> Watermark:
        """How far into the logs the index holds what is written. Raises Unavailable where the index
        is not in the store any more, and what the store raises.
        """
        key = corpus, index_version
        if key not in self._watermarks:
            self._watermarks[key] = self._index(corpus, index_version).watermark
        return self._watermarks[key]

    def find(self, corpus: str, index_version: str, document: str) -> Document | None:
        """The document without its vector; None for one that the index does not have.

        Raises Unavailable where the index or its corpus is not in the store any more, Corrupt for a
        part that cannot be read, and what the store raises.
        """
        base = self._base(corpus, index_version)
        if document in base.deleted:
            return None
        # Of two parts with the same document the later one counts.
        for part in reversed(base.manifest.parts):
            found = _rows(base.folder / part.path, document, base.manifest)
            if found.num_rows:
                return _document(found, document)
        return None

    def _base(self, corpus: str, index_version: str) -> _Base:
        with self._opening:
            known = self._bases.get(corpus)
            if known is None or known.index_version != index_version:
                if known is not None:
                    self._cache.unpin(known.manifest.parts)
                self._bases[corpus] = known = self._opened(corpus, index_version)
            return known

    def _opened(self, corpus: str, index_version: str) -> _Base:
        position = self._index(corpus, index_version).corpus_position
        manifest = self._catalog.corpus_at(corpus, position)
        return _Base(
            index_version,
            manifest,
            self._cache.folder_for(manifest.parts),
            stored_tombstones(self._cache.artifacts, manifest.tombstones),
        )

    def _index(self, corpus: str, index_version: str) -> IndexManifest:
        found = self._catalog.find_index(corpus, index_version)
        if found is None:
            raise Unavailable(f"index {index_version} of {corpus!r} is not in the store any more")
        return found[0]


def _rows(part: Path, document: str, manifest: CorpusManifest) -> pa.Table:
    """The rows of the document, without vectors."""
    try:
        with pq.ParquetFile(part, memory_map=True) as file:
            ids: Any = file.read(columns=["document"]).column("document")
            wanted = pc.equal(ids, pa.scalar(document))
            if not pc.any(wanted).as_py():
                return file.schema_arrow.empty_table()
            columns = [name for name in file.schema_arrow.names if name != "vector"]
            table = file.read(columns=columns).filter(wanted)
        return conform(table, manifest.metadata_schema, None)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise Corrupt(f"{part.name} is not a readable part of a corpus: {error}") from error


def _document(rows: pa.Table, document: str) -> Document:
    """An older version has stored a document in several rows, which share its metadata."""
    first = rows.slice(0, 1).to_pylist()[0]
    return Document(
        id=document,
        text="\n".join(str(text) for text in rows.column("text").to_pylist()),
        metadata={
            name.removeprefix(META_PREFIX): value
            for name, value in first.items()
            if name.startswith(META_PREFIX) and value is not None
        },
    )
