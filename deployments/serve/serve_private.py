"""The parts of Ray Serve that Raygion changes although Serve does not promise to keep them.

The other modules take them from here, so that what another version of Ray may break stands in one
place; `tests/unit/deployments/serve/test_serve_private.py` has a test for each. The parts of Ray
itself are in `actors.runtime.ray_private`. Four things stand where they are used, and are tested
with these: the base classes from `ray.serve.llm` in `deployments.serve.generator`, since importing
them imports vLLM; an option of a handle and the context of a call in
`actors.models.serve_generator`; and uvicorn's `RequestResponseCycle` in
`deployments.serve.shortcut`, which processes import before the environment for Serve is set.

Importing this module fixes the settings that Serve takes from the environment. So only processes
that Serve itself has started import it.
"""

# ruff: noqa: TID251

from __future__ import annotations

from ray.serve._private import controller, haproxy, replica
from ray.serve._private.deployment_scheduler import DeploymentScheduler

__all__ = [
    # It leaves the choice of a replica's node to Ray, which does not ask what runs there.
    "DeploymentScheduler",
    # It names the class that starts HAProxy, and no setting names another one.
    "controller",
    # It notices only by a poll that HAProxy has died, and ends HAProxy together with itself.
    "haproxy",
    # It lets the web server of every replica listen on the host that HAProxy takes requests on.
    "replica",
]
