"""The launcher files are such as Ray accepts, and they keep Raygion's promises."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[4]
OWN = "cluster-local.yaml"
FILES = ("cluster.yaml", OWN)
HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
KEPT_BACK = {".venv", ".venv-peers", ".git", ".raygion", ".hypothesis", "bench"}


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return loaded


@pytest.fixture(params=FILES)
def launcher(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def test_rays_own_schema_accepts_it(launcher: dict[str, Any]) -> None:
    validate_config(prepare_config(launcher))


def test_rays_own_schema_would_refuse_a_slip(launcher: dict[str, Any]) -> None:
    launcher["max_worker"] = launcher.pop("cluster_name")
    with pytest.raises(ValidationError):
        validate_config(launcher)


@pytest.mark.parametrize("workers", [["10.0.0.2"], ["10.0.0.2", "10.0.0.3"]])
def test_every_machine_of_ones_own_is_wanted_from_the_beginning(workers: list[str]) -> None:
    launcher = read(OWN)
    launcher["provider"]["worker_ips"] = workers
    kinds = prepare_config(launcher)["available_node_types"]
    assert [kind["min_workers"] for kind in kinds.values()] == [len(workers)]


def test_machines_of_ones_own_are_started_by_the_autoscaler_that_starts_all_of_them() -> None:
    assert "RAY_enable_autoscaler_v2=0" in " ".join(read(OWN)[HEAD])


@pytest.mark.parametrize("which", [HEAD, WORKER])
def test_every_machine_asks_for_the_token_and_stops_nobody(
    launcher: dict[str, Any], which: str
) -> None:
    commands = " ".join(launcher[which])
    assert "RAY_AUTH_MODE=token" in commands
    assert "RAY_AUTH_TOKEN_PATH=" in commands
    assert "ray stop" not in commands
    # Where Ray is started by Raygion it gets the environment that Serve needs, and is ended whole.
    started = {HEAD: "raygion up --region local -- ray start --head"}
    assert started.get(which, "raygion join --region local -- ray start --address") in commands


def test_the_region_that_it_starts_is_in_the_settings(launcher: dict[str, Any]) -> None:
    settings = read("regions.yaml")
    head = " ".join(launcher[HEAD])
    assert any(f"--region {region}" in head for region in settings["regions"])


def test_the_machines_get_what_they_install_and_run_and_nothing_large(
    launcher: dict[str, Any],
) -> None:
    mounted = {Path(source) for source in launcher["file_mounts"].values()}
    assert all((ROOT / source).exists() for source in mounted - {Path("auth_token")})
    assert not {source.parts[0] for source in mounted} & KEPT_BACK
    assert Path() not in mounted, "the whole folder holds the virtual environment"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    named = {project["project"]["readme"], *project["project"]["license-files"]}
    needed = {"Makefile", "requirements-cpu.lock", "pyproject.toml", "regions.yaml"}
    assert {p.rstrip("*") for p in packages} | named | needed <= set(map(str, mounted))


def test_both_files_set_machines_up_alike() -> None:
    cloud, own = map(read, FILES)
    assert cloud["file_mounts"] == own["file_mounts"]
    assert set(own["setup_commands"]) < set(cloud["setup_commands"])
    assert cloud[WORKER] == own[WORKER]
