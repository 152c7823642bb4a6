"""The means that keep a local Ray cluster on the loopback interface where Ray has no switch for it.

Told that a node's address is exactly 127.0.0.1, nearly everything in Ray listens there alone. Four
things do not, in Ray 2.60:

1. `ray start` replaces 127.0.0.1 by the address of the machine's network interface. The environment
   variable in `LOOPBACK_ENV` turns this off, and with it the right to add further nodes; the hook
   `start_on_loopback` brings that right back.
2. The Ray Client server, which Raygion has no use for. The same hook leaves it out.
3. The port on which a Serve replica answers other deployments. `serve_on_loopback` moves it.
4. HAProxy's statistics and metrics. `deployments.nodes.haproxy` moves them.

Ray calls both hooks by name in its own processes, so this module must import nothing
but Ray, and that late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.runtime.ray_private import RayParams

# For the processes of the cluster and for its drivers.
LOOPBACK_ENV = {
    # "This system cannot have clusters of several nodes, so the address of this one is 127.0.0.1."
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Addresses that vLLM and torch would otherwise offer to their peers on the network.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    # A driver that deploys ray.serve.llm would ask for another hook in place of the one below; that
    # one only imports modules early.
    "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0",
}

# For the processes of the cluster.
HOOK_ENV = {
    "RAY_START_HOOK": f"{__name__}.start_on_loopback",
    # Ray runs what this names in each worker process before the first task.
    "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": f"{__name__}.serve_on_loopback",
}


def start_on_loopback(params: RayParams, head: bool) -> None:
    """Called by `ray start` when it has read its arguments and before it starts a process."""
    from actors.runtime.ray_private import ray_constants, services

    params.ray_client_server_port = None
    if not head:
        ray_constants.ENABLE_RAY_CLUSTER = True
        services.get_node_ip_address = lambda address=None: "127.0.0.1"


def serve_on_loopback() -> None:
    """Called in each worker process before its first task; Serve is not imported yet."""
    from actors.runtime.ray_private import tls_utils

    add_port = tls_utils.add_port_to_grpc_server

    def add_port_on_loopback(server: Any, address: str) -> int:
        port: int = add_port(  # type: ignore[no-untyped-call]
            server, address.replace("[::]:", "127.0.0.1:")
        )
        return port

    tls_utils.add_port_to_grpc_server = add_port_on_loopback
