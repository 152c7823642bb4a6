"""The generator of a region as the query path sees it: a Serve deployment, called by its handle."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from contextvars import copy_context
from functools import partial

from ray import serve
from ray.serve.context import _set_request_context
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from actors.models.replica_outcomes import ReplicaOutcomes, RoutingHint, outcomes_of
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, Overloaded, RaygionError, Unavailable
from cluster.generation.generator import GenerationChunk, GenerationRequest
from cluster.generation.resuming import Attempt, resumed

GENERATOR_DEPLOYMENT = "generator"
"""The name of the deployment inside each generator version's Serve application."""
RETRY_AFTER_S = 1.0


class ServeGenerator:
    """Implements `cluster.generation.generator.Generator` over the Serve application of one model
    version.

    Guarantees: a stream ends with a chunk that has a `finish_reason`, or raises a typed error. When
    a replica breaks off, another one, where there is one, goes on from the last piece that came,
    once and within the same deadline. Closing or cancelling the iterator stops the generation in
    the engine. How attempts end moves the weights of `deployments.serve.weighted_router`.
    """

    def __init__(self, app_name: str, *, deployment: str = GENERATOR_DEPLOYMENT) -> None:
        self._app_name = app_name
        self._deployment = deployment
        self._outcomes = outcomes_of(app_name)
        self._handle: DeploymentHandle[object] | None = None

    def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        return resumed(
            self._attempts(request.request_id),
            request,
            deadline,
            may_resume=lambda error: isinstance(error, Unavailable),
        )

    def _attempts(self, request_id: str) -> Iterator[Attempt]:
        hint = RoutingHint(attempt_id=f"{request_id}-{uuid.uuid4().hex[:8]}")
        first = _Attempt(self._outcomes, hint)
        yield partial(self._stream_once, first)
        # Which replica it was is known once it has broken off.
        hint = RoutingHint(attempt_id=f"{hint.attempt_id}-2", avoid_replica=first.replica_id)
        second = _Attempt(self._outcomes, hint)
        yield partial(self._stream_once, second)

    async def _stream_once(
        self, attempt: _Attempt, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        deadline.check("waiting for the generator")
        handle = await self._connect(deadline)
        response = copy_context().run(_call, handle, request, deadline, attempt.hint)
        now_s = deadline.clock.monotonic_s
        finished = False
        try:
            while not finished:
                asked_s = now_s()
                chunk = await _next_chunk(response, deadline)
                attempt.received(chunk, now_s() - asked_s)
                finished = chunk.finish_reason is not None
                yield chunk
        except Exception as error:
            typed = _typed(error)
            attempt.broke(typed)
            raise typed from error
        except BaseException as leaving:
            attempt.broke(leaving)
            raise
        finally:
            if not finished:
                _cancel(response)

    async def _connect(self, deadline: Deadline) -> DeploymentHandle[object]:
        """Found at the first use: the application may be deployed after its client is made."""
        if self._handle is None:
            try:
                # Asks the Serve controller and waits for it, which must not stop this event loop.
                async with asyncio.timeout(deadline.remaining_s()):
                    handle = await asyncio.to_thread(
                        serve.get_deployment_handle, self._deployment, self._app_name
                    )
            except TimeoutError:
                raise DeadlineExceeded("time ran out before the generator was found") from None
            except (RayServeException, KeyError) as error:
                raise Unavailable(f"no generator {self._app_name} is deployed") from error
            # By gRPC: a message costs a third of the CPU time that one of Ray's streams costs.
            self._handle = handle.options(stream=True, method_name="generate", _by_reference=False)
        return self._handle


class _Attempt:
    """The course of one call to one replica so far, reported to the outcomes once."""

    def __init__(self, outcomes: ReplicaOutcomes, hint: RoutingHint) -> None:
        self.hint = hint
        self.replica_id: str | None = None
        self._outcomes = outcomes
        self._first_token_s: float | None = None
        self._later_s = 0.0

    def received(self, chunk: GenerationChunk, waited_s: float) -> None:
        if self._first_token_s is None:
            self._first_token_s = self._outcomes.waited_s(self.hint.attempt_id)
        else:
            # Only time spent waiting counts: a slow reader does not make a slow replica.
            self._later_s += waited_s
        if chunk.finish_reason is not None:
            self._outcomes.answered(
                self.hint.attempt_id,
                first_token_s=self._first_token_s,
                later_tokens=(chunk.completion_tokens or 1) - 1,
                later_s=self._later_s,
            )

    def broke(self, error: BaseException) -> None:
        """It failed, or its caller leaves: tells nothing more of an attempt that was finished."""
        self.replica_id = self._outcomes.replica_of(self.hint.attempt_id)
        self._outcomes.broke(self.hint.attempt_id, error, first_token_s=self._first_token_s)


def _call(
    handle: DeploymentHandle[object],
    request: GenerationRequest,
    deadline: Deadline,
    hint: RoutingHint,
) -> DeploymentResponseGenerator[GenerationChunk]:
    """Runs in a context of its own, where the call gets an id of its own: calls of one HTTP request
    would share one, and of two that wait for a replica Serve's router would forget the second.
    """
    _set_request_context(_internal_request_id=uuid.uuid4().hex)
    response = handle.remote(request, timeout_s=deadline.remaining_s(), routing=hint)
    assert isinstance(response, DeploymentResponseGenerator)
    return response


async def _next_chunk(
    response: DeploymentResponseGenerator[GenerationChunk], deadline: Deadline
) -> GenerationChunk:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await anext(response)
    except TimeoutError:
        raise DeadlineExceeded("time ran out while the generator was answering") from None
    except StopAsyncIteration:
        raise Unavailable("the generator broke off before the end of its answer") from None


def _cancel(response: DeploymentResponseGenerator[GenerationChunk]) -> None:
    """Ends the call on the replica, which makes the engine abort the generation."""
    # On a call that broke by itself Serve raises the call's own error here once more.
    with suppress(Exception):
        response.cancel()  # type: ignore[no-untyped-call]


def _typed(error: Exception) -> RaygionError:
    """The typed error that the caller gets for an error from Serve or from the replica."""
    # An error raised in the replica arrives wrapped in one of Ray's own.
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, RaygionError):
        return cause
    if isinstance(cause, BackPressureError):
        return Overloaded(
            "more questions wait for the language model than its queue holds", RETRY_AFTER_S
        )
    return Unavailable("the language model failed while answering")
