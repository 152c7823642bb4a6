"""Data residency: which regions may hold a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    homes: Mapping[str, frozenset[str]]
    """The only regions that may hold a corpus, by corpus; one that is not in it may be in any."""
    only_corpus: str | None
    """The corpus of the settings, where there is exactly one."""

    def may_hold(self, region: str, corpus: str | None) -> bool:
        """True when the corpus may be in that region. A corpus that the settings do not know may be
        in any region: the region that is asked for it says that there is no such corpus.
        """
        homes = None if corpus is None else self.homes.get(corpus)
        return homes is None or region in homes

    def meant(self, corpus: str | None) -> str | None:
        """The corpus of a request that names one or none: without a name, the only corpus."""
        return self.only_corpus if corpus is None else corpus
