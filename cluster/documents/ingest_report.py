"""The report of an ingest: it counts every document and file that does not enter the corpus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

EXAMPLES_MAX = 5
REASONS_MAX = 20
_OTHER_REASONS = "is left out for one of many more reasons"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Files or documents that do not enter the corpus, for one reason."""

    reason: str
    """Reason, worded so that it follows "it ", such as "is a symbolic link"."""
    count: int
    examples: tuple[str, ...]
    """The first of them, at most EXAMPLES_MAX."""


class ReasonCounts:
    """Counts what is left out, by reason, in bounded space."""

    def __init__(self, found: Iterable[LeftOut] = ()) -> None:
        self._by_reason: dict[str, LeftOut] = {}
        self.add_all(found)

    def add(self, reason: str, example: str) -> None:
        self.add_all([LeftOut(reason=reason, count=1, examples=(example,))])

    def add_all(self, found: Iterable[LeftOut]) -> None:
        for new in found:
            is_known = new.reason in self._by_reason
            reason = new.reason if is_known or self._has_room() else _OTHER_REASONS
            old = self._by_reason.get(reason, LeftOut(reason=reason, count=0, examples=()))
            self._by_reason[reason] = LeftOut(
                reason=reason,
                count=old.count + new.count,
                examples=(*old.examples, *new.examples)[:EXAMPLES_MAX],
            )

    def left_out(self) -> tuple[LeftOut, ...]:
        """The most frequent reason first."""
        return tuple(sorted(self._by_reason.values(), key=lambda found: -found.count))

    def _has_room(self) -> bool:
        return len(self._by_reason) < REASONS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentChanges:
    """The changes of a corpus's documents, compared with its position before."""

    new: int
    replaced: int
    """Had the id of a document of before, and other content."""
    replaced_examples: tuple[str, ...]
    """Ids, at most EXAMPLES_MAX."""
    unchanged: int
    """Had the id of a document of before, and the same content."""
    removed: int
    """Earlier documents that are not in the corpus any more."""

    def __bool__(self) -> bool:
        return bool(self.new or self.replaced or self.removed)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    documents: DocumentChanges
    documents_left_out: tuple[LeftOut, ...]
    files_read: int
    files_left_out: tuple[LeftOut, ...]
    """Whole files, and the rest of a file from where it could not be read on."""
    folder_values_left_out: tuple[LeftOut, ...]
    """Folders called `key=value` that give no metadata."""
