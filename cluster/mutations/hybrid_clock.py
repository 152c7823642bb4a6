"""Hybrid logical clocks: one total order of the writes of all regions, close to the true time.

After Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks", OPODIS 2014: a time is
the largest wall clock that its maker had met, and a counter that tells events of one millisecond
apart. Whoever has seen a time stamps later ones only, whatever its own wall clock says. As long as
wall clocks differ by at most the skew, a stamp is ahead of no wall clock by more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cluster.clock import Clock
from cluster.errors import ClockAhead, InvalidArgument

COUNTER_MAX = 2**31 - 1
"""Stamps of one millisecond; the next one borrows from the next millisecond."""


@dataclass(frozen=True, slots=True, order=True)
class HybridTime:
    """The stamp of a mutation. No two mutations have the same one: a region never gives one twice,
    and stamps of two regions differ in the region.
    """

    wall_ms: int
    counter: int
    region: str

    def __str__(self) -> str:
        """The form in which callers see it, as the version of a document."""
        return f"{self.wall_ms}.{self.counter}.{self.region}"

    @classmethod
    def parse(cls, text: str, field: str) -> Self:
        """Reads what `str` wrote. Raises InvalidArgument, naming `field`, for any other text."""
        match text.split(".", 2):
            case [wall_ms, counter, region] if _is_number(wall_ms) and _is_number(counter):
                found = cls(int(wall_ms), int(counter), region)
                if str(found) == text and region and found.counter <= COUNTER_MAX:
                    return found
        raise InvalidArgument(f"{text[:64]!r} is no version of a document", field)


class HybridClock:
    """The clock of one region's writer. Not thread-safe."""

    def __init__(self, region: str, clock: Clock, *, skew_max_ms: int) -> None:
        """`skew_max_ms`: the most by which a stamp may be ahead of this machine's wall clock."""
        self._region = region
        self._clock = clock
        self._skew_max_ms = skew_max_ms
        self._wall_ms = 0
        self._counter = -1

    def stamp(self) -> HybridTime:
        """A time later than every one that this clock has given or observed.

        Raises ClockAhead when the wall clock has gone back so far that such a time would be further
        ahead of it than the skew; nothing has changed then.
        """
        now_ms = self._clock.wall_ms()
        if now_ms > self._wall_ms:
            wall_ms, counter = now_ms, 0
        elif self._counter < COUNTER_MAX:
            wall_ms, counter = self._wall_ms, self._counter + 1
        else:
            wall_ms, counter = self._wall_ms + 1, 0
        self._check(wall_ms, now_ms)
        self._wall_ms, self._counter = wall_ms, counter
        return HybridTime(wall_ms, counter, self._region)

    def observe(self, time: HybridTime) -> None:
        """Takes in a time of another writer, so that all later stamps are later than it.

        Raises ClockAhead when it is further ahead of the wall clock than the skew; nothing has
        changed then.
        """
        if (time.wall_ms, time.counter) <= (self._wall_ms, self._counter):
            return
        self._check(time.wall_ms, self._clock.wall_ms())
        self._wall_ms, self._counter = time.wall_ms, time.counter

    def _check(self, wall_ms: int, now_ms: int) -> None:
        ahead_ms = wall_ms - now_ms
        if ahead_ms > self._skew_max_ms:
            raise ClockAhead(
                f"a write is {ahead_ms} ms ahead of this machine's clock, more than the "
                f"{self._skew_max_ms} ms by which clocks may differ. Set the clocks of all regions "
                "by a time server; writes are refused until this clock has come so far",
                ahead_ms,
            )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19
