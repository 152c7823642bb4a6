"""The release log as it stands in the store: no region needs to run."""

from __future__ import annotations

from cluster.numbered_object import NumberedLog
from cluster.object_store import ObjectStore
from cluster.releases import RELEASE_LOG, LogState, fold, parse_entry


def read_release_log(store: ObjectStore) -> LogState:
    """The state of all releases. Raises Corrupt for an entry that cannot be read, and what the
    store raises.
    """
    state = LogState()
    for position, data in NumberedLog(store, RELEASE_LOG).read_after(0):
        state = fold(state, parse_entry(data, position=position))
    return state
