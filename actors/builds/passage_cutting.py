"""The documents of a corpus cut into passages for an embedder, by Ray Data tasks, before the first
of them is embedded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from actors.builds.rows import PartReader, part_rows
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.corpus_settings import ChunkSettings, LongPassages
from cluster.catalog.index_versions import BuildPlan
from cluster.catalog.manifests import CorpusManifest
from cluster.catalog.stored_tokenizer import stored_tokenizer
from cluster.documents.chunking import Chunker
from cluster.documents.passages import cut_passages
from cluster.embedding.tokenizer import EmbedderTokenizer
from cluster.errors import InvalidArgument

_EXAMPLES_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCorpus:
    """All passages of a corpus."""

    passages: ray.data.Dataset
    """Passages, with the ordinal of their part of the corpus in `part`."""
    num_passages: int
    num_averaged: int = 0
    """Number of passages that are longer than the embedder reads."""


def cut_corpus(artifacts: Artifacts, plan: BuildPlan) -> CutCorpus:
    """Documents that bring their vectors are a passage each, for which there is no embedder.

    Raises InvalidArgument when the settings do not fit together, or let passages be longer than the
    embedder reads and do not say that this is meant.
    """
    corpus, embedder, settings = plan.corpus, plan.embedder, plan.settings.chunks
    reader = PartReader(artifacts, corpus)
    if embedder is None:
        return CutCorpus(passages=_read(corpus, reader.read), num_passages=corpus.num_passages)
    tokenizer = stored_tokenizer(artifacts, embedder)
    chunker = Chunker.of(settings, tokenizer)
    passages = _read(corpus, PassageReader(reader, chunker).read).materialize()
    num_averaged = 0
    if chunker.tokens_max > tokenizer.tokens_max:
        long = passages.map_batches(LongPassageFinder(tokenizer).find, batch_format="pyarrow")
        num_averaged = _accepted(long.take_all(), passages.count(), tokenizer.tokens_max, settings)
    return CutCorpus(passages=passages, num_passages=passages.count(), num_averaged=num_averaged)


@dataclass(frozen=True, slots=True)
class PassageReader:
    """Reads parts of a corpus as `PartReader` does, and cuts their documents into passages."""

    parts: PartReader
    chunker: Chunker

    def read(self, batch: Any) -> pa.Table:
        """batch: as for `PartReader.read`"""
        return cut_passages(self.parts.read(batch), self.chunker.chunks)


@dataclass(frozen=True, slots=True)
class LongPassageFinder:
    """Finds passages that are longer than the embedder reads."""

    tokenizer: EmbedderTokenizer

    def find(self, batch: Any) -> pa.Table:
        """The columns `id` and `tokens` of the long ones in a table with `id` and `text`."""
        passages: pa.Table = batch
        texts = [str(text) for text in passages["text"].to_pylist()]
        counts = np.array(self.tokenizer.count(texts), dtype=np.int64)
        table = passages.select(["id"]).append_column("tokens", pa.array(counts))
        return table.filter(pa.array(counts > self.tokenizer.tokens_max))


def _read(corpus: CorpusManifest, read: Any) -> ray.data.Dataset:
    parts = part_rows(corpus)
    return ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
        read, batch_size=1, batch_format="pyarrow"
    )


def _accepted(
    long: list[dict[str, Any]], num_passages: int, tokens_max: int, settings: ChunkSettings
) -> int:
    """Number of passages that are too long. Raises InvalidArgument where these are refused."""
    if long and settings.long_passages is LongPassages.REFUSE:
        longest = sorted(long, key=lambda row: (-row["tokens"], row["id"]))[:_EXAMPLES_MAX]
        examples = ", ".join(f"{row['id']!r} ({row['tokens']:,} tokens)" for row in longest)
        raise InvalidArgument(
            f"{len(long):,} of {num_passages:,} passages are longer than the {tokens_max} tokens "
            f"that the embedder reads: {examples}; leave chunks.tokens_max out, so that they are "
            f"cut, or write `chunks.long_passages: {LongPassages.AVERAGE}`",
            "chunks.tokens_max",
        )
    return len(long)
