"""Writing and reading single documents: what a caller asks, and the service that answers.

The HTTP interface and the Python client speak in these values, so that there is one way through the
code for both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cluster.deltas.changes import Changes
from cluster.errors import InvalidArgument, RaygionError
from cluster.metadata import Metadata
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.region_writer import Outcome
from cluster.mutations.requests import DocumentWrite
from cluster.mutations.watermark import Watermark

WRITE_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 10.0


class Acknowledgement(StrEnum):
    """How far writes have come, each level beyond the one before."""

    DURABLE = "durable"
    """They are in the store."""
    VISIBLE = "visible"
    """All processes of the writing region that search show them."""
    QUORUM = "quorum"
    """A majority of the regions that may hold the corpus shows them, this one among them."""
    ALL = "all"
    """All of these regions show them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    corpus: str
    writes: tuple[DocumentWrite | InvalidArgument, ...]
    """The documents, or what is wrong with those that are none."""
    wait: Acknowledgement = Acknowledgement.DURABLE
    timeout_s: float = WRITE_TIMEOUT_S
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    outcomes: tuple[Outcome, ...]
    """The end of each document, in order: one that is `Written` is in the store, whatever comes."""
    acknowledged: Acknowledgement
    """How far those that are written have come; not as far as was asked for if `unmet` is set."""
    unmet: RaygionError | None
    """Why the writes have not come further in time. They do so later, by themselves."""
    region: str
    """Region that wrote."""
    session: str
    """Token for "not older than these writes"; empty where the region cannot make one yet."""
    took_ms: float
    trace_id: str

    @property
    def errors(self) -> tuple[RaygionError, ...]:
        """The errors of the documents that are not written."""
        return tuple(end for end in self.outcomes if isinstance(end, RaygionError))

    def check(self) -> None:
        """Raises the error of the first document that is not written, if there is one."""
        for error in self.errors:
            raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document as it is now."""

    id: str
    text: str
    metadata: Metadata
    version: HybridTime | None
    """None: it is as the corpus was built, and no write has changed it since."""
    num_passages: int | None
    """None where the index alone knows."""
    is_embedded: bool
    """False where its vectors are of another embedder than that of the current release, which then
    shows what was built.
    """
    region: str
    """Region that has read it."""
    trace_id: str


class DocumentService(Protocol):
    """A region that takes writes. Raises the errors of `cluster.errors`."""

    async def write(self, request: WriteRequest) -> WriteResult:
        """Raises what concerns all writes, such as a corpus that is not served here."""
        ...

    async def document(
        self, corpus: str, document: str, timeout_s: float, trace_id: str = ""
    ) -> StoredDocument:
        """Raises NotFound for a document that does not exist, or no longer."""
        ...

    def changes(self, corpus: str, after: Watermark) -> AsyncGenerator[Changes, None]:
        """What has changed since, as it changes; without changes now and then, as a sign of life.
        Each says in its watermark from where to go on. Raises NotFound where not all changes behind
        `after` are kept any more.
        """
        ...
