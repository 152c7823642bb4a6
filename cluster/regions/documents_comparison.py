"""Compares what the regions say of their live documents: at equal watermarks, equal digests.

    heartbeats ---> what each region says, by corpus and watermark ---> the difference that stands

Regions come through other watermarks where several write at once. So what was said at the last ones
is kept, and two regions need not be equally far at the same moment.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.mutations.watermark import Watermark
from cluster.regions.divergence_report import Difference
from cluster.releases.events import DocumentsStatus

WATERMARKS_MAX = 64
"""Watermarks of a corpus at which is remembered what was said."""


class DocumentsComparison:
    """What was said, and the difference of each corpus that stands: until all regions that took
    part in it say the same at one watermark. Not thread-safe.
    """

    def __init__(self) -> None:
        self._said: dict[str, dict[Watermark, dict[str, str]]] = {}
        """Digest by region, by watermark, by corpus; the newest watermarks last."""
        self._standing: dict[str, Difference] = {}

    @property
    def standing(self) -> tuple[Difference, ...]:
        return tuple(self._standing.values())

    def take(
        self, said: Mapping[str, Mapping[str, DocumentsStatus]], release: int
    ) -> list[Difference]:
        """Takes in what the regions say, by region and corpus. `release`: the current one. Returns
        the differences of corpora that had none.
        """
        new = []
        for region, corpora in said.items():
            for corpus, status in corpora.items():
                watermark = Watermark.of(status.watermark)
                digests = self._at(corpus, watermark)
                digests[region] = status.documents_digest
                found = _difference(corpus, watermark, digests, release)
                before = self._standing.get(corpus)
                if found is not None:
                    self._standing[corpus] = found
                    new += [found] if before is None else []
                elif before is not None and digests.keys() >= before.regions:
                    del self._standing[corpus]
        return new

    def _at(self, corpus: str, watermark: Watermark) -> dict[str, str]:
        """What was said of the corpus at the watermark, which is the newest one now."""
        marks = self._said.setdefault(corpus, {})
        marks[watermark] = marks.pop(watermark, {})
        if len(marks) > WATERMARKS_MAX:
            del marks[next(iter(marks))]
        return marks[watermark]


def _difference(
    corpus: str, watermark: Watermark, digests: Mapping[str, str], release: int
) -> Difference | None:
    sides: dict[str, tuple[str, ...]] = {}
    for region, digest in sorted(digests.items()):
        short = digest[:12]
        sides[short] = (*sides.get(short, ()), region)
    if len(sides) < 2:
        return None
    reached = ", ".join(f"{region}:{n}" for region, n in watermark.as_dict().items())
    return Difference(
        corpus=corpus, release=release, question=f"live documents at {reached}", answers=sides
    )
