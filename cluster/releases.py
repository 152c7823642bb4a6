"""Releases, the entries of the release log, and the state that the log folds to.

                 propose            commit               rollback (to an earlier one)
    (nothing) ------------> OPEN ------------> COMMITTED <-----------------------------
                             | abort
                             `------> ABORTED

    canary: a share of the traffic for a release that is OPEN, and after its commit until the switch

The log is a numbered sequence of entries that is never rewritten. The state is a pure fold over it:
every reader that has read the same entries has the same state. An entry that breaks a rule (an
older epoch, a commit of something that is not open) is void: it changes nothing, for every reader
alike, so that a lapsed leader can do no harm even if its write lands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Literal, assert_never

from pydantic import Field, TypeAdapter, ValidationError

from cluster.errors import Corrupt
from cluster.evidence import EvidencePolicy
from cluster.manifests import ManifestRef, Name
from cluster.prompt import PromptTemplate
from cluster.records import Record

RELEASE_LOG = "releases"
"""The log's folder in the store."""
WaitFor = Literal["all", "quorum"] | Annotated[tuple[Name, ...], Field(min_length=1)]
"""For whom a release waits: every target, a majority of the targets, or the named ones."""


def _is_none(value: object) -> bool:
    # What is left out when there is none leaves the bytes of others as they are.
    return value is None


class ReleaseContents(Record):
    """Everything that an answer depends on."""

    indexes: Annotated[dict[Name, ManifestRef], Field(min_length=1)]
    """One index version for each corpus."""
    embedder: ManifestRef | None = None
    """None when every corpus brings its own vectors."""
    generator: ManifestRef | None = None
    """None serves the search tier alone."""
    prompt: PromptTemplate = PromptTemplate()
    evidence: EvidencePolicy | None = Field(default=None, exclude_if=_is_none)
    """None in releases from before there was one: the model answers whatever was found, or without
    a passage.
    """


class Release(Record):
    """One numbered, immutable release."""

    number: Annotated[int, Field(ge=1)]
    contents: ReleaseContents


class EntryBase(Record):
    epoch: Annotated[int, Field(ge=1)]
    commit_id: str
    """Unique for each append, so that a writer whose reply was lost finds out by reading whether it
    landed.
    """
    at_ms: int


class Elect(EntryBase):
    """`leader` leads from here on, with an epoch higher than all before."""

    kind: Literal["elect"] = "elect"
    leader: Name


class Propose(EntryBase):
    """Asks the target regions to prepare a release."""

    kind: Literal["propose"] = "propose"
    release: Release
    targets: Annotated[tuple[Name, ...], Field(min_length=1)]
    prepare_by_ms: int
    wait_for: WaitFor = "all"
    """Of `all`, those that are late are fenced out; without a quorum, or without one of the named
    regions, the release is aborted. The others catch up after the commit.
    """
    auto_commit: bool = True
    """Whether the leader commits as soon as nobody has to be waited for any more."""


class Commit(EntryBase):
    """The release is current in every region from the moment `switch_at_ms` on."""

    kind: Literal["commit"] = "commit"
    release: int
    switch_at_ms: int


class Abort(EntryBase):
    kind: Literal["abort"] = "abort"
    release: int
    reason: str


class Rollback(EntryBase):
    """A committed release is current again from `switch_at_ms` on."""

    kind: Literal["rollback"] = "rollback"
    release: int
    switch_at_ms: int


class Fence(EntryBase):
    """Leaves a region out of an open release, since it could not prepare it in time."""

    kind: Literal["fence"] = "fence"
    release: int
    region: Name
    reason: str


class Canary(EntryBase):
    """From `at_ms` on, the open release gets `percent` of the traffic; 0 ends that."""

    kind: Literal["canary"] = "canary"
    release: int
    percent: Annotated[int, Field(ge=0, le=99)]


LogEntry = Annotated[
    Elect | Propose | Commit | Abort | Rollback | Fence | Canary, Field(discriminator="kind")
]
_ENTRY: TypeAdapter[LogEntry] = TypeAdapter(LogEntry)


def parse_entry(data: bytes, *, position: int) -> LogEntry:
    """Raises Corrupt when the bytes at `position` of the log are no entry."""
    try:
        return _ENTRY.validate_json(data)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise Corrupt(f"entry {position} of the release log cannot be read: {reason}") from error


class ReleaseStatus(StrEnum):
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What the log says of one release."""

    release: Release
    targets: tuple[str, ...]
    prepare_by_ms: int
    wait_for: WaitFor
    auto_commit: bool
    proposed_at_ms: int
    status: ReleaseStatus = ReleaseStatus.OPEN
    fenced: frozenset[str] = frozenset()
    reason: str | None = None
    tried: bool = False
    """Whether it has been a canary: then every region had prepared it in time."""

    def waits_for(self, prepared: frozenset[str]) -> list[str]:
        """The targets that have to prepare it before it can be committed, in order of name: as far
        as they are neither prepared nor fenced out. Of a quorum all those that could still make it.
        """
        missing = set(self.targets) - prepared - self.fenced
        match self.wait_for:
            case "all":
                return sorted(missing)
            case "quorum":
                enough = 2 * len(prepared.intersection(self.targets)) > len(self.targets)
                return [] if enough else sorted(missing)
            case named:
                return sorted(missing.intersection(named))


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """`release` becomes current at `at_ms`."""

    release: int
    at_ms: int
    position: int
    """Of its entry in the log: orders switches, whatever releases they lead back to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryShare:
    """`release` gets `percent` of the traffic from `at_ms` on, without being current."""

    release: int
    percent: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """The fold over the first `position` entries."""

    position: int = 0
    epoch: int = 0
    leader: str | None = None
    proposals: Mapping[int, Proposal] = field(default_factory=dict)
    switches: tuple[Switch, ...] = ()
    """In log order: of those whose moment has come, the last one counts."""
    canary: CanaryShare | None = None
    """Of the open release, or of one that is committed: until its switch it keeps its share."""
    num_void: int = 0

    @property
    def next_release(self) -> int:
        return len(self.proposals) + 1

    def open_proposal(self) -> Proposal | None:
        return next((p for p in self.proposals.values() if p.status is ReleaseStatus.OPEN), None)

    def aborted(self, last: int) -> dict[int, str]:
        """The `last` releases that were aborted, and why."""
        aborted = [p for p in self.proposals.values() if p.status is ReleaseStatus.ABORTED]
        return {p.release.number: p.reason or "" for p in aborted[-last:]}

    def current(self, now_ms: int) -> int | None:
        """The release that is current at `now_ms`."""
        return next((s.release for s in reversed(self.switches) if s.at_ms <= now_ms), None)

    def canary_at(self, now_ms: int) -> CanaryShare | None:
        """The canary, as long as it is not the current release itself."""
        canary = self.canary
        return None if canary is None or canary.release == self.current(now_ms) else canary

    def canary_in(self, region: str, now_ms: int) -> CanaryShare | None:
        """The canary that takes its share of a region's traffic, if one does."""
        canary = self.canary_at(now_ms)
        if canary is None:
            return None
        proposal = self.proposals[canary.release]
        takes_part = region in proposal.targets and region not in proposal.fenced
        return canary if takes_part else None

    def resident(self, now_ms: int) -> tuple[int, ...]:
        """The releases to keep loaded: the current one, the one before it (for a rollback), what is
        due, what is open.

        In ascending order.
        """
        past = [switch.release for switch in self.switches if switch.at_ms <= now_ms]
        due = [switch.release for switch in self.switches if switch.at_ms > now_ms]
        kept = {*due, *past[-1:]}
        kept |= set([release for release in past if release != past[-1]][-1:])
        if (proposal := self.open_proposal()) is not None:
            kept.add(proposal.release.number)
        return tuple(sorted(kept))


def objection(state: LogState, entry: LogEntry) -> str | None:
    """Why `entry` is void in `state`, or None when it holds."""
    if isinstance(entry, Elect):
        return None if entry.epoch > state.epoch else f"epoch {state.epoch} is already taken"
    if entry.epoch != state.epoch:
        return f"epoch {entry.epoch} is fenced: epoch {state.epoch} leads"
    if isinstance(entry, Propose):
        return _objection_to_propose(state, entry)
    proposal = state.proposals.get(entry.release)
    if proposal is None:
        return f"there is no release {entry.release}"
    if isinstance(entry, Rollback):
        committed = proposal.status is ReleaseStatus.COMMITTED
        return None if committed else f"release {entry.release} is {proposal.status}, not committed"
    if proposal.status is not ReleaseStatus.OPEN:
        return f"release {entry.release} is {proposal.status}, not open"
    if isinstance(entry, Fence) and entry.region not in proposal.targets:
        return f"region {entry.region} is no target of release {entry.release}"
    if isinstance(entry, Canary):
        return _objection_to_canary(state, proposal)
    return None


def _objection_to_canary(state: LogState, proposal: Proposal) -> str | None:
    number = proposal.release.number
    if proposal.auto_commit:
        return f"release {number} is committed as soon as it is prepared: it cannot be a canary"
    if not state.switches:
        return f"there is no committed release beside which release {number} could be tried"
    return None


def _objection_to_propose(state: LogState, entry: Propose) -> str | None:
    if (proposal := state.open_proposal()) is not None:
        return f"release {proposal.release.number} is still open: commit or abort it first"
    if entry.release.number != state.next_release:
        return f"the next release is {state.next_release}, not {entry.release.number}"
    return None


def fold(state: LogState, entry: LogEntry) -> LogState:
    """The state after one more entry."""
    state = replace(state, position=state.position + 1)
    if objection(state, entry) is not None:
        return replace(state, num_void=state.num_void + 1)
    match entry:
        case Elect():
            return replace(state, epoch=entry.epoch, leader=entry.leader)
        case Propose():
            proposal = Proposal(
                release=entry.release,
                targets=entry.targets,
                prepare_by_ms=entry.prepare_by_ms,
                wait_for=entry.wait_for,
                auto_commit=entry.auto_commit,
                proposed_at_ms=entry.at_ms,
            )
            return _with_proposal(state, proposal)
        case Commit() | Rollback():
            switch = Switch(
                release=entry.release, at_ms=entry.switch_at_ms, position=state.position
            )
            proposal = replace(state.proposals[entry.release], status=ReleaseStatus.COMMITTED)
            state = replace(_with_proposal(state, proposal), switches=(*state.switches, switch))
            return _after_switch(state, entry)
        case Abort():
            proposal = state.proposals[entry.release]
            aborted = replace(proposal, status=ReleaseStatus.ABORTED, reason=entry.reason)
            return _without_canary_of(entry.release, _with_proposal(state, aborted))
        case Fence():
            proposal = state.proposals[entry.release]
            fenced = replace(proposal, fenced=proposal.fenced | {entry.region})
            return _with_proposal(state, fenced)
        case Canary():
            tried = replace(state.proposals[entry.release], tried=True)
            share = CanaryShare(release=entry.release, percent=entry.percent, at_ms=entry.at_ms)
            canary = share if entry.percent else None
            return replace(_with_proposal(state, tried), canary=canary)
        case _:
            assert_never(entry)


def _after_switch(state: LogState, entry: Commit | Rollback) -> LogState:
    """The canary goes on if it is still open, or has just been committed."""
    canary = state.canary
    if canary is None or state.proposals[canary.release].status is ReleaseStatus.OPEN:
        return state
    if isinstance(entry, Commit) and entry.release == canary.release:
        return state
    return _without_canary_of(canary.release, state)


def _without_canary_of(release: int, state: LogState) -> LogState:
    if state.canary is None or state.canary.release != release:
        return state
    return replace(state, canary=None)


def _with_proposal(state: LogState, proposal: Proposal) -> LogState:
    return replace(state, proposals={**state.proposals, proposal.release.number: proposal})
