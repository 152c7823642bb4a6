"""The log of mutations in the object store.

    logs/{corpus}/{region}/{n:020}.batch                 object n
    logs/{corpus}/{region}/spans/{level}/{n:020}.batch   what a block of objects up to n comes to
    logs/{corpus}/{region}/floors/{n:020}                objects up to n may be gone

The objects alone are the truth. Those that a base holds, which every region has, are trimmed away.
A writer that was away for long could then create a trimmed object anew, and a reader take it for
what follows. So a floor is stored before anything is removed, objects are removed in the order of
their numbers, and both make sure afterwards that what they have appended to, or read after, was not
trimmed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import (
    Conflict,
    InvalidArgument,
    LogUnreadable,
    NotFound,
    OutcomeUnknown,
    RaygionError,
    Unavailable,
)
from cluster.logs.events import EventLog
from cluster.mutations.batch import Batch, batch_bytes, read_batch
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.mutation_log import READ_MAX, Reading
from cluster.mutations.spans import FANOUT, LEVELS_MAX, Block, blocks_ending_at, cover, span_of
from cluster.mutations.watermark import Watermark
from cluster.store.numbered_log import NumberedLog, read_each
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)

LOGS = "logs"
"""The folder of all logs in the store."""
SPAN_BYTES_MAX = 64 * 2**20
"""Bytes of one span; a block that comes to more has none, and its parts are read."""
_SUFFIX = ".batch"
_NUMBER = re.compile(r"([0-9]{20})(\.batch)?")


class StoreMutationLog:
    """The log of one corpus; see `MutationLog`."""

    def __init__(
        self,
        store: ObjectStore,
        corpus: str,
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
        fanout: int = FANOUT,
    ) -> None:
        """`fanout`: parts of each block, which has to be the same for all that open the log."""
        self._store = store
        self._corpus = corpus
        self._rng = rng
        self._sleep = sleep
        self._fanout = fanout
        self._logs: dict[str, NumberedLog] = {}
        self._known: dict[str, int] = {}
        """An object of each region that was there, and was no trimmed one."""

    def head(self) -> Watermark:
        """See `MutationLog.head`."""
        regions = self._store.list_folders(f"{LOGS}/{self._corpus}")
        return Watermark.of(dict(zip(regions, read_each(self._latest, regions), strict=True)))

    def append(self, batch: Batch, *, deadline: Deadline) -> None:
        """See `MutationLog.append`."""
        if batch.corpus != self._corpus or batch.first != batch.last:
            raise InvalidArgument(f"is no object of the log of {self._corpus}", "batch")
        data, position = batch_bytes(batch), batch.last
        self._log(batch.region).append_at(
            position, data, is_mine=lambda found: found == data, deadline=deadline
        )
        try:
            self._check_not_trimmed(batch.region, position - 1)
        except NotFound:
            self._logs.pop(batch.region, None)
            raise
        except Unavailable as error:
            raise OutcomeUnknown(f"{error.message} (the batch may have landed)") from error

    def read_after(self, watermark: Watermark, *, objects_max: int = READ_MAX) -> Reading:
        """See `MutationLog.read_after`."""
        head = self.head()
        behind = [region for region in head if watermark[region] < head[region]]
        share = max(1, objects_max // max(1, len(behind)))
        batches: list[Batch] = []
        stopped: dict[str, RaygionError] = {}
        for region in behind:
            found, error = self._read(region, watermark[region], head[region], share)
            batches += found
            if error is not None:
                stopped[region] = error
        return Reading(batches=tuple(batches), head=head, stopped=stopped)

    def store_spans(self, policy: ConflictPolicy, region: str, position: int) -> None:
        """Stores the spans of the blocks that end at `position`, if any do.

        Raises what the store raises: nothing is lost by that but time at the next start.
        """
        for block in blocks_ending_at(position, self._fanout):
            parts = block.parts(self._fanout)
            batches, error = self._read_blocks(region, parts, len(parts) * self._fanout)
            if error is not None or not batches or batches[-1].last != block.last:
                return
            data = batch_bytes(span_of(policy, batches))
            if len(data) > SPAN_BYTES_MAX:
                return
            try:
                self._store.put_if_absent(self._path(region, block), data)
            except Conflict:
                log.debug(
                    "mutations.span_exists",
                    "the span of the log of mutations up to {position} is there already",
                    position=position,
                )

    def trim(self, region: str, floor: int) -> int:
        """Removes the objects and spans up to `floor`, which nobody reads any more; returns how
        many. The last object of a log stays, so that its writers find its end.

        An interrupted trim is resumed by the next one. Raises what the store raises.
        """
        floor = min(floor, self._latest(region) - 1)
        if floor < 1:
            return 0
        floors = self._floors(region)
        try:
            self._store.put_if_absent(f"{floors}/{floor:020}", b"")
        except Conflict:
            log.debug(
                "mutations.floor_exists",
                "the floor {floor} of the log of mutations is there already",
                floor=floor,
            )
        removed = 0
        # One after the other: an object is there only if all after it are.
        for folder in (*self._span_folders(region), self._folder(region)):
            for name in self._store.list_names(folder):
                if not 0 < _number(name) <= floor:
                    break
                self._store.remove(f"{folder}/{name}")
                removed += 1
        for name in self._store.list_names(floors):
            if _number(name) < floor:
                self._store.remove(f"{floors}/{name}")
        return removed

    def _read(
        self, region: str, after: int, last: int, objects_max: int
    ) -> tuple[list[Batch], RaygionError | None]:
        blocks: list[Block] = []
        for block in cover(after, last, self._fanout):
            if len(blocks) == objects_max:
                break
            blocks.append(block)
        found, error = self._read_blocks(region, blocks, objects_max)
        try:
            self._check_not_trimmed(region, after)
        except NotFound as trimmed:
            return [], trimmed
        return found, error

    def _read_blocks(
        self, region: str, blocks: Sequence[Block], objects_max: int
    ) -> tuple[list[Batch], RaygionError | None]:
        """The batches of blocks that follow each other, at most so many of them, and why the ones
        behind these could not be read, if it is for that.
        """
        read: dict[Block, Batch | RaygionError] = {}
        wanted = list(blocks)
        while missing := [block for block in wanted if block not in read]:
            found = read_each(lambda block: self._find(region, block), missing)
            read.update(zip(missing, found, strict=True))
            # Where there is no span, or a bad one, its parts are read.
            wanted = [
                part
                for block in wanted
                for part in (
                    block.parts(self._fanout)
                    if block.level and isinstance(read[block], RaygionError)
                    else [block]
                )
            ][:objects_max]
        batches: list[Batch] = []
        for block in wanted:
            batch = read[block]
            if isinstance(batch, RaygionError):
                return batches, batch
            batches.append(batch)
        return batches, None

    def _find(self, region: str, block: Block) -> Batch | RaygionError:
        path = self._path(region, block)
        try:
            return read_batch(
                self._store.get(path),
                corpus=self._corpus,
                region=region,
                first=block.first,
                last=block.last,
                source=path,
            )
        except NotFound:
            return LogUnreadable(
                f"{path} is missing, though later ones exist; restore it from a copy of the store",
                block.first,
            )
        except LogUnreadable as error:
            if block.level:
                log.warning(
                    "mutations.span_ignored",
                    "a span of the log of mutations is ignored: {error}",
                    error=error,
                )
            return error

    def _check_not_trimmed(self, region: str, position: int) -> None:
        """Raises NotFound when objects after `position` may have been removed."""
        if position and self._store.exists(self._log(region).path(position)):
            return
        names = self._store.list_names(self._floors(region))
        if any(_number(name) > position for name in names):
            raise NotFound(
                f"the log of {region} after position {position} is in a base by now: start from it"
            )

    def _latest(self, region: str) -> int:
        known = self._known.get(region, 0)
        if known:
            latest = self._log(region).latest(at_least=known)
            # As long as that one is there, none after it was trimmed away, or created anew.
            if self._store.exists(self._log(region).path(known)):
                self._known[region] = latest
                return latest
        # Spans and floors are far in, so that not all names have to be listed.
        self._logs.pop(region, None)
        latest = 0
        for folder in (*self._span_folders(region), self._floors(region)):
            names = self._store.list_names(folder, f"{latest:020}")
            latest = max([latest, *map(_number, names)])
        self._known[region] = self._log(region).latest(at_least=latest)
        return self._known[region]

    def _log(self, region: str) -> NumberedLog:
        if region not in self._logs:
            self._logs[region] = NumberedLog(
                self._store, self._folder(region), _SUFFIX, rng=self._rng, sleep=self._sleep
            )
        return self._logs[region]

    def _span_folders(self, region: str) -> list[str]:
        """Those of the largest spans first."""
        return [f"{self._folder(region)}/spans/{level}" for level in range(LEVELS_MAX, 0, -1)]

    def _floors(self, region: str) -> str:
        return f"{self._folder(region)}/floors"

    def _path(self, region: str, block: Block) -> str:
        if not block.level:
            return self._log(region).path(block.last)
        return f"{self._folder(region)}/spans/{block.level}/{block.last:020}{_SUFFIX}"

    def _folder(self, region: str) -> str:
        return f"{LOGS}/{self._corpus}/{region}"


def _number(name: str) -> int:
    """The number in the name of an object; 0 in any other name."""
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else 0
