"""The interface of every log of mutations, whatever carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.clock import Deadline
from cluster.errors import RaygionError
from cluster.mutations.batch import Batch
from cluster.mutations.watermark import Watermark

MUTATIONS_MAX = 1000
"""Mutations of one object of the log."""
BATCH_BYTES_MAX = 16 * 2**20
"""Bytes of the mutations of one object of the log, nearly."""
READ_MAX = 16
"""Objects that one reading takes at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one look into the logs has found."""

    batches: tuple[Batch, ...]
    """Those of each region in the order of its log and without a gap."""
    head: Watermark
    """The last position of each region's log when the reading began."""
    stopped: Mapping[str, RaygionError]
    """The regions whose logs cannot be read further: LogUnreadable where an object is damaged or
    missing, NotFound where it was trimmed away, so that the reader has to start from a later base.
    The other regions' logs are read all the same.
    """


class MutationLog(Protocol):
    """The mutations of one corpus: for each region a log, to which its writer alone appends.

    What everything above relies on, for all processes and machines that open the same log:

    - the positions of a region's log are 1, 2, 3, ..., and at most one batch ever has one;
    - a batch that `append` has acknowledged is durable, and is found by every `head` and
      `read_after` that starts afterwards;
    - a batch is read as it was written, or not at all.

    Methods block, with a time limit of the carrier, and may be called from several threads.
    """

    def head(self) -> Watermark:
        """The last position of each region's log. Raises what the carrier raises."""
        ...

    def append(self, batch: Batch, *, deadline: Deadline) -> None:
        """Makes the batch the next one of its region's log, for good.

        Raises Conflict when another batch has that position: read the log, then append at the next
        one. Raises OutcomeUnknown when the batch may still land: repeat it, unchanged, until it has
        landed or another one has its position. Raises Unavailable or DeadlineExceeded when it
        certainly will not land, InvalidArgument when it would leave a gap. Raises NotFound when the
        log has been trimmed beyond its position: the writer was away for so long that it has to
        start from a later base, and whether an earlier attempt had landed is not known.
        """
        ...

    def read_after(self, watermark: Watermark, *, objects_max: int = READ_MAX) -> Reading:
        """What follows the watermark, at most so many objects, but one of each region at least.

        A batch may stand for several positions; then it holds those of their mutations that may
        still count. Raises what the carrier raises.
        """
        ...
