"""Which mutations a base holds, so that nobody has to have them beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Mutation


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

    def joined(self, other: HeldMutations) -> HeldMutations:
        """Those that one of both holds."""
        times = dict(self._times)
        for region, time in other._times.items():
            times[region] = max(time, times.get(region, time))
        return HeldMutations(times)

    def as_dict(self) -> dict[str, str]:
        """The last times by region."""
        return {region: str(time) for region, time in sorted(self._times.items())}
