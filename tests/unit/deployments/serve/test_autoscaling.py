"""How many replicas Serve is told to run, and what of them decides."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.serve.autoscaling import IN_FLIGHT, by_in_flight, replica_count


def context(reported: dict[str, dict[str, float]] | None) -> AutoscalingContext:
    """What Serve hands to a policy, as far as this one looks at it."""
    made = AutoscalingContext.__new__(AutoscalingContext)
    made._aggregated_metrics_value = reported
    made.config = AutoscalingConfig(target_ongoing_requests=8.0)
    made.target_num_replicas = 2
    return made


@pytest.mark.parametrize(
    ("reported", "wanted"),
    [
        (None, 2),
        ({}, 2),
        ({"other": {"a": 100.0}}, 2),
        ({IN_FLIGHT: {"a": 0.0, "b": 0.0}}, 0.0),
        ({IN_FLIGHT: {"a": 8.0}}, 1.0),
        ({IN_FLIGHT: {"a": 12.0, "b": 12.0}}, 3.0),
    ],
)
def test_gateways_scale_by_what_they_count(
    reported: dict[str, dict[str, float]] | None, wanted: float
) -> None:
    assert by_in_flight(context(reported)) == (wanted, {})


def test_serve_finds_the_policy_by_its_name() -> None:
    options: dict[str, Any] = replica_count(1, 4, requests_target=8.0, counts_itself=True)
    config = AutoscalingConfig(**options["autoscaling_config"])
    # Serve makes a copy of it.
    policy = config.policy.get_policy()
    assert policy(context({IN_FLIGHT: {"a": 12.0, "b": 12.0}})) == (3.0, {})
    plain = replica_count(1, 4, requests_target=8.0)["autoscaling_config"]
    assert "policy" not in plain
    assert replica_count(2, 2, requests_target=8.0) == {"num_replicas": 2}
