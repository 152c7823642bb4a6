"""The share of the exact answers that an index finds: on average, and in the strata that make the
average.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from cluster.records import Record

QueryKind = Literal["stored", "moved", "held out"]
STORED: Final = "stored"
MOVED: Final = "moved"
HELD_OUT: Final = "held out"
"""Queries that recall is measured with: vectors of the index itself; others near them; vectors of
the corpus that were left out of the index.
"""


class RecallStratum(Record):
    """The recall of an index for the queries of one kind whose neighbourhoods are alike."""

    queries: QueryKind
    crowding: Annotated[int, Field(ge=1)]
    """The quarter of these queries by the score of their tenth hit: 1 is the most crowded."""
    num_queries: int
    recall_at_10: float
    best_found: float
    """The share of these queries whose best hit was found: for a stored vector that is, but for
    inner products, the vector itself.
    """


class Recall(Record):
    """The share of the exact ten best distinct vectors that an index finds."""

    recall_at_10: float
    """Average recall over the queries that were held out of the index, as far as there are such."""
    standard_error: float = 0.0
    """That of the average, since the queries are a sample."""
    strata: tuple[RecallStratum, ...] = ()

    @property
    def least(self) -> float:
        """The recall in the stratum in which the index finds least."""
        return min((s.recall_at_10 for s in self.strata), default=self.recall_at_10)

    @property
    def holes(self) -> tuple[RecallStratum, ...]:
        """The strata in which much less is found than on average, or in which stored vectors are
        not found by themselves: little effort alone does neither. Queries that were held out do not
        count here, for with little effort they find unevenly.
        """
        strata = [stratum for stratum in self.strata if stratum.queries != HELD_OUT]
        num_queries = sum(stratum.num_queries for stratum in strata)
        found = sum(stratum.recall_at_10 * stratum.num_queries for stratum in strata)
        return tuple(
            stratum
            for stratum in strata
            if stratum.recall_at_10 < _EVEN_SHARE * found / num_queries
            or (stratum.queries == STORED and stratum.best_found < _FOUND_SHARE)
        )

    @property
    def has_hole(self) -> bool:
        return bool(self.holes)

    def surely_reaches(self, target: float) -> bool:
        """True when the average over all such queries, of which these are a sample, is at least
        `target`; which is wrong one time in forty.
        """
        return self.recall_at_10 - _ERRORS * self.standard_error >= target


_EVEN_SHARE = 0.8
_FOUND_SHARE = 0.98
_ERRORS = 2.0
