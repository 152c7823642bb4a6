"""The events on which somebody has to act. docs/operations.md has a table of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A kind of event that alerts."""

    name: str
    sentence: str
    """Sentence of the event, whose `{names}` are fields."""
    meaning: str
    to_do: str


CANARY_AT_FAULT = Alert(
    name="canary.at_fault",
    sentence="canary release {release} is at fault: {reason}",
    meaning="Requests to a canary release fail, or take too long. Its region sends it no more "
    "requests, and the canary is aborted in all regions.",
    to_do="No action is needed for serving. Read the reason, mend the release, and propose it "
    "again.",
)
REGIONS_DIFFER = Alert(
    name="regions.differ",
    sentence="{difference}",
    meaning="A comparison of the regions found that they answer one release differently.",
    to_do="Stop the region that differs, remove the cache of its machine, and start the region "
    "again.",
)
QUORUM_DIFFERS = Alert(
    name="regions.quorum_differs",
    sentence="{difference}",
    meaning="A search by quorum found that regions answer one release differently.",
    to_do="The same as for `regions.differ`.",
)
ALERTS = (CANARY_AT_FAULT, REGIONS_DIFFER, QUORUM_DIFFERS)
