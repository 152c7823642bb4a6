"""Decides whether a write has come as far among the regions as its writer asked for.

A region has applied a write once it has read it from the log and counts it. All regions that may
hold the corpus apply every write in the end; this is about waiting for some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.errors import NotYet, RaygionError
from cluster.regions.quorum import majority


@dataclass(slots=True)
class AppliedBy:
    """The regions that may hold the corpus, and what each of them has said so far."""

    homes: tuple[str, ...]
    everywhere: bool
    """Whether all of them are waited for; else a majority."""
    applied: set[str] = field(default_factory=set)
    failed: dict[str, RaygionError] = field(default_factory=dict)

    @property
    def needed(self) -> int:
        return len(self.homes) if self.everywhere else majority(len(self.homes))

    @property
    def is_enough(self) -> bool:
        return len(self.applied) >= self.needed

    @property
    def is_hopeless(self) -> bool:
        """Whether those that have not failed are too few."""
        return len(self.homes) - len(self.failed) < self.needed

    def refusal(self) -> NotYet:
        """Why the write has not come so far in time. It comes there later, by itself."""
        late = [region for region in self.homes if region not in self.applied]
        reasons = "; ".join(f"{r}: {self.failed[r].message}" for r in late if r in self.failed)
        return NotYet(
            f"the write is in the store, and {len(self.applied)} of {len(self.homes)} regions have "
            f"applied it, where {self.needed} were asked for; the others ({', '.join(late)}) do so "
            f"by themselves{' (' if reasons else ''}{reasons}{')' if reasons else ''}"
        )
