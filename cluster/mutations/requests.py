"""Writes of documents as callers ask for them, and positions as they are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cluster.arrays import Float32Array
from cluster.metadata import Metadata
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import IfVersion
from cluster.mutations.watermark import Watermark


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DocumentWrite:
    """A document to be written as a whole, or to be deleted; not cut and not embedded yet."""

    id: str
    text: str | None
    """None deletes the document."""
    metadata: Metadata
    """Empty for a delete."""
    vector: Float32Array | None = None
    """float32 [d], in a corpus that brings its vectors; None otherwise, and for a delete."""
    key: str | None = None
    """The caller's idempotency key: of several writes of one key one alone takes effect."""
    if_version: HybridTime | Literal[IfVersion.ABSENT] | None = None
    """The version that the document must have; None writes whatever it has."""
    timestamp_ms: int | None = None
    """The caller's own time, for a corpus in which the latest of these counts."""

    @property
    def size_bytes(self) -> int:
        """The bytes of its text and vector, nearly."""
        return len(self.text or "") + (0 if self.vector is None else self.vector.nbytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsPosition:
    """How far one region has come with the documents of a corpus."""

    epoch: str
    version: int
    """The version of that epoch, by which the processes of the region tell their views apart."""
    watermark: Watermark
    read_ms: int
    """Wall clock before the last reading of all regions' logs that was complete; 0 before one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusDocuments:
    """The live documents of a corpus in one region, for people and for other regions."""

    position: DocumentsPosition
    has_log: bool = False
    """Whether any region has written to the corpus, as far as is known."""
    digest: str = ""
    """Of the documents at the position; empty where no log has been read."""
    num_rows: int = 0
    """Rows that the documents have in the memory of each process that searches."""
    size_bytes: int = 0
    waiting: int = 0
    """Writes that wait for their append."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why the logs of regions cannot be read further, by region."""
    trouble: str = ""
    """Why the last reading was not complete; empty if it was."""
