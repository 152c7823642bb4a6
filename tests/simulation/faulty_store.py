"""An object store in memory, and how each process sees it: slow, failing, losing replies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import Conflict, NotFound, OutcomeUnknown, Unavailable
from tests.simulation.sim_time import Killed, Process, Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write that took effect."""

    at_s: float
    path: str
    data: bytes
    writer: str


@dataclass(slots=True)
class Objects:
    """What the store holds, and every write that ever took effect."""

    content: dict[str, bytes] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)

    def create(self, write: Write) -> bool:
        if write.path in self.content:
            return False
        self.replace(write)
        return True

    def replace(self, write: Write) -> None:
        self.content[write.path] = write.data
        self.writes.append(write)

    def log(self) -> list[bytes]:
        """The entries of the release log, in order of their names."""
        return [self.content[path] for path in sorted(self.content) if path.startswith("releases/")]


@dataclass(slots=True)
class Weather:
    """How often operations go wrong; changed while the simulation runs."""

    fault_share: float = 0.0
    slow_share: float = 0.0
    crash_share: float = 0.0
    """How often an operation is the last one of its process, before or after its effect."""
    cut_off: set[str] = field(default_factory=set)
    """The processes whose writes hardly get through, and whose reads often fail."""

    def clear_up(self) -> None:
        self.fault_share = self.slow_share = self.crash_share = 0.0
        self.cut_off.clear()


class FaultyStore:
    """The store as one process sees it. Every operation takes time, before and after its effect."""

    def __init__(
        self,
        objects: Objects,
        scheduler: Scheduler,
        process: Process,
        rng: random.Random,
        weather: Weather,
    ) -> None:
        self._objects = objects
        self._scheduler = scheduler
        self._process = process
        self._rng = rng
        self._weather = weather

    def get(self, path: str) -> bytes:
        self._read()
        try:
            return self._objects.content[path]
        except KeyError:
            raise NotFound(f"{path} does not exist") from None

    def exists(self, path: str) -> bool:
        self._read()
        return path in self._objects.content

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        self._read()
        prefix = f"{folder}/"
        names = (p.removeprefix(prefix) for p in self._objects.content if p.startswith(prefix))
        return sorted(n for n in names if "/" not in n and (start_after is None or n > start_after))

    def list_folders(self, folder: str) -> list[str]:
        self._read()
        prefix = f"{folder}/"
        paths = (p.removeprefix(prefix) for p in self._objects.content if p.startswith(prefix))
        return sorted({p.split("/")[0] for p in paths if "/" in p})

    def put_if_absent(self, path: str, data: bytes) -> None:
        if not self._write(path, data, self._objects.create):
            raise Conflict(f"{path} exists")

    def put(self, path: str, data: bytes) -> None:
        def replace(write: Write) -> bool:
            self._objects.replace(write)
            return True

        self._write(path, data, replace)

    def size(self, path: str) -> int:
        return len(self.get(path))

    def download(self, path: str, target: Path) -> None:
        raise AssertionError("the coordinator downloads nothing")

    def upload_if_absent(self, path: str, source: Path, sha256: str) -> None:
        raise AssertionError("the coordinator uploads nothing")

    def _read(self) -> None:
        self._travel()
        if self._rng.random() < (0.2 if self._cut_off() else self._weather.fault_share):
            self._travel()
            raise Unavailable("the store does not answer")

    def _write(self, path: str, data: bytes, effect: Callable[[Write], bool]) -> bool:
        """Whether it took effect; or one of the ways in which writes fail."""

        def take_effect() -> bool:
            now_s = self._scheduler.now_s
            return effect(Write(at_s=now_s, path=path, data=data, writer=self._process.name))

        fault = ""
        if self._cut_off() and self._rng.random() < 0.95:
            fault = self._rng.choice(_FAULTS_CUT_OFF)
        elif self._rng.random() < self._weather.fault_share:
            fault = self._rng.choice(_FAULTS)
        if fault == "late":
            # Under way for long: it may land when nobody, its writer least of all, expects it.
            self._scheduler.after(self._rng.uniform(0.1, 20.0), lambda: take_effect() and None)
        self._travel()
        if fault == "refused":
            raise Unavailable("the store refuses the write")
        landed = take_effect() if fault in ("", "reply lost", "sent twice") else False
        self._travel()
        if fault in ("late", "reply lost", "request lost"):
            raise OutcomeUnknown(f"no reply ({fault})")
        # Clients send a request again below the store: the second one finds the first one's object.
        return landed and fault != "sent twice"

    def _cut_off(self) -> bool:
        return self._process.name in self._weather.cut_off

    def _travel(self) -> None:
        if self._rng.random() < self._weather.crash_share:
            self._process.kill()
            raise Killed
        slow = self._rng.random() < self._weather.slow_share
        self._process.sleep(self._rng.uniform(1.0, 15.0) if slow else self._rng.uniform(0.0, 0.03))


_FAULTS = ("refused", "request lost", "reply lost", "late", "sent twice")
_FAULTS_CUT_OFF = ("refused", "request lost", "late")
