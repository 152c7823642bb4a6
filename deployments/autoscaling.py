"""How many replicas Ray Serve runs of a deployment: a number, or as many as the load asks for."""

from __future__ import annotations

from typing import Any

_UPSCALE_DELAY_S = 3.0
_DOWNSCALE_DELAY_S = 120.0
"""A replica costs seconds and imports to start, so it stays for a while after the load has gone."""


def replica_count(least: int, most: int, *, requests_target: float) -> dict[str, Any]:
    """The part of a deployment's options that says how many replicas there are.

    With `most` above `least`, Serve adds replicas while one has more than `requests_target`
    requests under way on average, and takes them away again once there is less to do.
    """
    if most <= least:
        return {"num_replicas": least}
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": requests_target,
            "upscale_delay_s": _UPSCALE_DELAY_S,
            "downscale_delay_s": _DOWNSCALE_DELAY_S,
            "metrics_interval_s": 1.0,
            "look_back_period_s": 5.0,
        }
    }
