"""Compares the answers of the regions that hold a release, byte for byte.

    turn ---> inquiries ---> every region ---> compared ---> ledger: what differs, until refuted
     ^   one gateway of a region, once in a while                |
     `------------------ what differed is asked again -----------'

Regions that hold one release have the same artifacts, so any difference is a fault: of a machine,
a library, or Raygion. Live documents come to regions at different moments and are left out. A
region that does not answer, or does not hold the release, is no difference.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.arrays import Float32Array
from cluster.clock import Clock
from cluster.query.search import SearchRequest, SearchResult
from cluster.query.terms import BASE
from cluster.regions.divergence_report import (
    CorpusProbe,
    Difference,
    DivergenceReport,
    ProbeVerdict,
)
from cluster.regions.documents_comparison import DocumentsComparison
from cluster.regions.quorum import Vote, vote_of
from cluster.releases.events import DocumentsStatus
from cluster.serving.view import CorpusView, ReleaseView
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric

VECTORS = 4
"""Vectors that are drawn for each corpus and probe; every probe draws others."""
STANDING_MAX = 8
"""Differences that are remembered at once."""
_TOP_K = 10
_LENGTHS_LOG10 = (-1.0, 3.0)
_EVERY_JITTER = (0.9, 1.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """One search that all regions are asked, pinned to a release; each of its queries is a
    question.
    """

    name: str
    corpus: str
    request: SearchRequest
    again: bool = False
    """True when the regions differed on this question before; `name` then names this question."""

    @property
    def release(self) -> int:
        assert self.request.release is not None, "an inquiry is pinned"
        return self.request.release


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDifference:
    difference: Difference
    again: Inquiry | None
    """Inquiry to ask later whether the regions still differ; None if the question cannot be cut
    out.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionComparison:
    """The result of one inquiry."""

    inquiry: Inquiry
    regions: frozenset[str]
    """Regions whose answers count."""
    found: FoundDifference | None
    """The first difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """All inquiries of one turn."""

    release: int
    at_ms: int
    comparisons: tuple[RegionComparison, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The reply to a gateway that asks whether to probe."""

    number: int | None
    """Number of the probe that the gateway is to make. None: it is not the gateway's turn."""
    again: tuple[Inquiry, ...]
    report: DivergenceReport


# The questions.


def inquiries_of(
    release: ReleaseView, turn: int, texts: tuple[str, ...], again: tuple[Inquiry, ...]
) -> list[Inquiry]:
    """The inquiries of a probe: for each corpus some random vectors, the texts if it has an
    embedder, and the questions on which regions differed before. The same arguments give the same
    questions.
    """
    made = []
    for name, corpus in sorted(release.corpora.items()):
        pinned = SearchRequest(
            corpus=name, top_k=_TOP_K, fields=(), release=release.number, documents=BASE
        )
        vectors = drawn_vectors(corpus, release.number, turn)
        asked = replace(pinned, vectors=vectors)
        made.append(Inquiry(name=f"vector of probe {turn}", corpus=name, request=asked))
        if texts and corpus.has_embedder:
            asked = replace(pinned, queries=texts)
            made.append(Inquiry(name="text of the settings", corpus=name, request=asked))
    return made + [inquiry for inquiry in again if inquiry.release == release.number]


def drawn_vectors(corpus: CorpusView, release: int, turn: int) -> Float32Array:
    """float32 [VECTORS, d] in random directions: of norm 1 where the metric is cosine, else of
    lengths between 0.1 and 1000, since nobody knows here how long the corpus's vectors are.
    """
    seed = hashlib.blake2b(f"{release}\0{corpus.corpus}\0{turn}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(seed))
    directions = prepared(
        rng.standard_normal((VECTORS, corpus.dimension)).astype(np.float32), Metric.COSINE
    )
    if corpus.metric is Metric.COSINE:
        return directions
    lengths = 10.0 ** rng.uniform(*_LENGTHS_LOG10, size=(VECTORS, 1))
    return (directions * lengths).astype(np.float32)


# The comparison of the answers.


def compared(inquiry: Inquiry, answers: Mapping[str, SearchResult]) -> RegionComparison:
    """Compares the answers, by region: complete ones, of the release that the inquiry asks for."""
    votes = {region: _votes(result) for region, result in sorted(answers.items())}
    found = None
    for number in range(max(map(len, votes.values()), default=0)):
        sides: dict[str, tuple[str, ...]] = {}
        for region, each in votes.items():
            digest = _digest(each[number], inquiry.release) if number < len(each) else "nothing"
            sides[digest] = (*sides.get(digest, ()), region)
        if len(sides) > 1:
            found = _found(inquiry, number, sides)
            break
    return RegionComparison(inquiry=inquiry, regions=frozenset(answers), found=found)


def _votes(result: SearchResult) -> Sequence[Vote]:
    """The votes of one region, one for each query."""
    if result.arrays is None:
        return [vote_of(replace(result, results=(hits,))) for hits in result.results]
    arrays = result.arrays
    single = [arrays.of_queries(n, n + 1) for n in range(len(arrays.rows))]
    return [vote_of(replace(result, arrays=one)) for one in single]


def _digest(vote: Vote, release: int) -> str:
    return vote.hits.hex()[:12] if vote.release == release else f"by release {vote.release}"


def _found(inquiry: Inquiry, number: int, sides: Mapping[str, tuple[str, ...]]) -> FoundDifference:
    question = inquiry.name if inquiry.again else f"{inquiry.name} [{number}]"
    request = inquiry.request if inquiry.again else _cut(inquiry.request, number)
    return FoundDifference(
        difference=Difference(
            corpus=inquiry.corpus, release=inquiry.release, question=question, answers=sides
        ),
        again=None
        if request is None
        else Inquiry(name=question, corpus=inquiry.corpus, request=request, again=True),
    )


def _cut(request: SearchRequest, number: int) -> SearchRequest | None:
    """The search for one of the queries alone."""
    row = slice(number, number + 1)
    if request.queries is not None:
        embedded = request.embedded
        if embedded is not None:
            embedded = replace(embedded, vectors=embedded.vectors[row])
        return replace(request, queries=request.queries[row], embedded=embedded)
    if request.vectors is None or request.vectors.ndim == 1:
        # How long a row is, the index alone knows.
        return None
    return replace(request, vectors=request.vectors[row])


# The memory of differences.


class DivergenceLedger:
    """The ledger of one region: whose turn it is to probe, the outcomes, and the differences. A
    difference stands until all regions that took part in it are asked again and agree, or another
    release is probed: silence refutes nothing. Not thread-safe.
    """

    def __init__(self, every_s: float, *, clock: Clock, rng: random.Random) -> None:
        self._every_s = every_s
        self._clock = clock
        self._rng = rng
        self._number = 0
        self._next_s = float("-inf")
        self._asked: int | None = None
        """The release of the last turn that was given."""
        self._last: Probe | None = None
        self._standing: dict[tuple[str, str], FoundDifference] = {}
        self._outcomes: Counter[str] = Counter()
        self._documents = DocumentsComparison()

    def turn(self, release: int | None) -> Turn:
        """`release`: the current one, as the gateway that asks sees it; None: it cannot probe now.

        Whoever gets the turn makes the probe; if it dies, the next turn comes all the same. Another
        release is probed at once.
        """
        now_s = self._clock.monotonic_s()
        due = release is not None and (now_s >= self._next_s or release != self._asked)
        if due:
            self._asked = release
            self._number += 1
            self._next_s = now_s + self._every_s * self._rng.uniform(*_EVERY_JITTER)
        again = tuple(f.again for f in self._standing.values() if f.again is not None)
        return Turn(number=self._number if due else None, again=again, report=self.report)

    def take(self, probe: Probe) -> list[Difference]:
        """Takes in a probe. Returns the differences that were not known before."""
        for line in _lines(probe):
            self._outcomes[line.outcome] += 1
        if self._asked is not None and probe.release != self._asked:
            # It was under way when another release became current.
            return [c.found.difference for c in probe.comparisons if c.found is not None]
        self._last = probe
        self._standing = {
            key: found
            for key, found in self._standing.items()
            if found.difference.release == probe.release
        }
        return [found.difference for c in probe.comparisons for found in self._judge(c)]

    def documents(
        self, said: Mapping[str, Mapping[str, DocumentsStatus]], release: int
    ) -> list[Difference]:
        """Takes in what the regions say of their live documents, by region and corpus. Returns the
        differences that were not known before.
        """
        return self._documents.take(said, release)

    def quorum(self, found: FoundDifference) -> None:
        """A search by quorum has found a difference."""
        self._outcomes[ProbeVerdict.QUORUM_DIFFER.value] += 1
        self._keep(self._named(found))

    @property
    def report(self) -> DivergenceReport:
        probe = self._last
        differences = (
            *(found.difference for found in self._standing.values()),
            *self._documents.standing,
        )
        return DivergenceReport(
            differs=bool(differences),
            at_ms=None if probe is None else probe.at_ms,
            release=None if probe is None else probe.release,
            corpora=() if probe is None else _lines(probe),
            differences=differences,
            probes=dict(self._outcomes),
        )

    def _judge(self, comparison: RegionComparison) -> list[FoundDifference]:
        """The differences that are new in the comparison."""
        key = (comparison.inquiry.corpus, comparison.inquiry.name)
        before = self._standing.get(key)
        if comparison.found is not None:
            self._keep(comparison.found)
            return [] if before is not None else [comparison.found]
        if before is not None and comparison.regions >= before.difference.regions:
            del self._standing[key]
        return []

    def _keep(self, found: FoundDifference) -> None:
        key = (found.difference.corpus, found.difference.question)
        if key in self._standing or len(self._standing) < STANDING_MAX:
            self._standing[key] = found

    def _named(self, found: FoundDifference) -> FoundDifference:
        """The same difference, with the name of the only corpus where the request named none."""
        known = set() if self._last is None else {c.inquiry.corpus for c in self._last.comparisons}
        if found.difference.corpus or len(known) != 1:
            return found
        (corpus,) = known
        again = None if found.again is None else replace(found.again, corpus=corpus)
        return FoundDifference(difference=replace(found.difference, corpus=corpus), again=again)


def _lines(probe: Probe) -> tuple[CorpusProbe, ...]:
    """The corpora of the probe, by name."""
    by_corpus: dict[str, list[RegionComparison]] = {}
    for comparison in probe.comparisons:
        by_corpus.setdefault(comparison.inquiry.corpus, []).append(comparison)
    lines = []
    for corpus, comparisons in sorted(by_corpus.items()):
        if any(c.found is not None for c in comparisons):
            verdict = ProbeVerdict.DIFFER
        elif any(len(c.regions) > 1 for c in comparisons):
            verdict = ProbeVerdict.ALIKE
        else:
            verdict = ProbeVerdict.TOO_FEW
        whole = frozenset.intersection(*(c.regions for c in comparisons))
        lines.append(
            CorpusProbe(corpus=corpus, regions=tuple(sorted(whole)), outcome=verdict.value)
        )
    return tuple(lines)
