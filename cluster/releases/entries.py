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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from cluster.catalog.manifests import ManifestRef
from cluster.generation.prompt import PromptTemplate
from cluster.grown import Grown
from cluster.query.evidence import EvidencePolicy
from cluster.records import Name, Record

RELEASE_LOG = "releases"
"""The log's folder in the store."""


def entry_path(position: int) -> str:
    """Path in the store of an entry of the log."""
    return f"{RELEASE_LOG}/{position:020}.json"


WaitFor = Literal["all", "quorum"] | Annotated[tuple[Name, ...], Field(min_length=1)]
"""Regions that a release waits for: every target, a majority of the targets, or the named ones."""


def _is_none(value: object) -> bool:
    # Omitted when None, so that entries written before the field existed keep their bytes.
    return value is None


class ReleaseContents(Record):
    """Everything that an answer depends on."""

    indexes: Annotated[dict[Name, ManifestRef], Field(min_length=1)]
    """One index version for each corpus."""
    embedder: ManifestRef | None = None
    """Model version of the embedder; None when every corpus brings its own vectors."""
    generator: ManifestRef | None = None
    """Model version of the language model; None serves search alone."""
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
    """Regions that the release waits for. With `all`, late regions are fenced out; without a
    quorum, or without one of the named regions, the release is aborted. The other regions catch up
    after the commit.
    """
    auto_commit: bool = True
    """True: the leader commits as soon as no region has to be waited for any more."""


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


class ReleaseStatus(StrEnum):
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One release as the log describes it."""

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
    """True when the release has been a canary: then every region had prepared it in time."""

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
    """Position of the switch's entry in the log, which orders switches whatever releases they lead
    to.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryShare:
    """`release` gets `percent` of the traffic from `at_ms` on, without being current."""

    release: int
    percent: int
    at_ms: int


class Proposals(Mapping[int, Proposal]):
    """All proposals by the number of their release, from 1 on without a gap.

    The last one alone may change: a release is proposed when no other is open, and one that is not
    open stays as it is. So a next state shares all others with this one.
    """

    __slots__ = ("_before", "_last")

    def __init__(self) -> None:
        self._before: Grown[Proposal] = Grown()
        self._last: Proposal | None = None

    @property
    def open(self) -> Proposal | None:
        """The one that is open, if one is."""
        last = self._last
        return last if last is not None and last.status is ReleaseStatus.OPEN else None

    def having(self, proposal: Proposal) -> Proposals:
        """With this one as the last: a new one, or what the last one has become."""
        having = Proposals()
        is_new = proposal.release.number > len(self)
        having._before = (
            self._before.appended(self._last) if is_new and self._last else self._before
        )
        having._last = proposal
        return having

    def __getitem__(self, number: int) -> Proposal:
        if number == len(self) and self._last is not None:
            return self._last
        if not 0 < number < len(self):
            raise KeyError(number)
        return self._before[number - 1]

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, len(self) + 1))

    def __len__(self) -> int:
        return len(self._before) + (self._last is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """The fold over the first `position` entries. The state after one more entry shares its memory
    with this one, so that all entries are folded in a time that grows with their number alone.
    """

    position: int = 0
    epoch: int = 0
    leader: str | None = None
    proposals: Proposals = field(default_factory=Proposals)
    switches: Grown[Switch] = field(default_factory=Grown)
    """Switches in log order: of those whose moment has come, the last one counts."""
    latest_ms: Grown[int] = field(default_factory=Grown)
    """Latest moment of each switch and all before it, at which the search for the switch in force
    may end.
    """
    aborts: Grown[int] = field(default_factory=Grown)
    """Numbers of the releases that were aborted."""
    canary: CanaryShare | None = None
    """Share of the open release, or of a committed one, which keeps its share until its switch."""
    num_void: int = 0

    @property
    def next_release(self) -> int:
        return len(self.proposals) + 1

    def open_proposal(self) -> Proposal | None:
        return self.proposals.open

    def aborted(self, last: int) -> dict[int, str]:
        """The `last` releases that were aborted, and why."""
        return {number: self.proposals[number].reason or "" for number in self.aborts[-last:]}

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
        due: set[int] = set()
        past: list[int] = []
        for switch, latest_ms in zip(
            reversed(self.switches), reversed(self.latest_ms), strict=True
        ):
            if latest_ms <= now_ms and len(past) == 2:
                break
            if switch.at_ms > now_ms:
                due.add(switch.release)
            elif len(past) < 2 and switch.release not in past:
                past.append(switch.release)
        opened = self.open_proposal()
        return tuple(sorted({*due, *past, *([] if opened is None else [opened.release.number])}))
