"""What happened to the documents of one seed, as the checkers judge it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from tests.simulation.world.faulty_store import Write as StoreWrite


@dataclass(slots=True)
class Asked:
    """A write that a client asks for, over all of its attempts."""

    number: int
    at_s: float
    region: str
    document: str
    text: str | None
    """None deletes; each text is written by one write alone."""
    key: str | None
    demands: str | None
    """The version that the document must have."""
    attempts: int = 0
    told_s: float | None = None
    outcome: str = "unknown"
    """`written`, the name of the error, or unknown, since nobody has told."""
    version: str = ""
    position: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What a reader of all logs holds."""

    at_s: float
    reader: str
    watermark: dict[str, int]
    digest: str
    digest_from_scratch: str | None
    """None where it was not computed."""
    documents: dict[str, tuple[str, ...]]
    """Versions of each live document: of siblings several."""


@dataclass(frozen=True, slots=True)
class Read:
    """A client asks for a document, not older than what it was told of its own write."""

    at_s: float
    region: str
    """Where it is looked for."""
    asked: Asked
    watermark: dict[str, int]
    found: str | None
    """The version that is found; None for no document."""
    deleted: str | None
    """The version of the delete that is known, where there is one."""


@dataclass(frozen=True, slots=True)
class Served:
    """The documents that a gateway answers by, and what it says of them."""

    at_s: float
    """When they were chosen."""
    gateway: str
    epoch: str
    watermark: dict[str, int]
    staleness_ms: int
    session: str
    documents: dict[str, str]
    """The version of each live document."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client asked, and what came of it."""

    asked_s: float
    level: str
    max_staleness_ms: int | None
    seen: dict[str, int]
    """What the answers were made by that came before it in the session of its token."""
    served: Served | None
    error: str


@dataclass(slots=True)
class DocumentHistory:
    regions: tuple[str, ...]
    keeps_siblings: bool
    """Whether writes that did not know of each other stay side by side, or the last one wins."""
    writes: list[StoreWrite]
    """Every object of the logs that ever took effect, in order of time."""
    asked: list[Asked] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    accidents: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What had not settled when the quiet time was over."""

    def digest(self) -> str:
        """Equal for equal histories."""
        told = [self.writes, self.asked, self.states, self.reads, self.answers]
        told += [self.accidents, self.failures]
        return hashlib.sha256(repr(told).encode()).hexdigest()
