"""The release log as the checkers read it: by rules of their own, from the bytes."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.judging.history import History

LOG = "releases/"
Entry = dict[str, Any]


@dataclass(slots=True)
class Belief:
    """What everybody must believe who has read the log up to one position."""

    epoch: int = 0
    leader: str | None = None
    switches: tuple[tuple[int, int], ...] = ()
    canary: tuple[int, int] | None = None
    """Release and percentage; it is over with the release's switch, too."""
    status: dict[int, str] = field(default_factory=dict)
    targets: dict[int, set[str]] = field(default_factory=dict)
    auto_commit: dict[int, bool] = field(default_factory=dict)
    num_void: int = 0

    def open_release(self) -> int | None:
        return next((n for n, status in self.status.items() if status == "open"), None)

    def current(self, now_ms: int) -> int | None:
        current = None
        for release, at_ms in self.switches:
            if at_ms <= now_ms:
                current = release
        return current

    def tried(self, now_ms: int) -> tuple[int, int] | None:
        over = self.canary is None or self.canary[0] == self.current(now_ms)
        return None if over else self.canary


def after(belief: Belief, entry: Entry) -> Belief:
    """The belief after one more entry."""
    status, targets = dict(belief.status), {n: set(t) for n, t in belief.targets.items()}
    made = Belief(
        epoch=belief.epoch,
        leader=belief.leader,
        switches=belief.switches,
        canary=belief.canary,
        status=status,
        targets=targets,
        auto_commit=belief.auto_commit,
        num_void=belief.num_void,
    )
    kind, release = entry["kind"], entry.get("release")
    if kind == "elect":
        holds = entry["epoch"] > belief.epoch
    elif entry["epoch"] != belief.epoch:
        holds = False
    elif kind == "propose":
        release = entry["release"]["number"]
        holds = belief.open_release() is None and release == len(status) + 1
    else:
        holds = status.get(release) == ("committed" if kind == "rollback" else "open")
        holds = holds and (kind != "fence" or entry["region"] in entry_targets(belief, release))
        by_hand = not belief.auto_commit.get(release or 0, True)
        holds = holds and (kind != "canary" or (by_hand and belief.switches != ()))
    if not holds:
        made.num_void += 1
    elif kind == "elect":
        made.epoch, made.leader = entry["epoch"], entry["leader"]
    elif kind == "propose":
        status[release], targets[release] = "open", set(entry["targets"])
        made.auto_commit = {**belief.auto_commit, release: entry["auto_commit"]}
    elif kind == "canary":
        made.canary = (release, entry["percent"]) if entry["percent"] else None
    elif kind == "abort":
        status[release] = "aborted"
        made.canary = None if is_of(belief.canary, release) else belief.canary
    elif kind == "fence":
        status[release] = "open"
    else:
        status[release] = "committed"
        made.switches += ((release, entry["switch_at_ms"]),)
        still_open = belief.canary is not None and status[belief.canary[0]] == "open"
        if not still_open and not (kind == "commit" and is_of(belief.canary, release)):
            made.canary = None
    return made


def is_of(canary: tuple[int, int] | None, release: int) -> bool:
    return canary is not None and canary[0] == release


def entry_targets(belief: Belief, release: int | None) -> set[str]:
    return set() if release is None else belief.targets.get(release, set())


def entries(history: History) -> list[Entry]:
    return _read(_log(history))[0]


def beliefs(history: History) -> list[Belief]:
    """By position: the first one is of the empty log."""
    return _read(_log(history))[1]


def _log(history: History) -> tuple[bytes, ...]:
    inside = (path for path in history.content if path.startswith(LOG))
    paths = sorted(path for path in inside if "/" not in path.removeprefix(LOG))
    return tuple(history.content[path] for path in paths)


@functools.lru_cache(maxsize=1)
def _read(log: tuple[bytes, ...]) -> tuple[list[Entry], list[Belief]]:
    found = [json.loads(data) for data in log]
    return found, list(itertools.accumulate(found, after, initial=Belief()))


def holding(history: History) -> list[tuple[int, Entry]]:
    """The entries that are not void, with their positions."""
    known = beliefs(history)
    log = enumerate(entries(history), 1)
    return [(n, entry) for n, entry in log if known[n].num_void == known[n - 1].num_void]
