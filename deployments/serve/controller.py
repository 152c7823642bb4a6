"""The changes to Ray Serve's controller in Raygion's clusters."""

from __future__ import annotations

CALLBACK = f"{__name__}.change"
"""Value for `RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH`."""


def change() -> None:
    """Serve's controller calls it in its own process, before it starts anything."""
    from deployments.serve.placement import spread_replicas
    from deployments.serve.watched_haproxy import watch_haproxy

    spread_replicas()
    watch_haproxy()
