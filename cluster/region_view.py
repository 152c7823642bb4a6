"""What a gateway must know to serve: the resident releases of its region and where their parts run.

The coordinator publishes a view, gateways keep the last one they saw. So serving goes on while the
coordinator is away, and the switch between releases needs no message: its moment is in the view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.canary import lot_of
from cluster.errors import InvalidArgument, Unavailable
from cluster.manifests import ArtifactFile, ColumnType, Metric
from cluster.prompt import PromptTemplate
from cluster.releases import CanaryShare, Switch


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorView:
    """Where the release's language model runs."""

    application: str
    """Name of its Serve application."""
    model: str
    tokenizer_files: tuple[ArtifactFile, ...]
    """The part of the model's artifact that a gateway needs to count and cut prompts."""
    context_tokens_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseView:
    """One resident release."""

    number: int
    corpora: Mapping[str, CorpusView]
    embedders: tuple[str, ...]
    """Actor names of the replicas that embed queries."""
    generator: GeneratorView | None
    prompt: PromptTemplate

    def corpus(self, name: str | None) -> CorpusView:
        """Raises InvalidArgument for an unknown corpus, or for none where there are several."""
        known = ", ".join(sorted(self.corpora))
        if name is None:
            if len(self.corpora) == 1:
                return next(iter(self.corpora.values()))
            raise InvalidArgument(f"name one of the corpora: {known}", "corpus")
        view = self.corpora.get(name)
        if view is None:
            raise InvalidArgument(f"there is no corpus {name!r}; there is: {known}", "corpus")
        return view


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionView:
    """All that a region serves at the moment."""

    region: str
    releases: Mapping[int, ReleaseView] = field(default_factory=dict)
    switches: tuple[Switch, ...] = ()
    """In log order, as in the release log."""
    canary: CanaryShare | None = None
    """The release that is tried on a share of the requests."""
    revision: str = ""
    """Another one whenever the content changes, in every incarnation of the coordinator."""

    def pin(
        self, number: int | None, now_ms: int, *, user: str = "", lot: float = 1.0
    ) -> ReleaseView:
        """The release to serve a request with: `number`; or (None) the canary for its share of the
        users, and of the requests without one by their `lot` in [0, 1); else the current one.

        A user who is served by the canary still is when its share grows. Raises InvalidArgument for
        a release that is not served or not resident here, Unavailable when there is none at all.
        """
        if number is not None:
            return self._named(number, now_ms)
        canary = self.canary_at(now_ms)
        if canary is not None:
            drawn = lot_of(user, canary.release) if user else lot
            if drawn * 100 < canary.percent:
                return self.releases[canary.release]
        due = (s.release for s in reversed(self.switches) if s.at_ms <= now_ms)
        current = next(due, None)
        # A region that has not loaded the newest release yet answers from the last one it holds.
        while current is not None and current not in self.releases:
            current = next(due, None)
        if current is None:
            raise Unavailable("this region has no release to serve yet; try again shortly")
        return self.releases[current]

    def canary_at(self, now_ms: int) -> CanaryShare | None:
        """The canary, if it takes its share at this moment."""
        canary = self.canary
        if canary is None or now_ms < canary.at_ms or canary.release not in self.releases:
            return None
        return canary

    def _named(self, number: int, now_ms: int) -> ReleaseView:
        served = {s.release for s in self.switches}
        if (canary := self.canary_at(now_ms)) is not None:
            served.add(canary.release)
        served &= self.releases.keys()
        if number in served:
            return self.releases[number]
        known = ", ".join(map(str, sorted(served))) or "none"
        raise InvalidArgument(
            f"release {number} is not served here; resident releases: {known}", "release"
        )
