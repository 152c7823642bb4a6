"""An object store in memory, and how each process sees it: far away, failing, losing replies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cluster.errors import Conflict, NotFound, OutcomeUnknown, Unavailable
from cluster.releases.entries import RELEASE_LOG
from cluster.releases.release_log import SNAPSHOTS
from cluster.store.numbered_log import read_each
from tests.simulation.clocks.sim_time import Killed, Process, current_stack
from tests.simulation.world.network import STORE, Network

Found = TypeVar("Found")
Key = TypeVar("Key")
CLIENT_TIMEOUT_S = 3.0
"""After so long without a reply an operation is given up."""
_FAULTS = ("refused", "request lost", "reply lost", "late", "sent twice")
_FAULTS_UNDER_WAY = ("refused", "request lost", "late")


@dataclass(frozen=True, slots=True)
class Write:
    """A write that took effect."""

    at_s: float
    path: str
    data: bytes
    writer: str


def is_entry(path: str) -> bool:
    """Whether it is the path of an entry of the release log."""
    return path.startswith(f"{RELEASE_LOG}/") and not path.startswith(SNAPSHOTS)


@dataclass(slots=True)
class Objects:
    """What the store holds, and every write to the logs that ever took effect."""

    is_recorded: Callable[[str], bool] = is_entry
    """By path, whether writes are remembered."""
    content: dict[str, bytes] = field(default_factory=dict)
    folders: dict[str, dict[str, None]] = field(default_factory=dict)
    """Names right inside each folder: of objects and of folders."""
    writes: list[Write] = field(default_factory=list)

    def create(self, write: Write) -> bool:
        if write.path in self.content:
            return False
        self.replace(write)
        return True

    def replace(self, write: Write) -> None:
        if write.path not in self.content:
            path = write.path
            while path:
                path, _, name = path.rpartition("/")
                self.folders.setdefault(path, {})[name] = None
        self.content[write.path] = write.data
        if self.is_recorded(write.path):
            self.writes.append(write)

    def remove(self, write: Write) -> bool:
        folder, _, name = write.path.rpartition("/")
        self.folders.get(folder, {}).pop(name, None)
        return self.content.pop(write.path, None) is not None

    def log_length(self) -> int:
        return sum(is_entry(f"{RELEASE_LOG}/{name}") for name in self.folders.get(RELEASE_LOG, ()))


@dataclass(slots=True)
class Weather:
    """How often operations go wrong; changed while the simulation runs."""

    fault_share: float = 0.0
    crash_share: float = 0.0
    """How often an operation is the last one of its process, before or after its effect."""
    barred: set[str] = field(default_factory=set)
    """The processes whose writes hardly get through, and whose reads often fail."""
    late_writes: int = 0
    """Writes on their way that nobody waits for."""

    def clear_up(self) -> None:
        self.fault_share = self.crash_share = 0.0
        self.barred.clear()


class FaultyStore:
    """The store as one process sees it. Every operation takes time, before and after its effect."""

    def __init__(
        self,
        objects: Objects,
        network: Network,
        process: Process,
        region: str,
        rng: random.Random,
        weather: Weather,
    ) -> None:
        self._objects = objects
        self._network = network
        self._process = process
        self._region = region
        self._rng = rng
        self._weather = weather
        self._is_there = False

    def get(self, path: str) -> bytes:
        return self._read(lambda: self._found(path))

    def exists(self, path: str) -> bool:
        return self._read(lambda: path in self._objects.content)

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        def names() -> list[str]:
            inside = self._inside(folder)
            files = (n for n in inside if f"{folder}/{n}" in self._objects.content)
            return sorted(n for n in files if start_after is None or n > start_after)

        return self._read(names)

    def list_folders(self, folder: str) -> list[str]:
        return self._read(
            lambda: sorted(
                n for n in self._inside(folder) if f"{folder}/{n}" not in self._objects.content
            )
        )

    def put_if_absent(self, path: str, data: bytes) -> None:
        if not self._write(path, data, self._objects.create):
            raise Conflict(f"{path} exists")

    def put(self, path: str, data: bytes) -> None:
        def replace(write: Write) -> bool:
            self._objects.replace(write)
            return True

        self._write(path, data, replace)

    def remove(self, path: str) -> None:
        try:
            self._write(path, b"", self._objects.remove)
        except OutcomeUnknown as error:
            raise Unavailable(f"{path} may still be there") from error

    def size(self, path: str) -> int:
        return len(self.get(path))

    def upload_if_absent(self, path: str, source: Path, sha256: str) -> None:
        raise AssertionError("the coordinator uploads nothing")

    def _found(self, path: str) -> bytes:
        try:
            return self._objects.content[path]
        except KeyError:
            raise NotFound(f"{path} does not exist") from None

    def _inside(self, folder: str) -> dict[str, None]:
        return self._objects.folders.get(folder, {})

    def together(self, look: Callable[[], Found]) -> Found:
        """Reads several objects at once: all of them over one journey, at one moment."""

        def look_at_all() -> Found:
            self._is_there = True
            try:
                return look()
            finally:
                self._is_there = False

        return self._read(look_at_all)

    def _read(self, look: Callable[[], Found]) -> Found:
        if self._is_there:
            return look()
        self._travel(self._region, STORE)
        try:
            found = look()
        finally:
            self._travel(STORE, self._region)
        if self._rng.random() < (0.2 if self._barred() else self._weather.fault_share):
            raise Unavailable("the store does not answer")
        return found

    def _write(self, path: str, data: bytes, effect: Callable[[Write], bool]) -> bool:
        """Whether it took effect; or one of the ways in which writes fail."""

        def take_effect() -> bool:
            now_s = self._network.scheduler.now_s
            return effect(Write(now_s, path, data, self._process.name))

        def arrive() -> None:
            self._weather.late_writes -= 1
            take_effect()

        fault = ""
        if self._barred() and self._rng.random() < 0.95:
            fault = self._rng.choice(_FAULTS_UNDER_WAY)
        elif self._rng.random() < self._weather.fault_share:
            fault = self._rng.choice(_FAULTS)
        if fault == "late":
            # Under way for long: it may land when nobody, its writer least of all, expects it.
            self._weather.late_writes += 1
            self._network.scheduler.after(self._rng.uniform(0.1, 20.0), arrive)
        try:
            self._travel(self._region, STORE)
        except Unavailable as error:
            # Whoever waits in vain for a reply cannot tell which way was cut.
            raise OutcomeUnknown("no reply (cut)") from error
        if fault == "refused":
            raise Unavailable("the store refuses the write")
        landed = take_effect() if fault in ("", "reply lost", "sent twice") else False
        try:
            self._travel(STORE, self._region)
        except Unavailable as error:
            raise OutcomeUnknown("no reply (cut)") from error
        if fault in ("late", "reply lost", "request lost"):
            raise OutcomeUnknown(f"no reply ({fault})")
        # Clients send a request again below the store: the second one finds the first one's object.
        return landed and fault != "sent twice"

    def _barred(self) -> bool:
        return self._process.name in self._weather.barred

    def _travel(self, start: str, end: str) -> None:
        if self._weather.crash_share and self._rng.random() < self._weather.crash_share:
            self._process.kill()
            raise Killed
        if self._network.is_cut(start, end):
            self._process.sleep(CLIENT_TIMEOUT_S)
            raise Unavailable("no reply in time")
        delay_s = self._network.delay_s(start, end)
        self._process.sleep(min(delay_s, CLIENT_TIMEOUT_S))
        if delay_s >= CLIENT_TIMEOUT_S:
            raise Unavailable("no reply in time")


def read_together(read: Callable[[Key], Found], keys: Sequence[Key]) -> list[Found]:
    """Stands in for `read_each`: the process that runs reads all at once, over one journey."""
    if len(keys) <= 1:
        return read_each(read, keys)
    process: Any = current_stack().process
    store: FaultyStore = process.store
    return store.together(lambda: [read(key) for key in keys])
