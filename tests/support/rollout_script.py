"""Drives a rollout by hand: what happened goes in, what is wanted comes out."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.releases.entries import Elect, LogEntry, Propose, ReleaseStatus
from cluster.releases.events import (
    Append,
    EntryRead,
    Event,
    HeartbeatsRead,
    Instruction,
    LogCaughtUp,
    Prepare,
    Prepared,
    RegionStatus,
    ReleaseOutcome,
    Retire,
)
from cluster.releases.requests import ProposeRelease, ReleaseRequest
from cluster.releases.rollout import Rollout
from cluster.releases.settings import RolloutPolicy, RolloutSettings
from tests.support.fakes import Entries, contents, counting_ids

SETTINGS = RolloutSettings(
    prepare_retry_s=5.0, prepare_retry_max_s=20.0, switch_margin_s=1.0, leader_lapse_s=10.0
)
POLICY = RolloutPolicy(prepare_timeout_s=60.0)
CAUGHT_UP = LogCaughtUp()


def status(
    region: str,
    *prepared: int,
    at_ms: int = 0,
    failed: Mapping[int, str] | None = None,
    retrying: Mapping[int, str] | None = None,
) -> RegionStatus:
    """`failed`: what it has given up; `retrying`: what it will try again."""
    return RegionStatus(
        region=region,
        position=0,
        prepared=prepared,
        failed={**(failed or {}), **(retrying or {})},
        gave_up=tuple(failed or ()),
        current=None,
        at_ms=at_ms,
    )


class Script:
    """A rollout, its log as the store would hold it, and the time."""

    def __init__(self, region: str = "a", log: list[LogEntry] | None = None) -> None:
        self.rollout = Rollout(region=region, settings=SETTINGS)
        self.log: list[LogEntry] = []
        self.now_ms = 0
        self.new_id = counting_ids(region)
        self.entries = Entries()
        for entry in log or []:
            self.read(entry)

    def handle(self, event: Event) -> list[Instruction]:
        return self.rollout.handle(event, now_ms=self.now_ms, commit_id=self.new_id())

    def read(self, entry: LogEntry) -> None:
        """The entry stands in the log and is read; nothing is decided on a part of the log."""
        self.log.append(entry)
        assert self.handle(EntryRead(entry=entry)) == []

    def decide(self) -> list[Instruction]:
        return self.handle(CAUGHT_UP)

    def observe(self, outcome: ReleaseOutcome) -> list[Instruction]:
        """What is wanted at once, and with the next decision."""
        return [*self.handle(outcome), *self.decide()]

    def land(self, instruction: Instruction) -> LogEntry:
        """Carries the append out: it must be for the next place."""
        assert isinstance(instruction, Append)
        assert instruction.position == len(self.log) + 1
        self.read(instruction.entry)
        return instruction.entry

    def heartbeats(self, *statuses: RegionStatus) -> list[Instruction]:
        return self.handle(
            HeartbeatsRead(statuses={s.region: s for s in statuses}, at_s=self.now_ms / 1000)
        )

    def elect(self) -> Script:
        append = self.decide()[-1]
        assert isinstance(self.land(append), Elect)
        assert self.rollout.leads
        return self

    def ask(self, request: ReleaseRequest) -> Append:
        return self.rollout.decide(request, now_ms=self.now_ms, commit_id=self.new_id())

    def propose(
        self,
        *targets: str,
        auto_commit: bool = True,
        prepared: bool = False,
        policy: RolloutPolicy = POLICY,
    ) -> int:
        """Proposes the next release; with `prepared`, this region prepares it, too."""
        request = ProposeRelease(
            contents=contents(),
            targets=targets or ("a",),
            auto_commit=auto_commit,
            policy=policy,
        )
        entry = self.land(self.ask(request))
        assert isinstance(entry, Propose)
        number = entry.release.number
        if prepared:
            assert self.decide() == [Prepare(release=entry.release)]
            for instruction in self.observe(Prepared(release=number)):
                self.land(instruction)
        return number

    def committed(self, *targets: str) -> int:
        """A release that is committed, prepared here and current."""
        number = self.propose(*targets, prepared=True)
        assert self.rollout.state.proposals[number].status is ReleaseStatus.COMMITTED
        self.now_ms += 5_000
        return number


def kinds(instructions: list[Instruction]) -> list[object]:
    """What is wanted, in short: the entries to append, and the releases to load and unload."""
    short: list[object] = []
    for instruction in instructions:
        match instruction:
            case Append(entry=entry):
                short.append(type(entry))
            case Prepare(release=release):
                short.append(("prepare", release.number))
            case Retire(release=number):
                short.append(("retire", number))
    return short
