"""What a measured recall says: whether a target is surely reached."""

from __future__ import annotations

import pytest

from cluster.shards.recall import Recall


@pytest.mark.parametrize(
    ("recall_at_10", "standard_error", "target", "reached"),
    [
        (0.95, 0.0, 0.95, True),
        (0.949, 0.0, 0.95, False),
        # Twice the error has to lie between them.
        (0.96, 0.004, 0.95, True),
        (0.96, 0.006, 0.95, False),
        (1.0, 0.0, 1.0, True),
        (1.0, 0.001, 1.0, False),
    ],
)
def test_a_target_is_surely_reached_when_errors_of_the_sample_cannot_hide_less(
    recall_at_10: float, standard_error: float, target: float, reached: bool
) -> None:
    recall = Recall(recall_at_10=recall_at_10, standard_error=standard_error)
    assert recall.surely_reaches(target) is reached
