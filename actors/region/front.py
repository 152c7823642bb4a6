"""The region's front actor: the query engine for callers inside the Ray cluster, and what all
gateways of the region share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from actors.region.assembly import assemble_region
from actors.regions.divergence_watch import watches
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Deadline, system_rng
from cluster.config import Settings
from cluster.deltas.document_service import StoredDocument, WriteRequest, WriteResult
from cluster.logs.alerts import REGIONS_DIFFER
from cluster.logs.context import log_scope
from cluster.logs.events import EventLog
from cluster.query.answers import AnswerRequest, AnswerResult, last_event
from cluster.query.search import SearchRequest, SearchResult
from cluster.regions.divergence import DivergenceLedger, FoundDifference, Probe, Turn
from cluster.regions.divergence_report import Difference, DivergenceReport
from cluster.regions.status import RegionSummary
from cluster.releases.events import DocumentsStatus

log = EventLog(__name__)

_START_TIMEOUT_S = 30.0


class Front:
    """Answers the Python client. An error of `cluster.errors` reaches the client's `ray.get`."""

    def __init__(
        self, settings: Settings, region: str, catalog: Catalog, cache: ArtifactCache
    ) -> None:
        self._region = assemble_region(settings, region, catalog, cache)
        self._watches = watches(settings)
        self._ledger = DivergenceLedger(
            settings.divergence.every_s, clock=SYSTEM_CLOCK, rng=system_rng()
        )

    async def search(self, request: SearchRequest) -> SearchResult:
        await self._started()
        with log_scope(trace_id=request.trace_id):
            return await self._region.service.search(request)

    async def answer(self, request: AnswerRequest) -> AnswerResult:
        await self._started()
        with log_scope(trace_id=request.trace_id):
            return await last_event(self._region.service.answer_events(request))

    async def write(self, request: WriteRequest) -> WriteResult:
        await self._started()
        with log_scope(trace_id=request.trace_id):
            return await self._region.documents.write(request)

    async def document(self, corpus: str, document: str, timeout_s: float) -> StoredDocument:
        await self._started()
        with log_scope():
            return await self._region.documents.document(corpus, document, timeout_s)

    async def status(self) -> RegionSummary:
        summary = await self._region.status.status()
        return replace(summary, divergence=self._ledger.report) if self._watches else summary

    # For the gateways, which take turns: see `actors.regions.divergence_watch`.

    def divergence_turn(self, release: int | None) -> Turn:
        """The turn of the gateway that asks: whether it compares the regions now, and what is
        known.
        """
        while self._region.quorum_found:
            self._ledger.quorum(self._region.quorum_found.popleft())
        return self._ledger.turn(release)

    def divergence_probed(self, probe: Probe) -> DivergenceReport:
        return self._reported(self._ledger.take(probe))

    def divergence_documents(
        self, said: Mapping[str, Mapping[str, DocumentsStatus]], release: int
    ) -> DivergenceReport:
        """The regions say this of their live documents, by region and corpus."""
        return self._reported(self._ledger.documents(said, release))

    def divergence_found(self, found: FoundDifference) -> None:
        """A search by quorum in a gateway has found regions that differ."""
        self._ledger.quorum(found)

    def _reported(self, found: list[Difference]) -> DivergenceReport:
        for difference in found:
            log.alert(
                REGIONS_DIFFER,
                difference=difference,
                release=difference.release,
                corpus=difference.corpus,
            )
        return self._ledger.report

    async def _started(self) -> None:
        # The follower needs the running event loop, which a constructor does not have.
        await self._region.start(Deadline.after(_START_TIMEOUT_S))
