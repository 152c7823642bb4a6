"""How far the logs of a corpus may be trimmed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import reduce

from cluster.mutations.watermark import Watermark


def trimmable(bases: Collection[Watermark], applied: Iterable[Watermark]) -> Watermark:
    """The positions up to which nobody reads the logs any more.

    `bases`: of all bases that somebody may still start from. `applied`: what each region's readers
    have come to, the slowest of them. Nothing may be trimmed without a base.
    """
    if not bases:
        return Watermark()
    return reduce(Watermark.common, [*bases, *applied])
