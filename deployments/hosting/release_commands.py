"""Requests that take a while: each asks the coordinator of the joined region, and waits until what
was asked for is done.
"""

from __future__ import annotations

from actors.coordinator.client import CoordinatorClient
from cluster.progress import Note
from cluster.releases.entries import ReleaseContents
from cluster.releases.requests import CommitRelease, ProposeRelease, RollBackTo
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
    number = client.request(
        ProposeRelease(contents=contents, targets=targets, auto_commit=commit, policy=policy)
    )
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


def switch(request: CommitRelease | RollBackTo) -> int:
    """Makes a release current and waits until it is served here; returns its number. Raises what
    `Rollout.decide` raises.
    """
    client = CoordinatorClient()
    current = client.request(request)
    client.wait_until_serving(current, SERVE_TIMEOUT_S)
    return current


def propose_again(installation: Installation, number: int | None, note: Note) -> int:
    """Proposes what an earlier release is made of as a new one, None that of the one before, and
    waits until it is served here; returns its number. Raises what `propose` raises, NotFound for
    one that there is not, or that was collected.
    """
    earlier = earlier_release(installation.read_release_log(), number)
    return propose(installation, earlier.release.contents, commit=True, note=note)
