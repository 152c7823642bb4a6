"""The parts of Ray that Raygion uses although Ray does not promise to keep them.

Every other module takes them from here, so that what another version of Ray may break stands in one
place; `tests/unit/actors/runtime/test_ray_private.py` has a test for each. The parts of Ray Serve
are in `deployments.serve.serve_private`.

Importing this module imports Ray, which reads its environment then. A module that may be imported
before the environment is set imports this one inside its functions.
"""

# ruff: noqa: TID251

from __future__ import annotations

from ray._common import tls_utils
from ray._private import ray_constants, services, worker
from ray._private.gcs_utils import cleanup_redis_storage
from ray._private.parameter import RayParams
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)

__all__ = [
    # Ray remembers the cluster's secret until the process ends, but a process that joins a second
    # cluster needs the secret of that one.
    "AuthenticationTokenLoader",
    # Ray's core reads its settings from the environment only once, when Ray is imported.
    "Config",
    # It asks the control store which nodes are alive, for a process that has joined no cluster.
    # `ray.util.state` would ask the dashboard, which a cluster may run without.
    "GcsClient",
    # The type of what `ray start` hands to its hook.
    "RayParams",
    # Ray leaves the state of an ended cluster in Redis, and no command of Ray removes it.
    "cleanup_redis_storage",
    # It says whether a process at 127.0.0.1 takes the address of the network interface instead, as
    # read from the environment when Ray was imported.
    "ray_constants",
    # `ray start` asks it for the address of a further node; `--node-ip-address` does not stop that.
    "services",
    # It opens the gRPC port of a Serve replica, on all interfaces; no setting narrows that.
    "tls_utils",
    # It knows the id of the cluster, which Ray's runtime context lacks, and whether a driver prints
    # messages from other processes, which it does at any log level.
    "worker",
]
