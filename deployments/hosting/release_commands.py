"""The requests of people about releases: each asks the coordinator of the joined region, and waits
until it is done.
"""

from __future__ import annotations

from actors.coordinator.client import CoordinatorClient
from cluster.progress import Note
from cluster.releases.entries import ReleaseContents
from cluster.releases.rollback import earlier_release
from cluster.releases.settings import RolloutPolicy
from deployments.installation import Installation

SERVE_TIMEOUT_S = 120.0
"""Time from the commit of a release until it is served."""


def propose(
    installation: Installation,
    contents: ReleaseContents,
    *,
    commit: bool,
    note: Note,
    targets: tuple[str, ...] | None = None,
    policy: RolloutPolicy | None = None,
) -> int:
    """Proposes a release and waits until whoever has to be waited for has prepared it; or, with
    `commit`, until it is served here. `targets` and `policy`: None takes all regions, and what the
    settings say.

    Raises Conflict when the release was aborted.
    """
    policy = policy or installation.settings.rollout
    targets = targets or tuple(sorted(installation.settings.regions))
    client = CoordinatorClient()
    number = client.propose(contents, targets=targets, auto_commit=commit, policy=policy)
    timeout_s = policy.prepare_timeout_s + SERVE_TIMEOUT_S
    if commit:
        client.wait_until_committed(number, timeout_s, note)
        client.wait_until_serving(number, timeout_s)
    else:
        client.wait_until_prepared(number, timeout_s, note)
    return number


def scale(corpus: str, replicas: int) -> None:
    """Asks for so many replicas a shard and waits until all of them serve."""
    client = CoordinatorClient()
    client.scale(corpus, replicas)
    client.wait_until_scaled(corpus, replicas, SERVE_TIMEOUT_S)


def canary(number: int, percent: int) -> None:
    """Gives a prepared release a share of the traffic."""
    CoordinatorClient().canary(number, percent)


def commit(number: int) -> None:
    """Commits a prepared release and waits until it is served."""
    client = CoordinatorClient()
    client.commit(number)
    client.wait_until_serving(number, SERVE_TIMEOUT_S)


def rollback(number: int | None, *, force: bool = False) -> int:
    """Rolls back and waits until the earlier release is served. Raises Conflict where a region has
    not loaded it, or an open release would follow, unless `force` is given.
    """
    client = CoordinatorClient()
    current = client.rollback(number, force=force)
    client.wait_until_serving(current, SERVE_TIMEOUT_S)
    return current


def propose_again(installation: Installation, number: int | None, note: Note) -> int:
    """Proposes what an earlier release is made of as a new one, None that of the one before, and
    waits until it is served here; returns its number. Raises what `propose` raises, NotFound for
    one that there is not, or that was collected.
    """
    earlier = earlier_release(installation.read_release_log(), number)
    return propose(installation, earlier.release.contents, commit=True, note=note)


def abort(number: int, reason: str) -> None:
    """Gives up a release that is not committed."""
    CoordinatorClient().abort(number, reason)
