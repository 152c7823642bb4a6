"""A region's report on how the regions' answers compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ProbeVerdict(StrEnum):
    ALIKE = "alike"
    DIFFER = "differ"
    TOO_FEW = "too_few"
    """Fewer than two regions answered."""
    QUORUM_DIFFER = "quorum_differ"
    """The regions differed in a search by quorum, not in a probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One question that regions answer differently by the same release."""

    corpus: str
    release: int
    question: str
    answers: Mapping[str, tuple[str, ...]]
    """The regions that say the same, by the beginning of the digest of what they say."""

    @property
    def regions(self) -> frozenset[str]:
        return frozenset(region for same in self.answers.values() for region in same)

    def __str__(self) -> str:
        sides = " against ".join(f"{', '.join(r)} ({digest})" for digest, r in self.answers.items())
        return (
            f"regions answer release {self.release} differently: "
            f"corpus {self.corpus!r}, {self.question}: {sides}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusProbe:
    """One corpus at the last probe."""

    corpus: str
    regions: tuple[str, ...]
    """Names of the regions that answered everything and were compared."""
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceReport:
    """A region's knowledge of how its answers compare with those of the other regions."""

    differs: bool = False
    at_ms: int | None = None
    """Wall clock of the last probe; None before the first one."""
    release: int | None = None
    """Release that the last probe asked for."""
    corpora: tuple[CorpusProbe, ...] = ()
    differences: tuple[Difference, ...] = ()
    """Differences that stand: found by any probe, and not refuted since."""
    probes: Mapping[str, int] = field(default_factory=dict)
    """Probes by outcome, each corpus of a probe counting as one, since the region's front actor
    started.
    """
