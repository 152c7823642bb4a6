"""The passages that count as evidence for an answer, and the reply where none does."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.records import Name, Record
from cluster.vectors.metric import Metric

_STARTER_COSINE_MIN = 0.31
"""Measured with the starter embedder; docs/answers.md has the figures."""

ScoreMin = Literal["auto"] | Annotated[float, Field(allow_inf_nan=False)] | None
"""The least score of a passage to answer from, as a setting: a number as in the replies to a
search, `auto` for what was measured with the starter embedder (none for another one), or None.
"""


class EvidenceSettings(Record):
    """The answer to a question for which nothing is found."""

    nothing_found: Annotated[str, Field(min_length=1)] = (
        "The documents hold nothing that answers this question."
    )
    """Text that is answered if no passage is evidence."""


class EvidencePolicy(Record):
    """The part of a release that says what its answers may rest on."""

    nothing_found: str
    """The whole answer where no passage is evidence."""
    score_min: dict[Name, float] = Field(default_factory=dict)
    """Least score of a passage that is evidence, by corpus; without a least score, every hit is
    evidence.
    """


def score_min_of(setting: ScoreMin, metric: Metric, *, is_starter: bool) -> float | None:
    """The least score that a setting means, for an index with this metric."""
    if setting != "auto":
        return setting
    if not is_starter:
        return None
    # The starter embedder's vectors have the length 1. The score of L2 is minus the squared
    # distance.
    return 2 * _STARTER_COSINE_MIN - 2 if metric is Metric.L2 else _STARTER_COSINE_MIN
