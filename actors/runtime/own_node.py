"""The node of the Ray cluster on which this process runs."""

from __future__ import annotations

import ray


def own_node() -> str:
    """The node's id; empty outside of a cluster."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
