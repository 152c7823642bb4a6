"""The sections of the settings on a corpus: how it is cut, built and held."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from cluster.query.evidence import ScoreMin
from cluster.records import Name, Record
from cluster.shards.index_parameters import AutoIndex, NamedIndex

REPLICAS_MAX = 64
AUTO, NAMED = "auto", "named"
"""Tags of the two forms of the index settings."""


class LongPassages(StrEnum):
    """The treatment of passages that are longer than the embedder reads."""

    REFUSE = "refuse"
    """the build refuses, with the longest passages as examples."""
    AVERAGE = "average"
    """such a passage gets the mean vector of its windows, by which less of its content is found."""


TOKENS_MIN = 32
"""Below that a passage is a phrase; and any one character has fewer tokens."""


class ChunkSettings(Record):
    """The cutting of documents into passages, measured in tokens of the embedder."""

    tokens_max: Annotated[int, Field(ge=TOKENS_MIN)] | None = None
    """Length of the longest passage. `null`: as many tokens as the embedder reads. With a larger
    number longer documents stay whole, for which see `long_passages`.
    """
    overlap_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens that two neighbouring passages share, about. `null`: a tenth of `tokens_max`."""
    long_passages: LongPassages = LongPassages.REFUSE
    """Treatment of passages that are longer than the embedder reads."""

    @model_validator(mode="before")
    @classmethod
    def _check_unit(cls, given: object) -> object:
        if isinstance(given, Mapping) and "chars_max" in given:
            raise ValueError(
                "chars_max is no longer read: passages are measured in tokens of the embedder; "
                "leave it out for passages as long as the embedder reads, or write tokens_max "
                "(an English token has some 4 characters)"
            )
        return given


def _index_kind(value: object) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return AUTO if kind == AUTO else NAMED


def _spelt_out(value: object) -> object:
    if value == AUTO:
        return {"kind": AUTO}
    if isinstance(value, Mapping) and "recall" in value and "target_recall" not in value:
        return {"target_recall" if key == "recall" else key: each for key, each in value.items()}
    return value


IndexSettings = Annotated[
    Annotated[AutoIndex, Tag(AUTO)] | Annotated[NamedIndex, Tag(NAMED)],
    Discriminator(_index_kind),
    BeforeValidator(_spelt_out),
]


class CorpusSettings(Record):
    """The index of a corpus and its copies."""

    shards: Annotated[int, Field(ge=1, le=1024)] = 2
    """Shards that the corpus is divided into."""
    replicas: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] = 2
    """Replicas of each shard; `raygion scale` changes their number while the region runs."""
    replicas_max: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] | None = None
    """Replicas of each shard that may run while they are busy. `null`: as many as `replicas`."""
    index: IndexSettings = Field(default_factory=NamedIndex)
    """Kind of index with its parameters; or `auto`, alone or as the kind beside its parameters."""
    chunks: ChunkSettings = Field(default_factory=ChunkSettings)
    regions: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """The only regions that may hold the corpus (data residency). `null`: all regions."""
    partition_by: Annotated[str, Field(min_length=1)] | None = None
    """Metadata field of strings or integers. Documents with equal values form a partition, which is
    kept in one shard; a query whose filter names its partition searches only that partition.
    """
    score_min: ScoreMin = "auto"
    """Least score of a passage that is evidence for an answer. `auto`: the score measured for the
    starter embedder, and none for another embedder. `null`: every passage is evidence.
    """
