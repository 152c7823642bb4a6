"""The gateway: the HTTP interface as a Ray Serve deployment, each replica with a query engine."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from ray import serve

from actors.region.assembly import RegionComponents, assemble_region
from actors.regions.divergence_watch import DivergenceWatch, watches
from actors.runtime import names
from actors.runtime.calls import NamedActor
from actors.runtime.process_logs import handed_on
from actors.runtime.ray_environment import ONE_THREAD
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Deadline, system_rng
from cluster.config import Settings
from cluster.errors import Unavailable
from deployments.http.app import RegionApp, build_http_app
from deployments.http.routes import SEARCH
from deployments.http.settings import HttpSettings
from deployments.serve.autoscaling import IN_FLIGHT, LEAST, replica_count
from deployments.serve.draining import DRAIN_TIMEOUT_S
from deployments.serve.gateway_node import GatewayNode, head_address, listen_where_asked
from deployments.serve.shortcut import close_shortcut, open_shortcut

_START_TIMEOUT_S = 60.0
_SPARE_PLACES = 64
"""Serve's own bound lies above the gateway's, so that refusals are the gateway's typed ones, and
health routes still get through.
"""
_OBJECTS_MADE_BETWEEN_COLLECTIONS = 20_000
"""A batch of searches makes thousands, and nearly all go without the collector: at Python's 700 it
took 3 % of a gateway's time.
"""

_REQUESTS_TARGET = 8.0
"""Requests under way in one gateway, on average, beyond which another one is worth its start."""


def gateway_application(
    settings: Settings, region: str, catalog: Catalog, cache: ArtifactCache
) -> serve.Application:
    """The Serve application of a region's HTTP endpoint."""
    endpoint = settings.regions[region].http
    logs = handed_on()

    # Serve takes only a plain function for a builder; any other callable it takes for the app.
    def build() -> RegionApp:
        logs.begin()
        return _build_app(settings, region, catalog, cache)

    deployment = serve.deployment(
        name="gateway",
        **replica_count(
            endpoint.gateways_least(machines=1),
            endpoint.gateways_most(os.cpu_count() or 1),
            requests_target=_REQUESTS_TARGET,
            counts_itself=True,
        ),
        max_ongoing_requests=endpoint.in_flight_max + _SPARE_PLACES,
        # An actor that asks for nothing at all would start on a random node.
        ray_actor_options={"num_cpus": 0, "memory": 1, "runtime_env": ONE_THREAD},
        graceful_shutdown_timeout_s=DRAIN_TIMEOUT_S,
        # The gateway has metrics and trace ids of its own, and a line of log costs some 30 us.
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        # Serve finds out at the next check that a gateway has died.
        health_check_period_s=1.0,
    )
    return deployment(serve.ingress(build)(_Gateway)).bind()


class _Gateway:
    """The methods that Serve calls of a gateway besides answering requests."""

    app: RegionApp
    """Application, set by `serve.ingress`."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {
            IN_FLIGHT: float(self.app.edge.in_flight),
            LEAST: float(self.app.state.node.gateways_least),
        }

    def check_health(self) -> None:
        if self.app.state.node.moves:
            raise Unavailable("this gateway ends, so that another one starts on a better machine")


def _build_app(
    settings: Settings, region: str, catalog: Catalog, cache: ArtifactCache
) -> RegionApp:
    """Runs in each replica: an engine of its own, started and stopped with the HTTP application."""
    listen_where_asked()
    components = assemble_region(settings, region, catalog, cache)
    endpoint = settings.regions[region].http
    node = GatewayNode(endpoint)
    watch = _watch(settings, region, components) if watches(settings) else None

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await components.start(Deadline.after(_START_TIMEOUT_S))
        node.start()
        if watch is not None:
            watch.start()
        gc.freeze()
        gc.set_threshold(_OBJECTS_MADE_BETWEEN_COLLECTIONS)
        _interrupt_nobody()
        open_shortcut(SEARCH, app.entrance)
        yield
        close_shortcut()
        node.stop()
        if watch is not None:
            watch.stop()
        await components.stop()

    http = HttpSettings(
        api_keys=tuple(key.get_secret_value() for key in endpoint.api_keys),
        region_keys=tuple(key.get_secret_value() for key in settings.region_keys),
        cors_origins=endpoint.cors_origins,
        in_flight_max=endpoint.in_flight_max,
        answers_in_flight_max=settings.answer_slots(region),
        body_bytes_max=endpoint.body_bytes_max,
        locations=settings.routing.locations,
        proxy=head_address(),
    )
    app = build_http_app(
        components.service,
        http,
        status=components.status,
        peer_services=components.peer_services,
        documents=components.documents,
        lifespan=lifespan,
        divergence=None if watch is None else lambda: watch.report,
    )
    app.state.node = node
    return app


def _interrupt_nobody() -> None:
    """Lets this process wait for its turn where all cores are busy, instead of taking another one's
    as soon as a request comes: with 32 clients each turn then serves more of them, an eighth more
    searches a second. On an idle core nothing changes.
    """
    # Not known on every platform, nor allowed in every container; and threads come and go.
    with contextlib.suppress(AttributeError, OSError):
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_BATCH, os.sched_param(0))


def _watch(settings: Settings, region: str, components: RegionComponents) -> DivergenceWatch:
    return DivergenceWatch(
        settings=settings,
        region=region,
        service=components.service,
        peers=components.peers,
        views=components.views,
        quorum_found=components.quorum_found,
        ledger=NamedActor(names.FRONT),
        clock=SYSTEM_CLOCK,
        rng=system_rng(),
    )
