"""The choice of the region that a command speaks to, if there are several, and the output on
regions.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from cluster.errors import InvalidArgument
from cluster.releases.settings import RolloutPolicy
from deployments.cli.options import opened, read_settings
from deployments.installation import Installation
from deployments.nodes.local_cluster import find_local_cluster

_WORDS = ("all", "quorum")


def anywhere(config: Path | None, region: str | None, store: str | None) -> Installation:
    """The installation for commands that only read the store: any region will do."""
    return opened(config, region or min(read_settings(config).regions), store)


def leading(config: Path | None, region: str | None, store: str | None) -> Installation:
    """The installation for commands that move releases: the region that is named, else one that can
    be joined from this machine, else the one that leads. Any will do: the one that is asked takes
    the lead.
    """
    if region is None and len(read_settings(config).regions) > 1:
        installation = anywhere(config, None, store)
        leader = installation.read_release_log().leader
        # The leader first: it need not take the lead.
        names = sorted(installation.settings.regions, key=lambda name: (name != leader, name))
        within_reach = (n for n in names if _is_within_reach(opened(config, n, store)))
        region = next(within_reach, leader if leader in names else None)
    return opened(config, region, store)


def _is_within_reach(installation: Installation) -> bool:
    if installation.ray_address is not None:
        return True
    found = find_local_cluster(installation.run_folder)
    return found is not None and found.is_alive()


def regions_in(text: str | None, installation: Installation, field: str) -> tuple[str, ...]:
    """The regions of `a,b`, sorted; None stands for all of them. Raises InvalidArgument for unknown
    ones, and for none.
    """
    known = installation.settings.regions
    return tuple(sorted(known)) if text is None else names_in(text, "region", known, field)


def names_in(text: str, what: str, known: Collection[str], field: str) -> tuple[str, ...]:
    """The names of `a,b`, sorted. Raises InvalidArgument for unknown ones, and for none."""
    names = sorted({name.strip() for name in text.split(",")} - {""})
    strangers = [name for name in names if name not in known]
    if strangers or not names:
        wrong = f"there is no {what} {strangers[0]!r}" if strangers else f"names no {what}"
        raise InvalidArgument(f"{wrong}; there is: {', '.join(sorted(known)) or 'none'}", field)
    return tuple(names)


def policy_in(
    installation: Installation, wait_for: str | None, prepare_timeout_s: float | None
) -> RolloutPolicy:
    """The settings' policy with what the command says over it. Raises InvalidArgument."""
    changes = installation.settings.rollout.model_dump()
    if wait_for in _WORDS:
        changes["wait_for"] = wait_for
    elif wait_for is not None:
        changes["wait_for"] = regions_in(wait_for, installation, "wait-for")
    if prepare_timeout_s is not None:
        changes["prepare_timeout_s"] = prepare_timeout_s
    try:
        return RolloutPolicy.model_validate(changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgument(first["msg"], "prepare-timeout") from error
