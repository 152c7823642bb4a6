"""What goes finishes what it has accepted, an answer of the longest time, too."""

from __future__ import annotations

from pathlib import Path

from cluster.catalog.catalog import Catalog
from cluster.config import Settings
from cluster.query.terms import TIMEOUT_S_MAX
from cluster.store.local_store import LocalStore
from deployments.nodes.ray_starter import machine_env
from deployments.serve.draining import REACHABLE_S
from deployments.serve.gateway import gateway_application
from tests.support.node_cache import node_cache


def test_gateways_may_finish_an_answer_that_they_accepted_last(tmp_path: Path) -> None:
    settings = Settings()
    application = gateway_application(
        settings,
        settings.region_name(None),
        Catalog(LocalStore(tmp_path)),
        node_cache(LocalStore(tmp_path), tmp_path),
    )
    config = application._bound_deployment._deployment_config
    assert config.graceful_shutdown_timeout_s > REACHABLE_S + TIMEOUT_S_MAX


def test_language_models_may_finish_their_answers() -> None:
    from deployments.serve.generator import GeneratorSpec, llm_config_of

    config = llm_config_of(GeneratorSpec(model_id="m", model_folder="/m")).deployment_config
    assert config["graceful_shutdown_timeout_s"] > TIMEOUT_S_MAX


def test_a_relieved_proxy_lives_as_long_as_the_longest_stream(tmp_path: Path) -> None:
    env = machine_env(tmp_path)
    assert float(env["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"]) == REACHABLE_S
    assert float(env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > REACHABLE_S + TIMEOUT_S_MAX
    # A gateway that crashes every few seconds must not use up the ports.
    assert float(env["RAY_SERVE_PORT_QUARANTINE_S"]) < 200
