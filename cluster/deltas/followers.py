"""Which version each process has that follows the changes of a corpus."""

from __future__ import annotations

from dataclasses import dataclass

ALIVE_S = 5.0


@dataclass(slots=True)
class _Follower:
    epoch: str
    version: int
    polls: int
    """Its polls that are under way."""
    seen_s: float


class Followers:
    """The processes that have polled in the last few seconds. Not thread-safe."""

    def __init__(self, alive_s: float) -> None:
        """`alive_s`: how long after its last poll a process is waited for."""
        self._alive_s = alive_s
        self._known: dict[str, _Follower] = {}

    def polls(self, process: str, epoch: str, version: int, now_s: float) -> None:
        """The process has that version, and waits for more until `has_polled`."""
        self._forget_gone(now_s)
        known = self._known.setdefault(process, _Follower(epoch, version, 0, now_s))
        known.epoch, known.version = epoch, version
        known.polls += 1

    def has_polled(self, process: str, now_s: float) -> None:
        """A poll has ended, whether the process has its reply or not."""
        known = self._known[process]
        known.polls -= 1
        known.seen_s = now_s

    def have(self, epoch: str, version: int, now_s: float) -> bool:
        """Whether all of them have that version of that epoch, or a later one."""
        self._forget_gone(now_s)
        return all(f.epoch == epoch and f.version >= version for f in self._known.values())

    def _forget_gone(self, now_s: float) -> None:
        gone = [
            p for p, f in self._known.items() if not f.polls and now_s - f.seen_s > self._alive_s
        ]
        for process in gone:
            del self._known[process]
