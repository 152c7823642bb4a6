"""The live documents that an answer is made by: how current they are, and whether they will do.

A process takes in changes of documents by themselves, beside releases. All that was acknowledged
anywhere before a complete reading of all regions' logs began is in what that reading led to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from cluster.errors import InvalidArgument, NotYet, Unavailable
from cluster.mutations.watermark import Watermark
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.session import joined
from cluster.serving.decisions import Decision, Elsewhere, Reading, Refresh, Serve
from cluster.serving.view import RegionView


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsKnowledge:
    """How far one process has come with the documents of a corpus."""

    watermark: Watermark
    read_ms: int
    """Wall clock before the last reading of all regions' logs that was complete and of which this
    process has taken in everything; 0 before one.
    """

    def staleness_ms(self, now_ms: int, skew_max_ms: int) -> int:
        """Upper bound on how long ago the first write came that is missing here."""
        return max(0, now_ms - self.read_ms) + skew_max_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDocuments:
    """The live documents that a request asks for, and what the process knows of them."""

    corpus: str | None
    """Corpus that the request names; None: the release's only one."""
    known: Mapping[str, DocumentsKnowledge] = field(default_factory=dict)
    """By corpus; a corpus without a log has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsDemand:
    """What one request demands of the documents of one corpus, at one moment."""

    corpus: str
    consistency: ReadConsistency
    known: DocumentsKnowledge | None
    reading: Reading
    skew_max_ms: int
    now_ms: int

    def beside(self, decision: Decision) -> Decision:
        """The decision about both, where `decision` is the one about the release alone."""
        own = self._decide()
        match decision, own:
            case Refresh(), Refresh():
                return Refresh(decision.logs + own.logs)
            case Serve(), None:
                return self._with_documents(decision)
            case Serve(), _:
                assert own is not None, "the case before is without one"
                return own
        return decision

    def _decide(self) -> Decision | None:
        """What to do about the documents; None: they will do."""
        if self._is(ConsistencyLevel.STRONG) and self.reading is not Reading.DONE:
            return self._missing(f"the logs of corpus {self.corpus!r} must be read")
        if not self._floor() <= self._watermark():
            return self._missing(documents_missing(self.corpus).message)
        limit_ms, staleness_ms = self.consistency.max_staleness_ms, self._staleness_ms()
        if limit_ms is not None and staleness_ms > limit_ms:
            return self._missing(
                f"the documents of {self.corpus!r} here may be {staleness_ms} ms behind, "
                f"and {limit_ms} ms were asked for"
            )
        return None

    def _with_documents(self, served: Serve) -> Serve:
        floor = served.documents_floor
        if self._is(ConsistencyLevel.STRONG) and self._watermark():
            floor = joined(floor, {self.corpus: self._watermark()})
        return replace(
            served,
            staleness_ms=max(served.staleness_ms, self._staleness_ms()),
            documents_floor=floor,
        )

    def _missing(self, what: str) -> Decision:
        match self.reading:
            case Reading.NOT_ASKED:
                return Refresh((self.corpus,))
            case Reading.FAILED:
                return Elsewhere(Unavailable(f"{what}, and the logs cannot be read now"))
            case Reading.DONE:
                self._check_is_in_the_logs()
                return Elsewhere(NotYet(what))
        assert_never(self.reading)

    def _check_is_in_the_logs(self) -> None:
        """What a caller has seen was read from the logs before, by some region."""
        floor, reached = self._floor(), self._watermark()
        for region in floor:
            if floor[region] > reached[region]:
                raise InvalidArgument(
                    f"is beyond the end of the log of {self.corpus!r} in {region!r} "
                    f"({floor[region]}, and the log has {reached[region]}); leave it out",
                    "session",
                )

    def _is(self, level: ConsistencyLevel) -> bool:
        return self.consistency.level is level

    def _floor(self) -> Watermark:
        return self.consistency.documents.get(self.corpus, Watermark())

    def _watermark(self) -> Watermark:
        return Watermark() if self.known is None else self.known.watermark

    def _staleness_ms(self) -> int:
        return 0 if self.known is None else self.known.staleness_ms(self.now_ms, self.skew_max_ms)


def documents_missing(corpus: str) -> NotYet:
    return NotYet(f"this region does not have the documents of {corpus!r} yet that were seen")


def corpus_asked(name: str | None, view: RegionView, release: int | None) -> str | None:
    """The corpus of a request that names one or none; None where the release is not here, or has no
    such corpus here, which the engine refuses.
    """
    served = None if release is None else view.releases.get(release)
    if served is None:
        return None
    if name is None and len(served.corpora) == 1 and not served.elsewhere:
        return next(iter(served.corpora))
    return name if name in served.corpora else None
