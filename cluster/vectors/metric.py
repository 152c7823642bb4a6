"""The measures by which vectors are compared."""

from __future__ import annotations

from enum import StrEnum


class Metric(StrEnum):
    """A measure of two vectors. Scores are always "higher is better": for L2 the score is minus
    the squared distance.
    """

    INNER_PRODUCT = "ip"
    COSINE = "cosine"
    L2 = "l2"
