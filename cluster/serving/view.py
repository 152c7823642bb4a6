"""The view that a gateway needs to serve: the resident releases of its region, and the actors that
serve them.

The coordinator publishes a view, gateways keep the last one they saw. So serving goes on while the
coordinator is away, and the switch between releases needs no message: its moment is in the view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.artifacts.files import ArtifactFile
from cluster.canary.board import lot_of
from cluster.errors import InvalidArgument, NotFound, NotYet, Unavailable
from cluster.generation.prompt import PromptTemplate
from cluster.metadata import ColumnType
from cluster.mutations.watermark import HeldMutations
from cluster.query.evidence import EvidencePolicy
from cluster.releases.entries import CanaryShare, Switch
from cluster.releases.events import RegionStatus
from cluster.releases.release_log import Freshness
from cluster.vectors.metric import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusView:
    """One corpus of one release: what queries are checked against, and who answers them."""

    corpus: str
    index_version: str
    dimension: int
    metric: Metric
    metadata_schema: Mapping[str, ColumnType]
    has_embedder: bool
    """False when the corpus brought its own vectors: then queries must be vectors, too."""
    num_passages: int
    recall_at_10: float
    shards: tuple[tuple[str, ...], ...]
    """Actor names of the replicas of each shard."""
    partition_by: str | None = None
    """The metadata field whose value says in which shard a document is."""
    recall_at_10_least: float | None = None
    """Recall in the stratum in which least is found; None for an index of an older version."""
    held: HeldMutations = field(default_factory=HeldMutations)
    """The mutations of documents that the index holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorView:
    """The language model of a release, and where it runs."""

    application: str | None
    """Name of its Serve application; None where it runs in other regions alone."""
    model: str
    tokenizer_files: tuple[ArtifactFile, ...]
    """The part of the model's artifact that a gateway needs to count and cut prompts."""
    context_tokens_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseView:
    """One resident release."""

    number: int
    corpora: Mapping[str, CorpusView]
    """Corpora of the release that may be in this region."""
    embedders: tuple[str, ...]
    """Actor names of the replicas that embed queries."""
    generator: GeneratorView | None
    prompt: PromptTemplate
    embedder: str | None = None
    """The model version of `embedders`; None where the release has none."""
    embedding_dimension: int | None = None
    """Numbers of a vector of `embedder`; None where there is none."""
    evidence: EvidencePolicy | None = None
    """Policy of the release; None: every hit is evidence, and the model answers without a hit,
    too.
    """
    elsewhere: frozenset[str] = frozenset()
    """Corpora of the release that may not be in this region."""

    def corpus(self, name: str | None) -> CorpusView:
        """Raises InvalidArgument for an unknown corpus, for one that may not be in this region, and
        for none where the release has several.
        """
        if name is None and len(self.corpora) == 1 and not self.elsewhere:
            return next(iter(self.corpora.values()))
        view = None if name is None else self.corpora.get(name)
        if view is None:
            raise self._no_corpus(name)
        return view

    def _no_corpus(self, name: str | None) -> InvalidArgument:
        known = ", ".join(sorted(self.corpora.keys() | self.elsewhere))
        if name is None:
            return InvalidArgument(f"name one of the corpora: {known}", "corpus")
        if name in self.elsewhere:
            return InvalidArgument(f"corpus {name!r} is not kept in this region", "corpus")
        return InvalidArgument(f"there is no corpus {name!r}; there is: {known}", "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionView:
    """All that a region serves at the moment."""

    region: str
    releases: Mapping[int, ReleaseView] = field(default_factory=dict)
    switches: tuple[Switch, ...] = ()
    """Switches in the order of the release log."""
    canary: CanaryShare | None = None
    """The release that is tried on a share of the requests."""
    revision: str = ""
    """Name of this content: another one whenever it changes, in every incarnation of the
    coordinator.
    """

    def pin(
        self,
        number: int | None,
        now_ms: int,
        *,
        user: str = "",
        lot: float = 1.0,
        not_before: int = 0,
    ) -> Pin:
        """The release to serve a request with: `number`; or (None) the canary for its share of the
        users, and of the requests without one by their `lot` in [0, 1); else the current one.

        A user who is served by the canary still is when its share grows. `not_before`: the position
        of a switch in the log that has come somewhere; it or a later one serves. Raises NotFound
        for a release that is not served or not resident here, NotYet when none is new enough,
        Unavailable when there is none at all.
        """
        if number is not None:
            release = self._named(number, now_ms)
            in_force = self.in_force(now_ms, not_before)
            return Pin(release, in_force, self._last_to(number, now_ms, not_before))
        switch = self.in_force(now_ms, not_before)
        if switch is None and not_before:
            raise NotYet("this region does not serve yet what the session has seen")
        canary = self.canary_at(now_ms)
        if canary is not None:
            drawn = lot_of(user, canary.release) if user else lot
            if drawn * 100 < canary.percent:
                return Pin(self.releases[canary.release], switch, None)
        if switch is None:
            raise Unavailable("this region has no release to serve yet; try again shortly")
        return Pin(self.releases[switch.release], switch, switch)

    def in_force(self, now_ms: int, not_before: int = 0) -> Switch | None:
        """The newest switch whose moment has come and whose release is resident: a region that has
        not loaded the newest release yet answers from the last one it holds.
        """
        for switch in reversed(self.switches):
            if switch.position < not_before:
                return None
            if switch.release in self.releases and _has_come(switch, now_ms, not_before):
                return switch
        return None

    def newest(self, now_ms: int, not_before: int = 0) -> Switch | None:
        """The newest switch whose moment has come, wherever its release is resident."""
        for switch in reversed(self.switches):
            if switch.position < not_before:
                return None
            if _has_come(switch, now_ms, not_before):
                return switch
        return None

    def superseded_ms(self, position: int, now_ms: int) -> int | None:
        """The moment from which on the switch at that position in the log was not current any more;
        None when it still is.
        """
        moment_ms = None
        for switch in reversed(self.switches):
            if switch.position <= position:
                break
            if switch.at_ms <= now_ms and (moment_ms is None or switch.at_ms < moment_ms):
                moment_ms = switch.at_ms
        return moment_ms

    def serves(self, number: int, now_ms: int) -> bool:
        """True when a request that names the release can be served."""
        return number in self._to_name(now_ms)

    def not_served(self, number: int, now_ms: int) -> NotFound:
        """The error for a request that names a release which is not served here."""
        known = ", ".join(map(str, sorted(self._to_name(now_ms)))) or "none"
        return NotFound(f"release {number} is not served here; resident releases: {known}")

    def canary_at(self, now_ms: int) -> CanaryShare | None:
        """The canary, if it takes its share at this moment."""
        canary = self.canary
        if canary is None or now_ms < canary.at_ms or canary.release not in self.releases:
            return None
        return canary

    def _named(self, number: int, now_ms: int) -> ReleaseView:
        if not self.serves(number, now_ms):
            raise self.not_served(number, now_ms)
        return self.releases[number]

    def _to_name(self, now_ms: int) -> set[int]:
        served = {s.release for s in self.switches}
        if (canary := self.canary_at(now_ms)) is not None:
            served.add(canary.release)
        return served & self.releases.keys()

    def _last_to(self, number: int, now_ms: int, not_before: int) -> Switch | None:
        """The last switch to the release whose moment has come."""
        come = (s for s in reversed(self.switches) if _has_come(s, now_ms, not_before))
        return next((s for s in come if s.release == number), None)


def _has_come(switch: Switch, now_ms: int, not_before: int) -> bool:
    """True when the moment of the switch has come: by the clock here, or by the proof of a caller
    that has seen the switch in force elsewhere.
    """
    return switch.at_ms <= now_ms or switch.position == not_before


@dataclass(frozen=True, slots=True)
class Pin:
    """The release that serves a request, and its position in the release log."""

    release: ReleaseView
    in_force: Switch | None
    """Switch to the release that serves requests without a named release and without a canary."""
    switch: Switch | None
    """Switch to this release; None while the release has not become current."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """A coordinator's report on how current its region is, and on all regions."""

    freshness: Freshness = field(default_factory=Freshness)
    regions: Mapping[str, RegionStatus] = field(default_factory=dict)
    """The last heartbeat of each region, by name."""
    switches: tuple[Switch, ...] = ()
    """The last switches that the reading of `freshness` found, in log order: a gateway may hear of
    them here before they come with its view.
    """
    store_id: str = ""
    """Id of the store whose release log this is; empty before it could be read."""
    last_release: int = 0
    """The highest number that a release of the log has, as of the same reading."""
    aborted: Mapping[int, str] = field(default_factory=dict)
    """The last releases that were aborted, and why."""
