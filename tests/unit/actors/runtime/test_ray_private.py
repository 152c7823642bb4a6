"""Ray has what Raygion takes from it without a promise: one test for each symbol."""

from __future__ import annotations

import inspect

import pytest

from actors.runtime import ray_private
from deployments.nodes import loopback
from tests.support.private_symbols import check_symbol

SEEN_IN = "ray 2.60.0"
SYMBOLS: dict[str, tuple[str, ...] | None] = {
    "ray._common.tls_utils:add_port_to_grpc_server": ("server", "address"),
    "ray._private.gcs_utils:cleanup_redis_storage": (
        "host",
        "port",
        "password",
        "use_ssl",
        "storage_namespace",
    ),
    "ray._private.parameter:RayParams.ray_client_server_port": None,
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER": None,
    "ray._private.ray_constants:ENABLE_RAY_CLUSTERS_ENV_VAR": None,
    "ray._private.ray_constants:IS_WINDOWS_OR_OSX": None,
    "ray._private.services:get_node_ip_address": ("address",),
    "ray._private.worker:_worker_logs_enabled": None,
    "ray._private.worker:global_worker": None,
    "ray._raylet:AuthenticationTokenLoader.instance": None,
    "ray._raylet:AuthenticationTokenLoader.reset_cache": None,
    "ray._raylet:Config.initialize": None,
    "ray._raylet:GcsClient": None,
    # `GcsClient` hands on to this class what it is asked.
    "ray._raylet:InnerGcsClient.cluster_id": None,
    "ray._raylet:InnerGcsClient.get_all_node_info": None,
}


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_ray_has(symbol: str) -> None:
    check_symbol(symbol, SYMBOLS[symbol], seen_in=SEEN_IN)


def test_a_process_that_joins_a_cluster_keeps_the_client_of_its_control_store() -> None:
    connect = inspect.unwrap(ray_private.worker.connect)
    assert "gcs_client" in connect.__code__.co_names, SEEN_IN


@pytest.mark.parametrize(
    ("constant", "env"),
    [
        ("ENABLE_RAY_CLUSTERS_ENV_VAR", loopback.LOOPBACK_ENV),
        ("WORKER_PROCESS_SETUP_HOOK_ENV_VAR", loopback.HOOK_ENV),
    ],
)
def test_ray_reads_the_variable_that_raygion_sets(constant: str, env: dict[str, str]) -> None:
    assert getattr(ray_private.ray_constants, constant) in env, SEEN_IN


def test_each_symbol_of_the_module_is_tested() -> None:
    parts = {part for symbol in SYMBOLS for part in symbol.replace(":", ".").split(".")}
    assert set(ray_private.__all__) <= parts
