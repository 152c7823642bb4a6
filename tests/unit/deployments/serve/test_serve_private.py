"""Ray Serve and uvicorn have what Raygion takes from them without a promise: one test for each
symbol.
"""

from __future__ import annotations

import pytest

from deployments.serve import serve_private
from tests.support.private_symbols import check_symbol

SERVE_SEEN_IN = "ray 2.60.0"
UVICORN_SEEN_IN = "uvicorn 0.54.0"
_SCHEDULER = "ray.serve._private.deployment_scheduler"
_API = "ray.serve._private.haproxy:HAProxyApi"
_MANAGER = (
    "ray.serve._private.haproxy:HAProxyManager.__ray_metadata__.modified_class.__ray_actor_class__"
)
_ENGINE = "ray.llm._internal.serve.engines.vllm.vllm_engine:VLLMEngine"
SERVE: dict[str, tuple[str, ...] | None] = {
    f"{_SCHEDULER}:DeploymentScheduler._schedule_replica": (
        "self",
        "scheduling_request",
        "default_scheduling_strategy",
        "target_node_id",
        "target_labels",
    ),
    f"{_SCHEDULER}:DeploymentScheduler._cluster_node_info_cache": None,
    f"{_SCHEDULER}:DeploymentScheduler._running_replicas": None,
    f"{_SCHEDULER}:DeploymentScheduler._launching_replicas": None,
    f"{_SCHEDULER}:DeploymentScheduler._head_node_id": None,
    f"{_SCHEDULER}:LaunchingReplicaInfo.target_node_id": None,
    f"{_SCHEDULER}:ReplicaSchedulingRequest.replica_id": None,
    f"{_SCHEDULER}:ReplicaSchedulingRequest.target_node_id": None,
    f"{_SCHEDULER}:ReplicaSchedulingRequest.placement_group_bundles": None,
    f"{_SCHEDULER}:ReplicaSchedulingRequest.gang_placement_group": None,
    "ray.serve._private.cluster_node_info_cache:ClusterNodeInfoCache.get_active_node_ids": (
        "self",
    ),
    "ray.serve._private.controller:HAProxyManager": None,
    f"{_API}.start": ("self",),
    f"{_API}.stop": ("self",),
    f"{_API}._get_running_pid": ("self",),
    f"{_API}._graceful_reload": ("self",),
    f"{_API}._start_and_wait_for_haproxy": ("self", "extra_args"),
    f"{_API}._proc": None,
    f"{_API}.cfg": None,
    f"{_API}.config_file_path": None,
    "ray.serve._private.haproxy:HAProxyConfig.socket_path": None,
    f"{_MANAGER}._update_haproxy_backends": ("self",),
    f"{_MANAGER}._received_target_groups_broadcast": None,
    "ray.serve._private.replica:start_asgi_http_server": ("app", "http_options"),
    "ray.llm._internal.common.callbacks.base:CallbackBase.on_before_node_init": ("self",),
    "ray.llm._internal.common.callbacks.base:CallbackBase.ctx": None,
    "ray.llm._internal.common.callbacks.base:CallbackCtx.run_init_node": None,
    f"{_ENGINE}._prepare_engine_config": ("self", "callback_ctx"),
    f"{_ENGINE}._engine_client": None,
    "ray.serve.handle:DeploymentHandle.options": (
        *("self", "method_name", "multiplexed_model_id", "session_id", "stream"),
        *("_prefer_local_routing", "_by_reference"),
    ),
    "ray.serve.context:_set_request_context": ("route", "request_id", "_internal_request_id"),
    "ray.serve.llm:LLMServer._start_engine": ("self",),
}
UVICORN: dict[str, tuple[str, ...] | None] = {
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.flow": None,
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.send": ("self", "message"),
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.transport": None,
    "uvicorn.protocols.http.flow_control:FlowControl.write_paused": None,
}


@pytest.mark.parametrize("symbol", SERVE)
def test_serve_has(symbol: str) -> None:
    check_symbol(symbol, SERVE[symbol], seen_in=SERVE_SEEN_IN)


@pytest.mark.parametrize("symbol", UVICORN)
def test_uvicorn_has(symbol: str) -> None:
    check_symbol(symbol, UVICORN[symbol], seen_in=UVICORN_SEEN_IN)


def test_the_manager_of_haproxy_takes_the_class_from_its_module() -> None:
    manager = serve_private.haproxy.HAProxyManager.__ray_metadata__.modified_class
    assert "HAProxyApi" in manager.__ray_actor_class__.__init__.__code__.co_names, SERVE_SEEN_IN


def test_each_symbol_of_the_module_is_tested() -> None:
    parts = {part for symbol in SERVE for part in symbol.replace(":", ".").split(".")}
    assert set(serve_private.__all__) <= parts
