"""Watermarks: how far into the log of each region a state has come (a version vector), and the
mutations that it has taken in so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Mutation


@dataclass(frozen=True, slots=True)
class Watermark:
    """The position of the last applied object of each region's log; 0 for the regions left out.

    `<=` is the partial order: every position is at most that of the other watermark. Two states of
    which each has read something that the other has not are ordered neither way.
    """

    _positions: tuple[tuple[str, int], ...] = ()
    """Regions in ascending order with their positions, all above 0: equal watermarks are equal
    tuples.
    """

    @classmethod
    def of(cls, positions: Mapping[str, int]) -> Self:
        """Raises ValueError for a negative position."""
        if any(position < 0 for position in positions.values()):
            raise ValueError(f"a position is negative: {dict(positions)}")
        return cls(tuple(sorted((r, n) for r, n in positions.items() if n)))

    def __getitem__(self, region: str) -> int:
        return next((n for name, n in self._positions if name == region), 0)

    def __bool__(self) -> bool:
        """False where nothing has been applied."""
        return bool(self._positions)

    def __iter__(self) -> Iterator[str]:
        """The regions of whose logs something has been applied, in ascending order."""
        return (region for region, _ in self._positions)

    def __le__(self, other: Watermark) -> bool:
        return all(position <= other[region] for region, position in self._positions)

    def joined(self, other: Watermark) -> Watermark:
        """The least watermark that both have reached: what two states know together."""
        mine, theirs = dict(self._positions), dict(other._positions)
        return Watermark.of({r: max(mine.get(r, 0), theirs.get(r, 0)) for r in mine | theirs})

    def common(self, other: Watermark) -> Watermark:
        """The greatest watermark that reaches neither beyond: what both states know."""
        mine, theirs = dict(self._positions), dict(other._positions)
        return Watermark.of({r: min(mine[r], theirs[r]) for r in mine.keys() & theirs.keys()})

    def advanced(self, region: str, position: int) -> Watermark:
        """With this position for the region. Raises ValueError when it is less than before."""
        if position < self[region]:
            raise ValueError(f"{region} is at {self[region]} already, not at {position}")
        return Watermark.of({**dict(self._positions), region: position})

    def as_dict(self) -> dict[str, int]:
        """Positions by region, without those that are 0."""
        return dict(self._positions)


@dataclass(frozen=True, slots=True)
class HeldMutations:
    """Those of each region up to a time: that of the last mutation up to the base's watermark.

    The times in the log of a region ascend, so these are just the mutations up to the watermark;
    and a mutation says its time, but not its position.
    """

    _times: Mapping[str, HybridTime] = field(default_factory=dict)

    @classmethod
    def of(cls, times: Mapping[str, str]) -> Self:
        """Reads what `as_dict` gave. Raises InvalidArgument for anything else."""
        return cls({region: HybridTime.parse(time, "held") for region, time in times.items()})

    def __contains__(self, mutation: Mutation) -> bool:
        last = self._times.get(mutation.time.region)
        return last is not None and mutation.time <= last

    def __le__(self, other: HeldMutations) -> bool:
        """Whether the other one holds all of these."""
        later = other._times
        return all(r in later and time <= later[r] for r, time in self._times.items())

    def common(self, other: HeldMutations) -> HeldMutations:
        """Those that both hold."""
        mine, theirs = self._times, other._times
        return HeldMutations({r: min(mine[r], theirs[r]) for r in mine.keys() & theirs.keys()})

    def joined(self, other: HeldMutations) -> HeldMutations:
        """Those that one of both holds."""
        times = dict(self._times)
        for region, time in other._times.items():
            times[region] = max(time, times.get(region, time))
        return HeldMutations(times)

    def as_dict(self) -> dict[str, str]:
        """The last times by region."""
        return {region: str(time) for region, time in sorted(self._times.items())}
