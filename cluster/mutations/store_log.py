"""The log of mutations in the object store.

    logs/{corpus}/{region}/{n:020}.batch                 object n
    logs/{corpus}/{region}/spans/{level}/{n:020}.batch   what a block of objects up to n comes to

The objects alone are the truth. Of those that a base holds, which every region has, the content is
trimmed away. Their names stay, with a mark of some bytes: a writer that was away for long could
otherwise create a trimmed object anew, and take its writes for stored.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import islice

from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import (
    Conflict,
    InvalidArgument,
    LogUnreadable,
    NotFound,
    RaygionError,
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
_NUMBER = re.compile(r"([0-9]{20})\.batch")
_TRIMMED = b"trimmed\n"
_TRIMMED_AT_ONCE = 32


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

    def head(self) -> Watermark:
        """See `MutationLog.head`."""
        return self._head(Watermark())

    def append(self, batch: Batch, *, deadline: Deadline) -> None:
        """See `MutationLog.append`."""
        if batch.corpus != self._corpus or batch.first != batch.last:
            raise InvalidArgument(f"is no object of the log of {self._corpus}", "batch")
        data = batch_bytes(batch)

        def is_mine(found: bytes) -> bool:
            if found == _TRIMMED:
                raise _trimmed(batch.region, batch.last)
            return found == data

        self._log(batch.region).append_at(batch.last, data, is_mine=is_mine, deadline=deadline)

    def read_after(self, watermark: Watermark, *, objects_max: int = READ_MAX) -> Reading:
        """See `MutationLog.read_after`."""
        head = self._head(watermark)
        behind = [region for region in head if watermark[region] < head[region]]
        share = max(1, objects_max // max(1, len(behind)))
        batches: list[Batch] = []
        stopped: dict[str, RaygionError] = {}
        for region in behind:
            blocks = islice(cover(watermark[region], head[region], self._fanout), share)
            found, error = self._read(region, list(blocks), share)
            batches += found
            if error is not None:
                stopped[region] = error
        return Reading(batches=tuple(batches), head=head, stopped=stopped)

    def store_spans(self, policy: ConflictPolicy, region: str, position: int) -> None:
        """Stores the spans of the blocks that end at `position`, if any do.

        Raises what the store raises, and LogUnreadable for objects that are no log of a region when
        put together: nothing is lost by that but time at the next start.
        """
        for block in blocks_ending_at(position, self._fanout):
            parts = block.parts(self._fanout)
            batches, error = self._read(region, parts, len(parts) * self._fanout)
            if error is not None or not batches or batches[-1].last != block.last:
                return
            data = batch_bytes(_span(policy, batches))
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
        """Takes away the content of the objects up to `floor`, which nobody reads any more, and the
        spans up to there; returns how many objects had one.

        An interrupted trim is resumed by the next one. Raises what the store raises.
        """
        for folder in self._span_folders(region):
            for name in self._store.list_names(folder):
                if _number(name) <= floor:
                    self._store.remove(f"{folder}/{name}")
        floor = min(floor, self._latest(region))
        # Objects are trimmed in the order of their numbers, but for those of one go.
        numbers = range(1, floor + 1)
        trimmed = bisect_left(numbers, True, key=lambda n: self._has_content(region, n))
        count = 0
        for first in range(max(1, trimmed + 1 - _TRIMMED_AT_ONCE), floor + 1, _TRIMMED_AT_ONCE):
            at_once = range(first, min(first + _TRIMMED_AT_ONCE, floor + 1))
            count += sum(read_each(lambda n: self._trim_one(region, n), at_once))
        return count

    def _trim_one(self, region: str, position: int) -> bool:
        has_content = self._has_content(region, position)
        if has_content:
            self._store.put(self._log(region).path(position), _TRIMMED)
        return has_content

    def _has_content(self, region: str, position: int) -> bool:
        try:
            return self._store.size(self._log(region).path(position)) != len(_TRIMMED)
        except NotFound:
            return True  # what was lost is trimmed, too

    def _head(self, at_least: Watermark) -> Watermark:
        regions = self._store.list_folders(f"{LOGS}/{self._corpus}")
        latest = read_each(lambda region: self._latest(region, at_least[region]), regions)
        return Watermark.of(dict(zip(regions, latest, strict=True)))

    def _read(
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
            data = self._store.get(path)
            if data == _TRIMMED:
                return _trimmed(region, block.last)
            return read_batch(
                data,
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

    def _latest(self, region: str, at_least: int = 0) -> int:
        if region not in self._logs:
            # Spans end far in, so that not all names have to be listed.
            for folder in self._span_folders(region):
                names = self._store.list_names(folder, f"{at_least:020}{_SUFFIX}")
                at_least = max([at_least, *map(_number, names)])
        return self._log(region).latest(at_least=at_least)

    def _log(self, region: str) -> NumberedLog:
        if region not in self._logs:
            self._logs[region] = NumberedLog(
                self._store, self._folder(region), _SUFFIX, rng=self._rng, sleep=self._sleep
            )
        return self._logs[region]

    def _span_folders(self, region: str) -> list[str]:
        """Those of the largest spans first."""
        return [f"{self._folder(region)}/spans/{level}" for level in range(LEVELS_MAX, 0, -1)]

    def _path(self, region: str, block: Block) -> str:
        if not block.level:
            return self._log(region).path(block.last)
        return f"{self._folder(region)}/spans/{block.level}/{block.last:020}{_SUFFIX}"

    def _folder(self, region: str) -> str:
        return f"{LOGS}/{self._corpus}/{region}"


def _span(policy: ConflictPolicy, batches: Sequence[Batch]) -> Batch:
    first, last = batches[0].first, batches[-1].last
    try:
        return span_of(policy, batches)
    except ValueError as error:
        region = batches[0].region
        raise LogUnreadable(
            f"positions {first} to {last} of the log of {region} are no log together: {error}",
            first,
        ) from error


def _trimmed(region: str, position: int) -> NotFound:
    return NotFound(
        f"position {position} of the log of {region} was trimmed away, since a base holds it; "
        "start from that base"
    )


def _number(name: str) -> int:
    """The number in the name of an object; 0 in any other name."""
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else 0
