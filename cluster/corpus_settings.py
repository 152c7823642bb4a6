"""The sections of the settings on a corpus: how it is cut, built and held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Discriminator, Field, Tag

from cluster.evidence import ScoreMin
from cluster.manifests import AutoIndex, IndexParameters, Name
from cluster.records import Record

REPLICAS_MAX = 64
AUTO, NAMED = "auto", "named"
"""How the two forms of the index settings are told apart."""


class ChunkSettings(Record):
    """How long documents are cut into passages."""

    chars_max: Annotated[int, Field(ge=100, le=100_000)] = 1000


def _index_kind(value: object) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return AUTO if kind == AUTO else NAMED


def _spelt_out(value: object) -> object:
    return {"kind": AUTO} if value == AUTO else value


IndexSettings = Annotated[
    Annotated[AutoIndex, Tag(AUTO)] | Annotated[IndexParameters, Tag(NAMED)],
    Discriminator(_index_kind),
    BeforeValidator(_spelt_out),
]


class CorpusSettings(Record):
    """How a corpus is built and held."""

    shards: Annotated[int, Field(ge=1, le=1024)] = 2
    replicas: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] = 2
    """Of each shard; `raygion scale` changes it while the region runs."""
    replicas_max: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] | None = None
    """More are started while replicas are busy, up to this; None: never more than `replicas`."""
    index: IndexSettings = Field(default_factory=IndexParameters)
    """A kind with its parameters; or `auto`, alone or as the kind beside its own parameters."""
    chunks: ChunkSettings = Field(default_factory=ChunkSettings)
    regions: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """The only regions that may hold it (data residency); None: all of them."""
    partition_by: Annotated[str, Field(min_length=1)] | None = None
    """A metadata field of strings or integers: documents with equal values are a partition, which
    is kept in one shard; a query whose filter names its partition touches only that.
    """
    score_min: ScoreMin = "auto"
    """The least score of a passage to answer from. `auto`: what was measured with the starter
    embedder, and none for another one. `null`: whatever is found is answered from.
    """
