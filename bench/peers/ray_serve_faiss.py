"""Plain Ray Serve: a deployment with Faiss in it, behind the HAProxy ingress."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import ray

from bench.data import ROOT
from bench.load.client import LoadGenerator
from bench.peers.contract import System
from bench.peers.libraries.faiss_answer import FaissAnswer
from bench.peers.servers.json_dialect import JsonDialect
from bench.peers.servers.served import LOOPBACK, ServedSystem, Server, wait_until_settled
from bench.peers.vector_sets import VectorSet
from deployments.nodes.local_cluster import LocalCluster, start_local_cluster

_ONGOING_MAX = 100
_THREADS = 2
_DIALECT = JsonDialect(path="/")


@contextmanager
def running(
    data: VectorSet, folder: Path, load: LoadGenerator, *, replicas: int
) -> Iterator[System]:
    """Needs a process of its own: what Ray Serve reads from the environment, it reads once."""
    facts = data.facts
    cluster = start_local_cluster(
        name="plain-serve", run_dir=folder / "run", http_port=0, env={"PYTHONPATH": str(ROOT)}
    )
    try:
        cluster.prepare_driver()
        ray.init(cluster.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        _deploy(cluster, data.folder / "index.faiss", facts.ef_search, replicas)
        wait_until_settled(cluster.http_port, _DIALECT.request(data.queries[:1], 0))
        yield ServedSystem(
            Server(
                title=f"plain Ray Serve with Faiss, HAProxy, {replicas} replica"
                + ("s" if replicas > 1 else ""),
                index=f"Faiss HNSW, efSearch {facts.ef_search}",
                host=LOOPBACK,
                port=cluster.http_port,
                build_s=facts.build_s,
                is_tuned=False,
                dialects={"JSON": _DIALECT},
                pids=cluster.pids,
            ),
            load,
        )
    finally:
        ray.shutdown()
        cluster.stop()


one_replica = partial(running, replicas=1)
two_replicas = partial(running, replicas=2)


def _deploy(cluster: LocalCluster, index_file: Path, ef_search: int, replicas: int) -> None:
    # Imported once the cluster is known: Ray Serve reads its settings from the environment then.
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    logging.getLogger("ray.serve").setLevel(logging.ERROR)

    class Search:
        def __init__(self) -> None:
            self._answer = FaissAnswer(index_file, ef_search, _THREADS)

        async def __call__(self, request: Request) -> Response:
            return Response(self._answer(await request.body()), media_type="application/json")

    deployment = serve.deployment(
        num_replicas=replicas, max_ongoing_requests=_ONGOING_MAX, ray_actor_options={"num_cpus": 0}
    )(Search)
    http_options = {"host": LOOPBACK, "port": cluster.http_port}
    serve.start(proxy_location="HeadOnly", http_options=http_options)
    serve.run(deployment.bind(), name="search", route_prefix="/")
