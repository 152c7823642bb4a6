"""The runner of a region's language models, as the coordinator needs it."""

from __future__ import annotations

import threading
from typing import Protocol

from cluster.catalog.manifests import ModelManifest
from cluster.catalog.model_settings import GeneratorSettings


class GeneratorDeployer(Protocol):
    """Runs generators. Every method may be called again for what it has done before.

    What starts or waits raises Unavailable, also soon after `give_up` was set.
    """

    def start(
        self,
        model: ModelManifest,
        application: str,
        settings: GeneratorSettings,
        give_up: threading.Event,
    ) -> None:
        """Fetches the model and begins to start it. Raises InvalidArgument, too."""
        ...

    def wait_until_running(
        self, model: ModelManifest, application: str, give_up: threading.Event
    ) -> None:
        """Returns when the model that was started answers."""
        ...

    def delete(self, application: str) -> None: ...

    def applications(self) -> set[str]:
        """The deployed applications, whichever process has deployed them."""
        ...
