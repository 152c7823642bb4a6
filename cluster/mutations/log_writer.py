"""The writer of one region's log at work: carries out what `RegionWriter` decides."""

from __future__ import annotations

from collections.abc import Callable

from cluster.clock import SYSTEM_CLOCK, Clock, Deadline
from cluster.errors import Conflict, DeadlineExceeded, OutcomeUnknown, Unavailable
from cluster.mutations.batch import Batch
from cluster.mutations.mutation_log import MutationLog, Reading
from cluster.mutations.region_writer import RegionWriter

APPEND_TIMEOUT_S = 10.0


class LogWriter:
    """Reads and appends, one step at a time. For one thread."""

    def __init__(
        self,
        log: MutationLog,
        writer: RegionWriter,
        *,
        appended: Callable[[Batch], None],
        clock: Clock = SYSTEM_CLOCK,
        append_timeout_s: float = APPEND_TIMEOUT_S,
    ) -> None:
        """`appended`: called with each batch that has landed, so that others hear of it at once."""
        self._log = log
        self._writer = writer
        self._appended = appended
        self._clock = clock
        self._append_timeout_s = append_timeout_s

    def read(self) -> Reading:
        """Takes in what one reading of the logs of all regions finds; returns it. Raises what the
        log raises.
        """
        reading = self._log.read_after(self._writer.fold.watermark)
        for batch in reading.batches:
            self._writer.take_in(batch)
        return reading

    def catch_up(self) -> Reading:
        """Takes in what the logs of all regions have; returns the last reading. Before the first
        `step`, so that no write is checked against less than what is known.

        Regions whose logs cannot be read are in its `stopped`. Raises what the log raises.
        """
        while (reading := self.read()).batches:
            pass
        return reading

    def step(self) -> bool:
        """Makes one append, if there is something to append; False if there is not.

        What became of writes is for `RegionWriter.settled` to say. Raises NotFound or LogUnreadable
        when the log of this region cannot be followed: the batch under way stays in doubt, and this
        writer has come to its end.
        """
        writer = self._writer
        began_s = self._clock.monotonic_s()
        batch = writer.next_append(began_s)
        if batch is None:
            return False
        try:
            self._log.append(batch, deadline=Deadline.after(self._append_timeout_s, self._clock))
        except Conflict:
            writer.lost()
            stopped = self.catch_up().stopped
            if batch.region in stopped:
                raise stopped[batch.region] from None
        except OutcomeUnknown:
            writer.left_in_doubt()
        except (Unavailable, DeadlineExceeded) as error:
            writer.failed(error)
        else:
            writer.landed()
            writer.queue.has_taken(self._clock.monotonic_s() - began_s)
            self._appended(batch)
        return True
