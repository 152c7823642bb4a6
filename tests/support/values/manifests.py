"""Manifests of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

from cluster.catalog.manifests import IndexManifest
from cluster.shards.index_parameters import IndexParameters


def index_manifest(**fields: Any) -> IndexManifest:
    """An index version of one passage, without shards, except for these fields."""
    plain: dict[str, Any] = {
        "corpus": "c",
        "version": "1",
        "corpus_position": 1,
        "dimension": 4,
        "parameters": IndexParameters(),
        "embedder_fingerprint": None,
        "metadata_schema": {},
        "num_documents": 1,
        "num_passages": 1,
        "shards": (),
        "recall_at_10": 1.0,
        "built_at_ms": 0,
    }
    return IndexManifest(**plain | fields)
