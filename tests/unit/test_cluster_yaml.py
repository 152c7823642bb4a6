"""`cluster.yaml` is a launcher file that Ray accepts, and it keeps Raygion's promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def launcher() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_rays_own_schema_accepts_it(launcher: dict[str, Any]) -> None:
    validate_config(prepare_config(launcher))


def test_rays_own_schema_would_refuse_a_slip(launcher: dict[str, Any]) -> None:
    launcher["max_worker"] = launcher.pop("max_workers")
    with pytest.raises(ValidationError):
        validate_config(launcher)


@pytest.mark.parametrize("which", START_COMMANDS)
def test_every_machine_asks_for_the_token_tells_ray_what_it_needs_and_stops_nobody(
    launcher: dict[str, Any], which: str
) -> None:
    commands = " ".join(launcher[which])
    assert "RAY_AUTH_MODE=token" in commands
    assert "RAY_AUTH_TOKEN_PATH=" in commands
    told, started = commands.index(". ~/.raygion-ray-env"), commands.index("ray start")
    assert commands.index("raygion ray-env") < told < started
    assert "ray stop" not in commands


def test_the_region_that_it_starts_is_in_the_settings(launcher: dict[str, Any]) -> None:
    settings = yaml.safe_load((ROOT / "regions.yaml").read_text())
    head = " ".join(launcher["head_start_ray_commands"])
    assert any(f"--region {region}" in head for region in settings["regions"])
