"""Serve's controller, once Raygion's callback was called."""

from __future__ import annotations

import pytest
from ray.serve._private.utils import call_function_from_import_path  # noqa: TID251

from deployments.serve.controller import CALLBACK
from deployments.serve.serve_private import DeploymentScheduler, controller
from deployments.serve.watched_haproxy import WatchedHAProxyManager


def test_it_places_replicas_and_starts_haproxy_as_raygion_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed = DeploymentScheduler._schedule_replica
    monkeypatch.setattr(DeploymentScheduler, "_schedule_replica", placed)
    monkeypatch.setattr(controller, "HAProxyManager", controller.HAProxyManager)  # type: ignore[attr-defined]
    call_function_from_import_path(CALLBACK)
    assert DeploymentScheduler._schedule_replica is not placed
    manager = controller.HAProxyManager  # type: ignore[attr-defined]
    assert issubclass(manager.__ray_metadata__.modified_class, WatchedHAProxyManager)
