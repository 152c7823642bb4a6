"""Puts together what answers in a region, for the gateway and the front actor alike."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from actors.models.generator_directory import RegionGenerators
from actors.mutations.base_documents import BaseDocuments
from actors.query.answering import Answering
from actors.query.canary_trial import CanaryTrial
from actors.query.document_views import DocumentViews
from actors.query.engine import QueryEngine
from actors.query.local_embedders import LocalEmbedders
from actors.query.local_shards import LocalShards
from actors.query.release_uses import ReleaseUses
from actors.query.replica_sets import ReplicaSets
from actors.query.view_follower import ViewFollower
from actors.region.region_status import RegionStatus
from actors.regions.applied_round import AppliedRounds
from actors.regions.forwarding_service import ForwardingService
from actors.regions.http_peers import RegionPeers
from actors.regions.peer_services import RegionPeerServices
from actors.regions.region_documents import RegionDocuments
from actors.runtime import names
from actors.runtime.calls import NamedActor
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Deadline, system_rng
from cluster.config import Settings
from cluster.deltas.document_service import DocumentService
from cluster.query.answers import EmbeddingService
from cluster.regions.divergence import STANDING_MAX, FoundDifference
from cluster.regions.peers import PeerServices
from cluster.regions.routing import loads_of
from cluster.serving.view import RegionView

_LIVE_S = 10.0
"""Time in which the live documents should be here; the region answers without them, too."""


@dataclass(frozen=True, slots=True)
class RegionComponents:
    """The parts that answer in one process of a region."""

    service: EmbeddingService
    documents: DocumentService
    peer_services: PeerServices
    views: ViewFollower
    live: DocumentViews
    status: RegionStatus
    trial: CanaryTrial
    peers: RegionPeers
    quorum_found: deque[FoundDifference]
    """The last differences between regions that searches by quorum found here."""

    async def start(self, deadline: Deadline) -> None:
        """Raises Unavailable when the region's coordinator does not answer."""
        self.trial.start()
        await self.views.start(deadline)
        await self.live.start(Deadline.after(min(_LIVE_S, deadline.remaining_s())))

    async def stop(self) -> None:
        self.views.stop()
        self.live.stop()
        self.trial.stop()
        await self.peers.aclose()


def assemble_region(
    settings: Settings, region: str, catalog: Catalog, cache: ArtifactCache
) -> RegionComponents:
    """Everything but the start, which needs the event loop that it will run in."""
    rng = system_rng()
    local_first = settings.regions[region].http.local_first
    local = LocalShards(catalog, cache) if local_first else None
    local_embedders = LocalEmbedders(catalog, cache) if local_first else None
    coordinator, documents = NamedActor(names.COORDINATOR), NamedActor(names.DOCUMENTS)
    trial, uses = CanaryTrial(coordinator), ReleaseUses()
    skew_max_ms = settings.routing.clock_skew_max_ms
    live = DocumentViews(documents, rng, local)

    def follow(view: RegionView) -> None:
        trial.follow(view)
        live.follow(view)

    views = ViewFollower(coordinator, rng, skew_max_ms=skew_max_ms, uses=uses, on_view=follow)
    peers = RegionPeers(
        settings,
        region,
        rng=rng,
        loads=lambda: loads_of(views.knowledge.pulse.regions, SYSTEM_CLOCK.wall_ms()),
    )
    generators = RegionGenerators(cache, peers)
    engine = QueryEngine(
        views=views,
        uses=uses,
        outcomes=trial.outcomes,
        replica_sets=ReplicaSets(SYSTEM_CLOCK, rng, local, local_embedders),
        answering=Answering(generators),
        clock=SYSTEM_CLOCK,
        documents=live,
    )
    quorum_found: deque[FoundDifference] = deque(maxlen=STANDING_MAX)
    service = ForwardingService(
        region=region,
        engine=engine,
        views=views,
        peers=peers,
        clock=SYSTEM_CLOCK,
        quorum_pause_s=skew_max_ms / 1000.0,
        differed=quorum_found.append,
        documents=live,
    )
    peer_services = RegionPeerServices(lambda: views.view, uses, generators, coordinator, documents)
    return RegionComponents(
        service=service,
        documents=RegionDocuments(
            region=region,
            views=views,
            documents=documents,
            base=BaseDocuments(catalog, cache),
            applied=AppliedRounds(region=region, here=peer_services, peers=peers),
            clock=SYSTEM_CLOCK,
        ),
        peer_services=peer_services,
        views=views,
        live=live,
        status=RegionStatus(views, documents),
        trial=trial,
        peers=peers,
        quorum_found=quorum_found,
    )
