"""Calls of Ray actors by name, with Raygion's errors in place of Ray's."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError

from cluster.errors import RaygionError, Unavailable
from cluster.logs.events import EventLog

NAMESPACE = "raygion"

log = EventLog(__name__)


class Actor(Protocol):
    """An actor as its callers see it: `NamedActor`, or what stands for one in a test."""

    async def call(self, method: str, *args: object) -> Any: ...


class NamedActor:
    """A Ray actor that is found by its name, and found again after it was made anew.

    Failures of a call: what the actor raises of `cluster.errors`; Unavailable for everything that
    Ray says of a dead, restarting or unreachable actor, and for an actor's own bug, which is
    logged. Cancelling a call cancels it in the actor, too. The caller brings the timeout.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._handle: Any = None

    async def call(self, method: str, *args: object) -> Any:
        ref = None
        try:
            if self._handle is None:
                # A look-up is a blocking round trip to Ray's control store.
                self._handle = await asyncio.to_thread(self._look_up)
            ref = getattr(self._handle, method).remote(*args)
            return await ref
        except asyncio.CancelledError:
            if ref is not None:
                ray.cancel(ref, recursive=False)
            raise
        except TaskCancelledError as error:
            raise Unavailable(f"{self.name} gave the call up") from error
        except RayTaskError as error:
            raise self._as_raygion_error(error) from error
        except RayActorError as error:
            # The actor may have been made anew under its name: look it up again next time.
            self._handle = None
            raise Unavailable(f"{self.name} does not answer") from error
        except RayError as error:
            raise Unavailable(f"{self.name} cannot be reached") from error

    def _look_up(self) -> Any:
        try:
            return ray.get_actor(self.name, namespace=NAMESPACE)
        except ValueError as error:
            raise Unavailable(f"there is no actor {self.name} at the moment") from error

    def _as_raygion_error(self, error: RayTaskError) -> RaygionError:
        cause = error.cause
        if isinstance(cause, RaygionError):
            return cause
        log.error(
            "actor.failed",
            "{actor} failed on its own account",
            actor=self.name,
            traceback_of=error,
        )
        return Unavailable(f"{self.name} failed")
