"""Turns plain classes into named Ray actors. Builds make their own tasks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.runtime.calls import NAMESPACE
from actors.runtime.process_logs import logging_class, logging_function
from actors.runtime.ray_private import worker
from cluster.errors import Unavailable
from cluster.logs.events import EventLog

P = ParamSpec("P")
log = EventLog(__name__)
_STATUS_TIMEOUT_S = 3.0
_LOOK_S = 0.5

_DETACHED: Mapping[str, object] = {
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "get_if_exists": True,
    # Whatever dies comes back; what it held is loaded again from the store.
    "max_restarts": -1,
    "max_task_retries": 0,
    # The region's own work is bounded by its queues, not by Ray's logical CPUs.
    "num_cpus": 0,
    # In bytes. Ray places an actor that asks for nothing at all on a random node, whatever its
    # scheduling strategy says.
    "memory": 1,
}


def cluster_id() -> str:
    """The id of the Ray cluster that this process has joined: every cluster has another one."""
    joined: Any = worker.global_worker
    return str(joined.gcs_client.cluster_id.hex())


def live_nodes() -> dict[str, str]:
    """The nodes on which actors can be placed: their addresses, by their ids."""
    nodes: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}


def existing_actors() -> list[str]:
    """The names of Raygion's detached actors that are not dead."""
    named: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]


def statuses(handles: Mapping[str, Any]) -> dict[str, Any]:
    """The status of each actor that answers in time, by its name."""
    refs = {handle.status.remote(): name for name, handle in handles.items()}
    if not refs:
        return {}
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=_STATUS_TIMEOUT_S)
    answers: dict[str, Any] = {}
    for ref in done:
        try:
            answers[refs[ref]] = ray.get(ref)
        except RayError as error:
            log.debug(
                "actor.silent", "{actor} does not answer: {error}", actor=refs[ref], error=error
            )
    return answers


def detached_actor(
    plain: type,
    name: str,
    *,
    threads: int,
    args: tuple[object, ...],
    runtime_env: Mapping[str, object] | None = None,
    node: str | None = None,
) -> Any:
    """A detached actor of the class `plain` under `name`: the running one, or a new one, on the
    node of that id.
    """
    actor: Any = ray.remote(logging_class(plain))
    options = {**_DETACHED, "name": name, "max_concurrency": threads}
    if runtime_env is not None:
        options["runtime_env"] = runtime_env
    if node is not None:
        # Soft: when the node is gone, the actor comes back on another one.
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
    return actor.options(**options).remote(*args)


def run_in_fresh_process(
    give_up: threading.Event, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs
) -> None:
    """Runs a function in a worker process that ends with it, so that what it imports goes, too.

    Raises what the function raises, and Unavailable soon after `give_up` was set; the process is
    ended then.
    """
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(logging_function(function))
    result = task.remote(*args, **kwargs)
    while not ray.wait([result], timeout=_LOOK_S)[0]:
        if give_up.is_set():
            ray.cancel(result, force=True)
            raise Unavailable("nobody waits for the result any more")
    try:
        ray.get(result)
    except RayTaskError as error:
        raise error.cause from error


def kill(name: str) -> None:
    """Ends the actor of that name for good; none is fine."""
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
