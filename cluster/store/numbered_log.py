"""A log of numbered objects, created one after the other; it knows nothing of what they mean."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cluster.clock import SYSTEM_CLOCK, Backoff, Deadline, system_rng
from cluster.errors import (
    Conflict,
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from cluster.logs.events import EventLog
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)

PROBES_MAX = 4
_READERS = 32
"""Reads at once: what a coordinator that starts has to read is mostly waiting for the store."""
K = TypeVar("K")
T = TypeVar("T")


def put_or_get(
    store: ObjectStore,
    path: str,
    data: bytes,
    *,
    deadline: Deadline,
    backoff: Backoff,
    rng: random.Random | None = None,
    sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
) -> bytes:
    """Creates the object, or finds it created; returns what `path` holds from now on.

    A lost reply is resolved by reading back, and the write is repeated only while nothing is there,
    which is safe since it is conditional. Attempts end with `backoff` and `deadline`, whichever is
    first. Raises OutcomeUnknown when the write may still take effect; Unavailable or
    DeadlineExceeded when it certainly did not.
    """
    rng = rng or system_rng()
    in_doubt: OutcomeUnknown | None = None
    unavailable: Unavailable | None = None
    for attempt in range(backoff.attempts_max):
        if attempt:
            sleep(min(backoff.wait_s(attempt - 1, rng), deadline.remaining_s()))
        if deadline.expired():
            break
        try:
            store.put_if_absent(path, data)
            return data
        except Conflict:
            log.debug("numbered_log.exists", "{path} exists already", path=path)
        except OutcomeUnknown as error:
            in_doubt = error
        except Unavailable as error:
            unavailable = error
            continue
        try:
            return store.get(path)
        except NotFound:
            log.debug("numbered_log.not_there", "{path} is not there; trying again", path=path)
        except Unavailable as error:
            in_doubt = in_doubt or OutcomeUnknown(
                f"{path} may or may not have been written: {error.message}"
            )
    if in_doubt is not None:
        raise in_doubt
    if unavailable is not None:
        raise unavailable
    raise DeadlineExceeded(f"time ran out before {path} could be written")


def read_each(read: Callable[[K], T], keys: Sequence[K]) -> list[T]:
    """The result of `read` for each key, in their order; several are read at once."""
    if len(keys) <= 1:
        return [read(key) for key in keys]
    with ThreadPoolExecutor(min(_READERS, len(keys))) as readers:
        return list(readers.map(read, keys))


class NumberedLog:
    """The objects `{prefix}/{n:020}{suffix}` for n = 1, 2, 3, ... in the order of their appending.

    Entry n exists only when all before it exist. Entries are never rewritten, unless to trim away
    what nobody reads any more, and never removed: a slow writer could otherwise create a removed
    number anew. May be used by several threads and processes at once.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        suffix: str = ".json",
        *,
        backoff: Backoff | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._suffix = suffix
        self._backoff = backoff or Backoff()
        self._rng = rng or system_rng()
        self._sleep = sleep
        self._name = re.compile(rf"([0-9]{{20}}){re.escape(suffix)}")
        # Only a hint of where to look first: a thread that sets it back costs a request, never
        # correctness.
        self._seen = 0
        self._warned: set[str] = set()

    def path(self, n: int) -> str:
        """Path in the store of entry `n`."""
        return f"{self._prefix}/{n:020}{self._suffix}"

    def latest(self, *, at_least: int = 0) -> int:
        """The number of the last entry, 0 when there is none. `at_least`: one that the caller has
        found there, from which on it is looked for.

        Not less than any number acknowledged before the call, by whatever process.
        """
        self._seen = max(self._seen, at_least)
        if self._seen:
            for n in range(self._seen + 1, self._seen + 1 + PROBES_MAX):
                if not self._store.exists(self.path(n)):
                    return n - 1
                self._seen = n
        seen = self._seen
        names = self._store.list_names(
            self._prefix, self.path(seen).rpartition("/")[2] if seen else None
        )
        numbers = (self._number(name) for name in names)
        self._seen = max((number for number in numbers if number is not None), default=seen)
        return self._seen

    def read(self, n: int) -> bytes:
        """The bytes of entry `n`; NotFound when the log does not reach so far."""
        return self._store.get(self.path(n))

    def read_after(self, n: int) -> list[tuple[int, bytes]]:
        """All entries after `n`, in order and without a gap.

        Raises Corrupt when one of them is missing from the store.
        """
        found: list[tuple[int, bytes]] = []
        numbers = range(n + 1, self.latest() + 1)
        for number, data in zip(numbers, self.read_range(numbers), strict=True):
            if data is None:
                raise Corrupt(f"{self.path(number)} is missing, though later entries exist")
            found.append((number, data))
        return found

    def read_range(self, numbers: range) -> list[bytes | None]:
        """The bytes of these entries, None for one that is missing."""
        return read_each(self._find, numbers)

    def append_at(
        self, n: int, data: bytes, *, is_mine: Callable[[bytes], bool], deadline: Deadline
    ) -> None:
        """Makes `data` entry `n`, the one after the latest.

        `is_mine` knows the caller's entry, by its commit id, from anybody else's. Returns when it
        has landed. Raises Conflict when somebody else took the number: refresh, decide again,
        append at the next one. Raises OutcomeUnknown when it may still land: read back before
        anything else. Raises Unavailable or DeadlineExceeded when it certainly will not.
        """
        # A number taken meanwhile is told apart from one's own below.
        if n < 1 or (n > self._seen + 1 and n > self.latest() + 1):
            raise InvalidArgument(f"entry {n} of {self._prefix} would leave a gap", field="n")
        found = put_or_get(
            self._store,
            self.path(n),
            data,
            deadline=deadline,
            backoff=self._backoff,
            rng=self._rng,
            sleep=self._sleep,
        )
        if not is_mine(found):
            raise Conflict(f"entry {n} of {self._prefix} was taken by somebody else")
        self._seen = max(self._seen, n)

    def _find(self, n: int) -> bytes | None:
        try:
            return self.read(n)
        except NotFound:
            return None

    def _number(self, name: str) -> int | None:
        match = self._name.fullmatch(name)
        if match is not None:
            return int(match[1])
        if name not in self._warned:
            self._warned.add(name)
            log.warning(
                "numbered_log.no_entry",
                "{path} is no entry of this log and is ignored",
                path=f"{self._prefix}/{name}",
            )
        return None
