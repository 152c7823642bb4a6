"""Decides whether a region can answer a request as demanded, and what to do when it cannot.

    decide --> Serve          answer from here
           |-> Refresh        read the release log, or the logs of documents, then decide again
           |-> Wait           until the region's clock has come so far, then decide again
           `-> Elsewhere      another region may; if none does, the caller gets the error

Callers only carry the decision out: every decision about consistency is made here.

Clocks of two machines may differ by the bound on the skew. A switch that any region has made for
its moment came by some clock; so on every clock it lies at most the skew ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import assert_never

from cluster.errors import InvalidArgument, NotYet, Unavailable
from cluster.mutations.watermark import Watermark
from cluster.query.provenance import Provenance
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.session import SessionToken
from cluster.releases.entries import Switch
from cluster.releases.release_log import Freshness
from cluster.serving.decisions import (
    RELEASE_LOG,
    Decision,
    Elsewhere,
    Log,
    Reading,
    Refresh,
    Serve,
    Wait,
)
from cluster.serving.documents import (
    DocumentsDemand,
    DocumentsKnowledge,
    LiveDocuments,
    corpus_asked,
    documents_missing,
)
from cluster.serving.view import Pulse, RegionView, ReleaseView

_NO_DOCUMENTS: Mapping[str, Watermark] = MappingProxyType({})
_UNDER_WAY_MAX_MS = 10_000
"""Longest time of a pulse on its way: a pulse that is further behind was made by a clock that was
set.
"""


@dataclass(frozen=True, slots=True)
class PinnedRelease:
    """The release that serves a request, and what its answer says of that."""

    release: ReleaseView
    staleness_ms: int
    token: SessionToken | None
    """None before the store is known."""

    @property
    def session(self) -> str:
        """The text of the token; empty where there is none."""
        token = self.token
        if token is None:
            return ""
        # With documents, hardly two replies have the same one.
        return token.encode() if token.documents else _token(token.store_id, token.position)

    def with_documents(
        self, corpus: str, known: DocumentsKnowledge, staleness_ms: int
    ) -> PinnedRelease:
        """The same with live documents of the corpus, of which these are known. `staleness_ms`: of
        the documents. Raises NotYet when they are behind what the session has seen.
        """
        token = self.token
        if token is not None:
            if not token.documents.get(corpus, Watermark()) <= known.watermark:
                raise documents_missing(corpus)
            if known.watermark:
                token = token.joined({corpus: known.watermark})
        return PinnedRelease(self.release, max(self.staleness_ms, staleness_ms), token)

    def provenance(self, *, region: str, trace_id: str, coverage: float = 1.0) -> Provenance:
        """That of a reply which `region` makes to a request that it has received."""
        return Provenance(
            release=self.release.number,
            region=region,
            coverage=coverage,
            trace_id=trace_id,
            served_by=region,
            staleness_ms=self.staleness_ms,
            session=self.session,
        )


@dataclass(frozen=True, slots=True)
class RegionKnowledge:
    """The knowledge of one gateway: its region's view, and how current the view is. The two come by
    different ways; a reading of the log counts only together with the switches that it found.
    """

    view: RegionView
    pulse: Pulse = field(default_factory=Pulse)
    _: KW_ONLY
    skew_max_ms: int
    """Bound on the difference of two machines' clocks."""

    @property
    def freshness(self) -> Freshness:
        return self.pulse.freshness

    def with_view(self, view: RegionView) -> RegionKnowledge:
        """A coordinator that has just begun holds nothing yet that could serve: what its
        predecessor had loaded goes on.
        """
        if all(switch.release not in view.releases for switch in view.switches):
            view = replace(view, releases={**self.view.releases, **view.releases})
        return replace(self, view=_with_newer(view, self.view.switches))

    def with_pulse(self, pulse: Pulse) -> RegionKnowledge:
        """Pulses may come out of order; and one from before its sender had read the log says
        nothing of it. What was known holds against those.
        """
        known, newer = self.freshness, pulse.freshness
        behind_ms = known.read_ms - newer.read_ms
        overtaken = newer.position <= known.position and 0 < behind_ms <= _UNDER_WAY_MAX_MS
        if overtaken or not newer.read_ms:
            pulse = replace(self.pulse, regions=pulse.regions or self.pulse.regions)
        return replace(self, view=_with_newer(self.view, pulse.switches), pulse=pulse)

    def pin(
        self,
        number: int | None,
        now_ms: int,
        *,
        user: str = "",
        lot: float = 1.0,
        not_before: int = 0,
        documents_floor: Mapping[str, Watermark] = _NO_DOCUMENTS,
    ) -> PinnedRelease:
        """The result of `RegionView.pin`, with the same errors. The token is never older than
        `not_before` and `documents_floor`, even where a named release is served before the region
        has come that far.
        """
        pin = self.view.pin(number, now_ms, user=user, lot=lot, not_before=not_before)
        position = not_before if pin.in_force is None else pin.in_force.position
        store_id = self.pulse.store_id
        return PinnedRelease(
            pin.release,
            self.staleness_ms(pin.switch, now_ms),
            SessionToken(store_id, position, documents_floor) if store_id and position else None,
        )

    def staleness_ms(self, switch: Switch | None, now_ms: int) -> int:
        """Upper bound on how long ago the release of `switch` was current. A `switch` of None
        stands for a release that is still to come.

        The last reading of the log may have missed whatever came after its begin; and a later
        switch that it found ended this one at its moment.
        """
        as_of_ms = self.freshness.read_ms
        if switch is not None:
            superseded_ms = self.view.superseded_ms(switch.position, now_ms)
            if superseded_ms is not None and superseded_ms < as_of_ms:
                as_of_ms = superseded_ms
        return max(0, now_ms - as_of_ms) + self.skew_max_ms


@lru_cache(maxsize=64)
def _token(store_id: str, position: int) -> str:
    return SessionToken(store_id, position).encode()


def _with_newer(view: RegionView, switches: tuple[Switch, ...]) -> RegionView:
    """The view with those switches, if they reach further in the log than its own."""
    if not switches or (view.switches and view.switches[-1].position >= switches[-1].position):
        return view
    return replace(view, switches=switches)


def decide(
    consistency: ReadConsistency,
    *,
    release: int | None = None,
    documents: LiveDocuments | None = None,
    knowledge: RegionKnowledge,
    readings: Mapping[Log, Reading],
    now_ms: int,
) -> Decision:
    """The next step for a request that asks for this consistency, or names a `release`; and for
    live `documents` or (None) for none.

    The caller decides again after each Refresh, with what came of these `readings`: DONE and the
    result in `knowledge` or `documents`, or FAILED; and after each Wait. Raises InvalidArgument for
    a consistency that no region can meet.
    """
    asked = _Asked(consistency, knowledge, readings.get(RELEASE_LOG, Reading.NOT_ASKED), now_ms)
    if consistency.session is not None:
        if not knowledge.pulse.store_id:
            return Elsewhere(Unavailable("this region is still starting; try again shortly"))
        if consistency.session.store_id != knowledge.pulse.store_id:
            raise InvalidArgument("is of another store than this region's; leave it out", "session")
    decision = asked.of_release(release)
    if documents is None:
        return decision
    served = decision.release if isinstance(decision, Serve) else release
    demand = asked.of_documents(documents, served, readings)
    return decision if demand is None else demand.beside(decision)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request, at one moment."""

    consistency: ReadConsistency
    knowledge: RegionKnowledge
    reading: Reading
    now_ms: int

    def of_release(self, release: int | None) -> Decision:
        if release is not None:
            return self.named(release)
        match self.consistency.level:
            case ConsistencyLevel.EVENTUAL | ConsistencyLevel.SESSION:
                return self.current()
            case ConsistencyLevel.QUORUM:
                return self.current(exactly=True)
            case ConsistencyLevel.BOUNDED:
                return self.bounded()
            case ConsistencyLevel.STRONG:
                return self.strong()
        assert_never(self.consistency.level)

    def of_documents(
        self, documents: LiveDocuments, release: int | None, readings: Mapping[Log, Reading]
    ) -> DocumentsDemand | None:
        """`release`: the one that is to serve; None: the current one, most likely."""
        view = self.knowledge.view
        if release is None:
            switch = view.in_force(self.now_ms, self.consistency.floor)
            release = None if switch is None else switch.release
        corpus = corpus_asked(documents.corpus, view, release)
        if corpus is None:
            return None
        return DocumentsDemand(
            corpus=corpus,
            consistency=self.consistency,
            known=documents.known.get(corpus),
            reading=readings.get(corpus, Reading.NOT_ASKED),
            skew_max_ms=self.knowledge.skew_max_ms,
            now_ms=self.now_ms,
        )

    def current(self, *, exactly: bool = False) -> Decision:
        floor = self.consistency.floor
        switch = self.knowledge.view.in_force(self.now_ms, floor)
        if switch is not None:
            return self._serve(switch, exactly=exactly)
        if not floor:
            return _nothing_to_serve()
        return self._missing("this region does not serve yet what the session has seen")

    def bounded(self) -> Decision:
        limit_ms = self.consistency.max_staleness_ms
        assert limit_ms is not None, "a bounded demand has its bound"
        if limit_ms <= self.knowledge.skew_max_ms:
            raise InvalidArgument(
                f"must be over {self.knowledge.skew_max_ms}, the largest difference of the "
                "regions' clocks; for a smaller bound, ask for `strong`",
                "max_staleness_ms",
            )
        served = self.current()
        if not isinstance(served, Serve) or served.staleness_ms <= limit_ms:
            return served
        return self._missing(
            f"what this region serves may be {served.staleness_ms} ms old, "
            f"and {limit_ms} ms were asked for"
        )

    def strong(self) -> Decision:
        if self.reading is not Reading.DONE:
            return self._missing("the release log must be read for a strong answer")
        view, floor = self.knowledge.view, self.consistency.floor
        newest = view.newest(self.now_ms, floor)
        reached = 0 if newest is None else newest.position
        # Another region, whose clock is ahead, may have made these switches already. Made here
        # before their moment, they would be ahead of regions whose clocks are behind this one's.
        coming_ms = [
            switch.at_ms
            for switch in view.switches
            if switch.position > reached
            and self.now_ms < switch.at_ms <= self.now_ms + self.knowledge.skew_max_ms
        ]
        if coming_ms:
            return Wait(min(coming_ms))
        if newest is None and floor:
            return self._missing("this region does not know yet what the session has seen")
        if newest is None:
            return _nothing_to_serve()
        if newest.release not in view.releases:
            return Elsewhere(NotYet(f"this region does not serve release {newest.release} yet"))
        return self._serve(newest, exactly=True)

    def named(self, release: int) -> Decision:
        view, pulse, floor = self.knowledge.view, self.knowledge.pulse, self.consistency.floor
        if view.serves(release, self.now_ms):
            pin = view.pin(release, self.now_ms, not_before=floor)
            return Serve(
                release=release,
                position=floor if pin.in_force is None else pin.in_force.position,
                staleness_ms=self._staleness_ms(pin.switch),
                exactly=True,
                documents_floor=self.consistency.documents,
            )
        if release in pulse.aborted:
            raise InvalidArgument(
                f"release {release} was aborted: {pulse.aborted[release]}", "release"
            )
        if release > pulse.last_release and self.reading is not Reading.DONE:
            return self._missing(f"this region does not know release {release}")
        if not 1 <= release <= pulse.last_release:
            raise InvalidArgument(
                f"there is no release {release}; the last one is {pulse.last_release}", "release"
            )
        newest = view.newest(self.now_ms)
        reached = 0 if newest is None else newest.position
        if any(s.release == release and s.position >= reached for s in view.switches):
            return Elsewhere(NotYet(f"this region does not serve release {release} yet"))
        return Elsewhere(view.not_served(release, self.now_ms))

    def _serve(self, switch: Switch, *, exactly: bool) -> Serve:
        return Serve(
            release=switch.release,
            position=switch.position,
            staleness_ms=self._staleness_ms(switch),
            exactly=exactly,
            documents_floor=self.consistency.documents,
        )

    def _staleness_ms(self, switch: Switch | None) -> int:
        return self.knowledge.staleness_ms(switch, self.now_ms)

    def _missing(self, what: str) -> Decision:
        """The decision when the knowledge here is not enough: the log may have more."""
        match self.reading:
            case Reading.NOT_ASKED:
                return Refresh()
            case Reading.FAILED:
                return Elsewhere(Unavailable(f"{what}, and the store does not answer"))
            case Reading.DONE:
                if self.consistency.floor:
                    self._check_is_in_the_log(self.consistency.floor)
                return Elsewhere(NotYet(what))
        assert_never(self.reading)

    def _check_is_in_the_log(self, floor: int) -> None:
        """A switch that a caller has seen in force was read from the log before, by some region."""
        if floor > self.knowledge.freshness.position:
            raise InvalidArgument("is beyond the end of the release log; leave it out", "session")
        switches = self.knowledge.view.switches
        if not switches or switches[-1].position < floor:
            raise InvalidArgument("names no switch of the release log; leave it out", "session")


def _nothing_to_serve() -> Elsewhere:
    return Elsewhere(Unavailable("this region has no release to serve yet; try again shortly"))
