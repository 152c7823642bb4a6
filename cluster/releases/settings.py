"""The times that a rollout goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from cluster.records import Record
from cluster.releases.entries import WaitFor


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    prepare_retry_s: float = 1.0
    """How long after a first failure to prepare it a release is tried again; each further failure
    doubles that.
    """
    prepare_retry_max_s: float = 15.0
    switch_margin_s: float = 1.0
    """Time from the commit to the switch, in which every region can read the commit. It is twice
    the time between two readings of the log, so that half a second is left for a slow store and for
    clocks that differ. A region that reads the commit even later switches late, and says so.
    """
    leader_lapse_s: float = 3.5
    """A leader whose heartbeat has not changed for so long may be replaced. Heartbeats are written
    each second and read each half second, so that two seconds are left for a slow store or a busy
    machine; and a dead leader is replaced within five. Clocks play no part: each reader goes by the
    time that has passed on its own.
    """


class RolloutPolicy(Record):
    """When a proposed release is committed."""

    wait_for: WaitFor = "all"
    """Regions that a release waits for. `all`: every target region that is not fenced out by the
    deadline. `quorum`: a majority of the target regions. A list: the named regions. A region that
    is not waited for catches up after the commit.
    """
    prepare_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that regions have to prepare a release."""
