"""The number of replicas of a deployment of Ray Serve: fixed, or by the load."""

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingContext

IN_FLIGHT = "raygion_in_flight"
"""Name under which replicas that count their requests themselves report the count."""
LEAST = "raygion_least"
"""Name under which they report the number of replicas that should always run."""
_UPSCALE_DELAY_S = 3.0
_DOWNSCALE_DELAY_S = 120.0
"""A replica costs seconds and imports to start, so it stays for a while after the load has gone."""


def replica_count(
    least: int, most: int, *, requests_target: float, counts_itself: bool = False
) -> dict[str, Any]:
    """The part of a deployment's options that says how many replicas there are.

    With `most` above `least`, Serve adds replicas while one has more than `requests_target`
    requests under way on average, and takes them away again once there is less to do.
    `counts_itself`: the replicas say by `record_autoscaling_stats` what is under way; Serve sees
    only a part of it.
    """
    if most <= least:
        return {"num_replicas": least}
    policy = {"policy": {"policy_function": f"{__name__}:by_in_flight"}} if counts_itself else {}
    return {
        "autoscaling_config": {
            **policy,
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": requests_target,
            "upscale_delay_s": _UPSCALE_DELAY_S,
            "downscale_delay_s": _DOWNSCALE_DELAY_S,
            "metrics_interval_s": 1.0,
            "look_back_period_s": 5.0,
        }
    }


def by_in_flight(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """A policy of Serve's: how many replicas would be busy as wanted, and at least as many as the
    replicas say; before delays and bounds.
    """
    metrics = context.aggregated_metrics or {}
    reported = metrics.get(IN_FLIGHT, {})
    if not reported:
        return context.target_num_replicas, {}
    # A replica that has not reported yet has little to do.
    assert context.config is not None, "Serve asks only deployments that scale"
    busy = math.fsum(reported.values()) / context.config.get_target_ongoing_requests()
    return max(busy, *metrics.get(LEAST, {}).values(), 0.0), {}
