"""A number of replicas, or bounds that Ray Serve accepts."""

from __future__ import annotations

import pytest
from ray.serve.config import AutoscalingConfig

from deployments.autoscaling import replica_count


@pytest.mark.parametrize(("least", "most"), [(1, 1), (3, 3), (3, 2)])
def test_without_room_the_number_is_fixed(least: int, most: int) -> None:
    assert replica_count(least, most, requests_target=8.0) == {"num_replicas": least}


def test_with_room_serve_scales_between_the_bounds() -> None:
    options = replica_count(2, 5, requests_target=8.0)
    assert options.keys() == {"autoscaling_config"}
    config = AutoscalingConfig(**options["autoscaling_config"])
    assert (config.min_replicas, config.max_replicas) == (2, 5)
    assert config.target_ongoing_requests == 8.0
