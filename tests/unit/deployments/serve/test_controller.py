"""Serve's controller, once Raygion's callback was called."""

from __future__ import annotations

import pytest
from ray.serve._private import controller, deployment_scheduler
from ray.serve._private.utils import call_function_from_import_path

from deployments.serve.controller import CALLBACK
from deployments.serve.watched_haproxy import WatchedHAProxyManager


def test_it_places_replicas_and_starts_haproxy_as_raygion_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = deployment_scheduler.DeploymentScheduler
    placed = scheduler._schedule_replica
    monkeypatch.setattr(scheduler, "_schedule_replica", placed)
    monkeypatch.setattr(controller, "HAProxyManager", controller.HAProxyManager)  # type: ignore[attr-defined]
    call_function_from_import_path(CALLBACK)
    assert scheduler._schedule_replica is not placed
    manager = controller.HAProxyManager  # type: ignore[attr-defined]
    assert issubclass(manager.__ray_metadata__.modified_class, WatchedHAProxyManager)
