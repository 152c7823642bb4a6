"""Runs generator versions as Serve applications, for the coordinator."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ray import serve
from ray.serve.schema import ApplicationStatus

from actors.runtime import names
from actors.runtime.wiring import run_in_fresh_process
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.manifests import ModelManifest
from cluster.catalog.model_settings import GeneratorSettings
from cluster.clock import Deadline
from cluster.errors import Unavailable


@dataclass(frozen=True, slots=True)
class ServeGeneratorDeployer:
    """A `GeneratorDeployer`: one application for each model version."""

    cache: ArtifactCache
    start_timeout_s: float = 900.0
    poll_s: float = 0.25

    def start(
        self,
        model: ModelManifest,
        application: str,
        settings: GeneratorSettings,
        give_up: threading.Event,
    ) -> None:
        """Returns when the application is Serve's to start; at once when it is already."""
        if _status_of(application) in (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING):
            return
        # Building the application imports vLLM, a gigabyte that the coordinator should not carry.
        run_in_fresh_process(give_up, _run_application, application, model, self.cache, settings)

    def wait_until_running(
        self, model: ModelManifest, application: str, give_up: threading.Event
    ) -> None:
        """Returns when every replica has warmed up. One that does not start is deleted, so that a
        next attempt starts it anew.
        """
        deadline = Deadline.after(self.start_timeout_s)
        while (status := _status_of(application)) is not ApplicationStatus.RUNNING:
            if status is ApplicationStatus.DEPLOY_FAILED:
                message = serve.status().applications[application].message
                serve.delete(application)
                raise Unavailable(f"the generator {model.name} cannot start: {message}")
            if status is ApplicationStatus.DELETING or status is None:
                # Another release with this model has found that it does not start.
                raise Unavailable(f"the generator {model.name} was deleted before it had started")
            if deadline.expired():
                self.delete(application)
                raise Unavailable(
                    f"the generator {model.name} did not start within "
                    f"{self.start_timeout_s:.0f} s; is there a node with enough free CPUs or GPUs?"
                )
            if give_up.wait(self.poll_s):
                raise Unavailable(f"nobody waits for the generator {model.name} any more")

    def delete(self, application: str) -> None:
        if _status_of(application) is not None:
            serve.delete(application, _blocking=False)

    def applications(self) -> set[str]:
        return {name for name in serve.status().applications if names.is_generator(name)}


def _status_of(application: str) -> ApplicationStatus | None:
    found = serve.status().applications.get(application)
    return None if found is None else found.status


def _run_application(
    name: str,
    model: ModelManifest,
    cache: ArtifactCache,
    settings: GeneratorSettings,
) -> None:
    from deployments.serve.generator import GeneratorSpec, ModelArtifact, build_generator_app

    artifact = ModelArtifact(cache=cache, files=model.files)
    spec = GeneratorSpec(
        model_id=model.name,
        model_folder=str(artifact.folder()),
        replicas=settings.replicas,
        replicas_max=settings.replicas_max,
        max_model_len=settings.context_tokens_max,
        max_num_seqs=settings.sequences_max,
        queued_requests_max=settings.queue_max,
        cpus_per_replica=settings.cpus_per_replica,
        accelerator_type=settings.accelerator_type,
        engine_kwargs=settings.engine,
    )
    application = build_generator_app(spec, artifact)
    target = serve.RunTarget(application, name=name, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
