"""Keeps the number of a corpus's parts in proportion to its size, however many times it was added
to: every manifest names all parts, and every ingest and build reads them.

The idea is that of log-structured merge trees: small parts are gathered, and when there are many of
them, one takes the place of all.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import compress

import pyarrow as pa

from cluster.artifacts.files import ArtifactFile
from cluster.catalog.manifests import TOMBSTONES_FILE
from cluster.documents.content import CorpusContent, PartDocuments, store_part
from cluster.documents.passages import Types, current_rows, read_part
from cluster.documents.tombstones import store_tombstones, stored_tombstones

SMALL_PART_BYTES = 4 * 2**20
SMALL_PARTS_MAX = 32


def compacted(
    content: CorpusContent,
    types: Types,
    dimension: int | None,
    documents: PartDocuments,
    *,
    small_part_bytes: int = SMALL_PART_BYTES,
    small_parts_max: int = SMALL_PARTS_MAX,
) -> CorpusContent:
    """The same documents in fewer parts, where more than `small_parts_max` parts have less than
    `small_part_bytes` each.

    Stores the new parts. Rows that do not count are not taken along, so the order of parts says
    nothing about those that are merged.
    """
    small = [part.size_bytes < small_part_bytes for part in content.parts]
    if sum(small) <= small_parts_max:
        return content
    artifacts = documents.artifacts
    deleted = stored_tombstones(artifacts, content.tombstones)
    masks = current_rows([documents.of(part) for part in content.parts], deleted)
    merged: list[ArtifactFile] = []
    tables: list[pa.Table] = []
    size_bytes = 0
    for part, mask in compress(zip(content.parts, masks, strict=True), small):
        table = read_part(artifacts.read_bytes(part), types, dimension, source=part.path)
        tables.append(table.filter(pa.array(mask)))
        size_bytes += part.size_bytes
        if size_bytes >= small_part_bytes:
            merged.append(store_part(artifacts, pa.concat_tables(tables)))
            tables, size_bytes = [], 0
    if tables:
        merged.append(store_part(artifacts, pa.concat_tables(tables)))
    large = [part for part in content.parts if part.size_bytes >= small_part_bytes]
    left = deleted & {document for part in large for document in documents.of(part)}
    return replace(
        content,
        parts=(*large, *merged),
        tombstones=store_tombstones(artifacts, left, TOMBSTONES_FILE),
    )
