"""Lets Ray Serve start a deployment's replicas on the nodes that have the fewest of them.

Serve leaves the choice to Ray, which takes turns through the nodes, whatever runs on them: the
gateway that replaces a lost one may well come beside the one that is left.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.shards.placement import emptiest


def spread_replicas() -> None:
    """Serve's controller calls it in its own process, before it starts a replica."""
    from deployments.serve.serve_private import DeploymentScheduler

    schedule = DeploymentScheduler._schedule_replica

    def schedule_there(
        self: Any,
        scheduling_request: Any,
        default_scheduling_strategy: str,
        target_node_id: str | None = None,
        target_labels: Any = None,
    ) -> bool:
        if target_node_id is None and target_labels is None and _goes_anywhere(scheduling_request):
            target_node_id = _emptiest_node(self, scheduling_request.replica_id.deployment_id)
        return schedule(
            self, scheduling_request, default_scheduling_strategy, target_node_id, target_labels
        )

    DeploymentScheduler._schedule_replica = schedule_there  # type: ignore[method-assign]


def _goes_anywhere(request: Any) -> bool:
    """True when nothing else says where the replica is to run, as a model's placement group
    does.
    """
    placed = (
        request.target_node_id,
        request.placement_group_bundles,
        request.gang_placement_group,
    )
    return all(place is None for place in placed)


def _emptiest_node(scheduler: Any, deployment: Any) -> str | None:
    nodes = scheduler._cluster_node_info_cache.get_active_node_ids()
    counts = Counter(scheduler._running_replicas[deployment].values())
    launching = scheduler._launching_replicas[deployment].values()
    counts.update(one.target_node_id for one in launching if one.target_node_id is not None)
    # Requests come in on the head node, so the first replica is best there.
    return emptiest(counts, nodes, scheduler._head_node_id) if nodes else None
