"""Starts a region, joins one that runs, and stops it."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray
import ray.data
from ray.exceptions import RayError

from actors.coordinator.client import CoordinatorClient
from actors.runtime.calls import NAMESPACE
from actors.runtime.cluster_join import not_joined, prepare_to_join
from actors.runtime.process_logs import ProcessLogs
from actors.runtime.ray_private import worker
from cluster.errors import Conflict, InvalidArgument
from cluster.progress import Note
from cluster.releases.region_name_watch import wait_for_free_name
from deployments.clients.http_client import HttpRegion
from deployments.hosting.interrupts import uninterrupted
from deployments.hosting.start_checks import check_before_start, check_store_is_shared
from deployments.installation import Installation, NotRunning
from deployments.nodes.local_cluster import (
    LocalCluster,
    clear_away,
    find_local_cluster,
    start_local_cluster,
)
from deployments.nodes.machine import Machine, NodeStarter

_LEAD_TIMEOUT_S = 60.0
_LOOK_TIMEOUT_S = 5.0
_WITHOUT_GATEWAYS = ("NOT_STARTED", "DEPLOY_FAILED", "DELETING")
"""States that Serve reports of an application that will not answer by itself."""
PREPARE_TIMEOUT_S = 900.0
"""Time for a starting region until it serves the current release."""


def start_cluster(installation: Installation) -> LocalCluster:
    """The region's own Ray cluster on this machine: the running one, or a new one."""
    found = find_local_cluster(installation.run_folder)
    if found is not None and found.is_alive():
        return found
    # Opened now, so that a wrong store is refused before anything runs.
    _ = installation.store
    # HAProxy outlives the cluster that it belonged to, and would be taken for another region.
    clear_away(installation.run_folder)
    check_not_served(installation)
    return start_local_cluster(
        name=installation.region,
        run_dir=installation.run_folder,
        http_port=installation.region_settings.http.port,
        slots=installation.gateway_slots,
        gcs_redis=installation.region_settings.gcs_redis,
        num_cpus=_logical_cpus(installation),
    )


def check_not_served(installation: Installation) -> None:
    """Raises Conflict when a region answers where the one that is to be started would."""
    with HttpRegion.of(installation) as http:
        if not http.answers(timeout_s=_LOOK_TIMEOUT_S):
            return
    raise Conflict(
        f"a region answers at {installation.url} already, but its Ray cluster was not started from "
        f"{installation.run_folder}. Name the settings that it was started with by --config; or "
        f"set regions.{installation.region}.ray_address, to join its cluster; or choose another "
        "http.port, to start a second one"
    )


def runs_here(installation: Installation) -> bool:
    """Whether the region's own cluster runs on this machine."""
    found = find_local_cluster(installation.run_folder)
    return found is not None and found.is_alive()


def join(installation: Installation) -> None:
    """Makes this process a driver of the region's running cluster. Raises NotRunning, Unavailable;
    InvalidArgument when the cluster's secret is not known.

    For the main thread only.
    """
    ProcessLogs(installation.region, installation.settings.logs.format).hand_on()
    if ray.is_initialized():
        return
    address = installation.ray_address
    if address is None:
        found = find_local_cluster(installation.run_folder)
        if found is None or not found.is_alive():
            raise NotRunning(
                f"region {installation.region!r} does not run here; start it with `raygion up`"
            )
        found.prepare_driver()
        address = found.ray_address
    else:
        machine = installation.machine
        prepare_to_join(address, None if machine is None else machine.token_path)
    # Ray and Ray Data tell of every step on standard error; the command line shows its own.
    for name in ("ray", "ray.data", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Ray also prints messages from other processes, whatever the log level; switch that off too.
    worker._worker_logs_enabled = False
    # Ray would take SIGTERM for itself, and answer it with a dump of its stacks.
    os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, RayError) as error:
        raise not_joined(address, error) from error
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)


@contextmanager
def joined(installation: Installation) -> Iterator[None]:
    """Joins the region's cluster; where none runs, one is started for the time of the block."""
    runs = installation.ray_address is not None or runs_here(installation)
    try:
        if not runs:
            start_cluster(installation)
        join(installation)
        yield
    finally:
        _leave(installation, stop=not runs)


@contextmanager
def brought_up(
    installation: Installation, ray_start: Sequence[str], note: Note
) -> Iterator[Installation]:
    """Starts the region's cluster, where none runs, and joins it; ends it if the block fails.

    `ray_start`: the command that starts the head node of a cluster of several machines; empty for a
    cluster on this machine alone. Gives the installation as it is with that cluster.
    """
    check_before_start(installation)
    runs = installation.ray_address is not None or runs_here(installation)
    note("Ray cluster")
    try:
        if ray_start:
            machine, runs = node_starter(installation, ray_start).start_head()
            installation = replace(installation, machine=machine)
        elif not runs:
            start_cluster(installation)
        join(installation)
        yield installation
    except BaseException:
        _leave(installation, stop=not runs)
        raise


def node_starter(installation: Installation, ray_start: Sequence[str]) -> NodeStarter:
    """The starter of Ray on this machine, one of several of the region. Raises InvalidArgument."""
    if installation.config is None:
        raise InvalidArgument("name the settings file, which all machines share", "config")
    url = installation.settings.store.url
    folder = Path(os.path.normpath(url))
    if "://" not in url and folder.is_relative_to(installation.config.parent):
        raise InvalidArgument(
            f"{folder} is a folder of this installation, of which each machine has its own: name a "
            "bucket, or a network drive that all machines have at the same path",
            "store.url",
        )
    check_store_is_shared(url)
    return NodeStarter(
        config=installation.config,
        region=installation.region,
        run_folder=installation.run_folder,
        slots=installation.gateway_slots,
        http_port=installation.region_settings.http.port,
        gcs_redis=installation.region_settings.gcs_redis,
        command=ray_start,
    )


def _leave(installation: Installation, *, stop: bool) -> None:
    with uninterrupted():
        ray.shutdown()
        if stop:
            stop_region(installation)


def start_services(installation: Installation, note: Note) -> CoordinatorClient:
    """Starts coordinator, documents actor, front actor and HTTP endpoint on the joined cluster, or
    finds them there.

    Returns when the coordinator leads and the endpoint was started. What runs already goes on with
    the settings that it was started with. Before anything is started, raises Conflict when the
    region runs in another cluster; InvalidArgument (`deployments.hosting.start_checks`).
    """
    # Imported once the cluster is known: Ray Serve reads its settings from the environment then.
    from ray import serve

    from actors.coordinator.coordinator import Coordinator
    from actors.mutations.documents_actor import documents_actor
    from actors.region.front import Front
    from actors.runtime import names, wiring
    from actors.runtime.ray_environment import ONE_THREAD
    from deployments.serve.gateway import gateway_application
    from deployments.serve.generator_deployer import ServeGeneratorDeployer

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    settings, store = installation.settings, installation.store
    http = installation.region_settings.http
    check_before_start(installation)
    cluster_id = wiring.cluster_id()
    wait_for_free_name(store, installation.region, cluster_id)
    serve.start(proxy_location="HeadOnly", http_options={"host": http.host, "port": http.port})
    note("coordinator")
    deployer = ServeGeneratorDeployer(installation.cache)
    wiring.detached_actor(
        Coordinator,
        names.COORDINATOR,
        # Each gateway's long poll holds one.
        threads=64 + http.gateways_most(os.cpu_count() or 1),
        args=(
            settings,
            installation.region,
            store,
            installation.cache,
            deployer,
            cluster_id,
        ),
    )
    client = CoordinatorClient()
    client.wait_until_leading(installation.region, _LEAD_TIMEOUT_S)
    documents_actor(settings, installation.region, store, installation.cache)
    note("endpoint")
    parts = (settings, installation.region, installation.catalog, installation.cache)
    wiring.detached_actor(Front, names.FRONT, threads=512, args=parts, runtime_env=ONE_THREAD)
    gateway = serve.status().applications.get(names.GATEWAY_APPLICATION)
    # Serve would end the gateways that run before it starts equal ones. One that is just being
    # started, such as one in place of a lost one, comes without help.
    if gateway is None or gateway.status in _WITHOUT_GATEWAYS:
        application = gateway_application(*parts)
        serve.run(application, name=names.GATEWAY_APPLICATION, route_prefix="/")
    return client


def stop_region(installation: Installation) -> list[int]:
    """Ends what runs of the region on this machine and returns the pids that were ended."""
    ended = [] if installation.machine is None else installation.machine.stop()
    found = find_local_cluster(installation.run_folder)
    return ended if found is None else ended + found.stop()


def _logical_cpus(installation: Installation) -> int:
    """The CPUs that Ray may plan with: the cores, one more for tasks that mostly wait, and those
    that generators reserve.
    """
    if (asked := installation.region_settings.cpus) is not None:
        return max(1, math.floor(asked))
    generator = installation.settings.generator
    on_cpu = generator.source is not None and generator.accelerator_type is None
    replicas = max(generator.replicas, generator.replicas_max or 0)
    reserved = replicas * generator.cpus_per_replica if on_cpu else 0
    return (os.cpu_count() or 1) + 1 + reserved


def python_client(installation: Installation) -> str | None:
    """The line with which a Python program connects to the region that runs here, if one does."""
    machine = installation.machine
    if machine is not None and machine.is_alive():
        return f'connect("{machine.ray_address}", token_file="{machine.token_path}")'
    found = find_local_cluster(installation.run_folder)
    if found is None or not found.is_alive():
        return None
    return f'connect("{found.ray_address}", token_file="{found.token_path}")'


def control_store(installation: Installation) -> str | None:
    """A word on what happens to the region that runs here when Ray's control store dies; None if
    that is not known.
    """
    cluster: Machine | LocalCluster | None = installation.machine
    if cluster is None or not cluster.is_alive():
        cluster = find_local_cluster(installation.run_folder)
    if cluster is None or not cluster.is_alive():
        return None
    if cluster.gcs_redis is not None:
        return f"has its state in Redis at {cluster.gcs_redis} and is started again when it dies"
    return "has its state in memory: the region dies with it (`raygion up --watch`, gcs_redis)"


def leave() -> None:
    """Ends this process's part in the cluster that it joined."""
    ray.shutdown()
