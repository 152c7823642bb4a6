"""When a language model is started, waited for, and given up, by what Ray Serve says of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ray import serve
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ServeStatus

from cluster.catalog.manifests import ModelKind, ModelManifest
from cluster.catalog.model_settings import GeneratorSettings
from cluster.errors import Unavailable
from cluster.store.local_store import LocalStore
from deployments.serve import generator_deployer
from deployments.serve.generator_deployer import ServeGeneratorDeployer
from tests.support.node_cache import node_cache

APP = "generator-1"
MODEL = ModelManifest(
    kind=ModelKind.GENERATOR, name="tiny", version="1", fingerprint="0" * 64, files=()
)


class Serve:
    """Stands for Ray Serve: what it says of the application, from one look to the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.says: list[ApplicationStatus | None] = [None]
        self.started = 0
        self.deleted = 0
        monkeypatch.setattr(serve, "status", self.status)
        monkeypatch.setattr(serve, "delete", self.delete)
        monkeypatch.setattr(generator_deployer, "run_in_fresh_process", self.start)
        self.deployer = ServeGeneratorDeployer(
            node_cache(LocalStore(folder / "store"), folder / "cache"), poll_s=0.0
        )
        self.give_up = threading.Event()

    def status(self) -> ServeStatus:
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if said is None:
            return ServeStatus()
        overview = ApplicationStatusOverview(
            status=said, message="no such file", last_deployed_time_s=0.0, deployments={}
        )
        return ServeStatus(applications={APP: overview})

    def start(self, give_up: threading.Event, function: Callable[..., None], *_: object) -> None:
        self.started += 1

    def delete(self, name: str, _blocking: bool = True) -> None:
        assert name == APP
        self.deleted += 1

    def wait(self) -> None:
        self.deployer.wait_until_running(MODEL, APP, self.give_up)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    return Serve(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("said", "started"),
    [
        (None, 1),
        (ApplicationStatus.DELETING, 1),
        (ApplicationStatus.UNHEALTHY, 1),
        (ApplicationStatus.DEPLOYING, 0),
        (ApplicationStatus.RUNNING, 0),
    ],
)
def test_a_model_that_starts_already_is_not_started_anew(
    scripted: Serve, said: ApplicationStatus | None, started: int
) -> None:
    scripted.says = [said]
    scripted.deployer.start(MODEL, APP, GeneratorSettings(), scripted.give_up)
    assert scripted.started == started


def test_the_wait_ends_when_the_model_runs(scripted: Serve) -> None:
    scripted.says = [*[ApplicationStatus.DEPLOYING] * 3, ApplicationStatus.RUNNING]
    scripted.wait()
    assert scripted.deleted == 0


def test_a_model_that_fails_is_deleted_and_told_with_its_reason(scripted: Serve) -> None:
    scripted.says = [ApplicationStatus.DEPLOYING, ApplicationStatus.DEPLOY_FAILED]
    with pytest.raises(Unavailable, match="tiny cannot start: no such file"):
        scripted.wait()
    assert scripted.deleted == 1


@pytest.mark.parametrize("said", [ApplicationStatus.DELETING, None])
def test_nobody_waits_for_a_model_that_another_release_has_deleted(
    scripted: Serve, said: ApplicationStatus | None
) -> None:
    scripted.says = [ApplicationStatus.DEPLOYING, said]
    with pytest.raises(Unavailable, match="tiny was deleted"):
        scripted.wait()
    assert scripted.deleted == 0


def test_a_model_that_finds_no_place_is_deleted_so_that_it_is_started_anew(
    scripted: Serve,
) -> None:
    scripted.deployer = replace(scripted.deployer, start_timeout_s=0.0)
    scripted.says = [ApplicationStatus.DEPLOYING]
    with pytest.raises(Unavailable, match="tiny did not start"):
        scripted.wait()
    assert scripted.deleted == 1


def test_whoever_gives_up_leaves_the_model_to_the_unloading(scripted: Serve) -> None:
    scripted.says = [ApplicationStatus.DEPLOYING]
    scripted.give_up.set()
    with pytest.raises(Unavailable, match="nobody waits"):
        scripted.wait()
    assert scripted.deleted == 0
