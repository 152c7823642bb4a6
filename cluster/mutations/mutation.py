"""Mutations: the upsert or the delete of one document, as it is asked for and as the log has it."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
import orjson

from cluster.arrays import Float32Array
from cluster.metadata import Metadata
from cluster.mutations.hybrid_clock import HybridTime

Cut: TypeAlias = tuple[int, int]
"""Begin and end of a passage in the text of its document, as indexes of characters."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Content:
    """A document as one mutation sets it: a whole, never a change of parts of it."""

    text: str
    metadata: Metadata
    cuts: tuple[Cut, ...] | None = None
    """The passages; None until the text has been cut."""
    vectors: Float32Array | None = None
    """float32 [len(cuts), d], finite: one of each passage; None until they are embedded, and of a
    text without passages.
    """
    embedder: str | None = None
    """The model version that made the vectors; None where the caller brought them, or there are
    none.
    """

    def __post_init__(self) -> None:
        cuts, vectors = self.cuts or (), self.vectors
        if any(not 0 <= begin <= end <= len(self.text) for begin, end in cuts):
            raise ValueError("a passage is no part of the text")
        if vectors is not None and not (vectors.ndim == 2 and len(vectors) == len(cuts) > 0):
            raise ValueError(f"vectors {vectors.shape} do not fit {len(cuts)} passages")

    @property
    def passages(self) -> list[str]:
        return [self.text[begin:end] for begin, end in self.cuts or ()]

    @property
    def size_bytes(self) -> int:
        """The bytes that it takes in an object of the log, nearly."""
        text_bytes = len(self.text) if self.text.isascii() else len(self.text.encode())
        vector_bytes = 0 if self.vectors is None else self.vectors.nbytes
        cut_bytes = 8 * len(self.cuts or ())
        return text_bytes + len(metadata_bytes(self.metadata)) + cut_bytes + vector_bytes

    def digest(self) -> bytes:
        """SHA-256 of all of it: equal for equal contents alone."""
        parts = [self.text.encode(), metadata_bytes(self.metadata)]
        if self.cuts is not None:
            parts.append(np.asarray(self.cuts, dtype="<i4").tobytes())
        if self.vectors is not None:
            parts.append(self.vectors.astype("<f4", copy=False).tobytes())
            parts.append((self.embedder or "").encode())
        lengths = struct.pack(f"<{1 + len(parts)}Q", len(parts), *map(len, parts))
        return hashlib.sha256(b"".join([lengths, *parts])).digest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Content):
            return NotImplemented
        return self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())


class IfVersion(StrEnum):
    """What a write may demand of a document without naming a version of it."""

    ABSENT = "absent"
    """It must not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A mutation as a caller asks for it: when it counts, and whether, is for the log to say."""

    document: str
    content: Content | None
    """The document as it is to be; None deletes it."""
    key: str | None = None
    """The caller's idempotency key: of several writes of one key one alone is appended."""
    if_version: HybridTime | Literal[IfVersion.ABSENT] | None = None
    """The version that the document must have; None writes whatever it has."""
    timestamp_ms: int | None = None
    """The caller's own time, for a corpus in which the latest of these counts."""

    @property
    def size_bytes(self) -> int:
        """The bytes that it takes in an object of the log, nearly."""
        return 64 + len(self.document) + (0 if self.content is None else self.content.size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One write as the log has it."""

    document: str
    time: HybridTime
    """When it was made: of two mutations of a document the later one counts. It also names the
    version of the document.
    """
    content: Content | None
    """None: the document is deleted."""
    key: str | None = None
    timestamp_ms: int | None = None
    seen: tuple[HybridTime, ...] = ()
    """For each region the latest mutation of this document that the writer had read, in ascending
    order of regions; empty where the corpus does not ask for it.
    """


def metadata_bytes(metadata: Metadata) -> bytes:
    """Canonical JSON: equal metadata are equal bytes."""
    return orjson.dumps(dict(metadata), option=orjson.OPT_SORT_KEYS)
