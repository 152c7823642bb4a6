"""Waits of tests for what another thread or process does."""

from __future__ import annotations

from collections.abc import Callable

from cluster.clock import wait_until


def wait_for(holds: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Returns once `holds` is true. The timeout is there for a broken test, not for a slow one."""
    assert wait_until(holds, timeout_s, poll_s=0.01), f"waited {timeout_s:g} s in vain"
