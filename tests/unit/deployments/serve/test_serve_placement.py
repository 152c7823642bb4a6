"""Serve's own scheduler starts replicas where fewest are, once Raygion's callback was called."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID  # noqa: TID251
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.serve.placement import spread_replicas
from deployments.serve.serve_private import DeploymentScheduler

GATEWAY = DeploymentID(name="gateway", app_name="gateway")
# As Ray writes the ids of nodes.
W1, W2, HEAD = "1a" * 28, "2b" * 28, "3c" * 28


class Actor:
    """Stands for the actor class of a replica; remembers where each was to start."""

    def __init__(self) -> None:
        self.strategies: list[Any] = []

    def options(self, *, scheduling_strategy: Any, **_: object) -> SimpleNamespace:
        self.strategies.append(scheduling_strategy)
        return SimpleNamespace(remote=lambda: "handle")

    @property
    def nodes(self) -> list[str | None]:
        return [
            strategy.node_id if isinstance(strategy, NodeAffinitySchedulingStrategy) else None
            for strategy in self.strategies
        ]


class World:
    def __init__(self, nodes: list[str]) -> None:
        cache: Any = SimpleNamespace(get_active_node_ids=lambda: set(nodes))
        self.scheduler = DeploymentScheduler(cache, HEAD, lambda _: None)
        self.actor = Actor()

    def start(self, name: str, **what: object) -> None:
        replica = ReplicaID(name, GATEWAY)
        request: Any = SimpleNamespace(
            replica_id=replica,
            target_node_id=None,
            gang_placement_group=None,
            placement_group_bundles=None,
            actor_options={"name": name},
            max_replicas_per_node=None,
            actor_def=self.actor,
            actor_init_args=(),
            on_scheduled=lambda *_, **__: None,
            status=None,
        )
        vars(request).update(what)
        self.scheduler._pending_replicas[GATEWAY][replica] = request
        self.scheduler._schedule_replica(request, "SPREAD")

    def runs(self, name: str, node: str) -> None:
        self.scheduler.on_replica_running(ReplicaID(name, GATEWAY), node)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], World]:
    # Restored afterwards.
    monkeypatch.setattr(
        DeploymentScheduler, "_schedule_replica", DeploymentScheduler._schedule_replica
    )
    spread_replicas()
    return World


def test_the_first_one_starts_on_the_head_and_the_next_ones_elsewhere(
    world: Callable[[list[str]], World],
) -> None:
    here = world([W2, W1, HEAD])
    for name in ("a", "b", "c", "d"):
        here.start(name)
    assert here.actor.nodes == [HEAD, W1, W2, HEAD]
    assert all(strategy.soft for strategy in here.actor.strategies)


def test_the_one_that_replaces_a_lost_one_keeps_away_from_the_other(
    world: Callable[[list[str]], World],
) -> None:
    here = world([W1, W2, HEAD])
    here.start("a")
    here.runs("a", HEAD)
    here.start("b")
    here.runs("b", W1)
    here.scheduler.on_replica_stopping(ReplicaID("b", GATEWAY))
    here.start("c")
    assert here.actor.nodes == [HEAD, W1, W1]
    here.runs("c", HEAD)
    here.start("d")
    assert here.actor.nodes[-1] == W1


def test_what_has_a_place_of_its_own_is_left_to_serve(
    world: Callable[[list[str]], World],
) -> None:
    here = world([W1, HEAD])
    here.start("a", target_node_id=W1)
    assert here.actor.nodes == [W1]
    assert not here.actor.strategies[0].soft
