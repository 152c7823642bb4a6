"""The weighted router and the generator's client over plain deployments, without a model."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.serve.context import _set_request_context

from actors.models.replica_outcomes import RoutingHint, outcomes_of
from actors.models.serve_generator import GENERATOR_DEPLOYMENT, ServeGenerator
from cluster.clock import Deadline
from cluster.errors import (
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    Unavailable,
)
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest
from deployments.serve.weighted_router import WEIGHTED_ROUTER, WeightedRouter

pytestmark = pytest.mark.integration

REQUEST = GenerationRequest(
    messages=(ChatMessage(role="user", content="hello"),),
    max_tokens=8,
    temperature=0.0,
    request_id="test",
)


class Stage:
    """A deployed application whose replicas behave as the files of a folder tell them to."""

    def __init__(self, app_name: str, folder: Path) -> None:
        self.app_name = app_name
        self.folder = folder
        self.generator = ServeGenerator(app_name)

    def tell(self, replica_id: str, behaviour: str) -> None:
        draft = self.folder / f".{replica_id}"
        draft.write_text(behaviour)
        draft.replace(self.folder / replica_id)

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def replicas(self) -> list[str]:
        return sorted(path.name[6:] for path in self.folder.glob("ready-*"))

    async def ask(self, timeout_s: float = 10.0) -> str:
        """The id of the replica that answered."""
        chunks = [c async for c in self.generator.stream(REQUEST, Deadline.after(timeout_s))]
        assert chunks[-1].finish_reason == "stop"
        return "".join(chunk.text for chunk in chunks)

    async def ask_often(self, times: int, at_once: int = 4) -> Counter[str]:
        answers: Counter[str] = Counter()
        for _ in range(times // at_once):
            answers.update(await asyncio.gather(*(self.ask() for _ in range(at_once))))
        return answers


def deploy(app_name: str, folder: Path, **options: Any) -> Stage:
    from ray import serve
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    class Actor:
        """Defined here, so that it travels by value to workers that cannot import the tests."""

        def __init__(self) -> None:
            self._id = serve.get_replica_context().replica_id.unique_id
            (folder / f"ready-{self._id}").touch()

        async def generate(
            self, request: GenerationRequest, *, timeout_s: float, routing: RoutingHint
        ) -> AsyncIterator[GenerationChunk]:
            told = folder / self._id
            behaviour = told.read_text() if told.exists() else "answer"
            if behaviour == "fail":
                raise RuntimeError("the inside of the replica")
            if behaviour == "refuse":
                raise InvalidArgument("the prompt is too long", field="messages")
            if behaviour == "die":
                os._exit(1)
            await asyncio.sleep(0.2 if behaviour == "slow" else 0.01)
            if behaviour == "hang":
                await self._hang()
            yield GenerationChunk(text=self._id)
            if behaviour == "hang after a token":
                await self._hang()
            if behaviour == "die after a token":
                os._exit(1)
            if behaviour == "stop short":
                return
            yield GenerationChunk(
                text="", finish_reason="stop", prompt_tokens=1, completion_tokens=1
            )

        async def _hang(self) -> None:
            try:
                (folder / f"called-{self._id}").touch()
                await asyncio.Event().wait()
            finally:
                (folder / f"cancelled-{self._id}").touch()

    class Front:
        def __init__(self, generator: object) -> None:
            self._generator = generator

    routing: dict[str, Any] = {
        "request_router_class": WEIGHTED_ROUTER,
        "initial_backoff_s": 0.01,
        "max_backoff_s": 0.1,
    }
    settings: dict[str, Any] = {
        "name": GENERATOR_DEPLOYMENT,
        "num_replicas": 2,
        "max_ongoing_requests": 16,
        "ray_actor_options": {"num_cpus": 0.1},
        "request_router_config": RequestRouterConfig(**routing),
    }
    generator = serve.deployment(**(settings | options))(Actor).bind()
    nothing = AutoscalingConfig(min_replicas=0, initial_replicas=0, max_replicas=1)
    front = serve.deployment(autoscaling_config=nothing)(Front).bind(generator)
    serve.run(front, name=app_name, route_prefix=None)
    return Stage(app_name, folder)


@pytest.fixture(scope="module")
def _pair(serve_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return deploy("pair", tmp_path_factory.mktemp("pair"))


@pytest.fixture
def pair(_pair: Stage) -> Iterator[Stage]:
    """Two replicas, back to answering after each test."""
    yield _pair
    for replica_id in _pair.replicas():
        _pair.tell(replica_id, "answer")


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        await asyncio.sleep(0.02)


async def until_shared(stage: Stage, timeout_s: float = 60.0) -> None:
    """Asks until both replicas have a fair share again."""
    end_s = time.monotonic() + timeout_s
    while True:
        answers = await stage.ask_often(40)
        if len(answers) == 2 and min(answers.values()) >= 10:
            return
        assert time.monotonic() < end_s, f"still {answers}"


async def test_a_slow_replica_loses_its_share_and_regains_it(pair: Stage) -> None:
    await until_shared(pair)
    slow = pair.replicas()[0]
    pair.tell(slow, "slow")
    await pair.ask_often(60)
    answers = await pair.ask_often(120)
    assert answers[slow] < 12
    assert outcomes_of("pair").weights([slow])[slow] < 0.2
    pair.tell(slow, "answer")
    await until_shared(pair)


async def test_a_failing_replica_fails_no_call_and_is_asked_rarely(pair: Stage) -> None:
    await until_shared(pair)
    failing, good = pair.replicas()
    pair.tell(failing, "fail")
    answers = await pair.ask_often(100)
    assert answers == {good: 100}
    assert outcomes_of("pair").weights([failing])[failing] < 0.1
    pair.tell(failing, "answer")
    await until_shared(pair)


async def test_when_both_fail_the_error_is_typed_and_shows_nothing_of_the_inside(
    pair: Stage,
) -> None:
    for replica_id in pair.replicas():
        pair.tell(replica_id, "fail")
    with pytest.raises(Unavailable) as caught:
        await pair.ask()
    assert "inside" not in str(caught.value)


async def test_the_callers_mistake_is_told_and_not_tried_again(pair: Stage) -> None:
    await until_shared(pair)
    before = outcomes_of("pair").weights(pair.replicas())
    for replica_id in pair.replicas():
        pair.tell(replica_id, "refuse")
    with pytest.raises(InvalidArgument) as caught:
        await pair.ask()
    assert type(caught.value) is InvalidArgument
    assert caught.value.field == "messages"
    after = outcomes_of("pair").weights(pair.replicas())
    assert all(after[replica_id] >= before[replica_id] for replica_id in before)


async def test_an_answer_that_stops_short_is_an_error(pair: Stage) -> None:
    for replica_id in pair.replicas():
        pair.tell(replica_id, "stop short")
    with pytest.raises(Unavailable, match="broke off"):
        await pair.ask()


async def test_a_deadline_ends_the_call_on_the_replica(pair: Stage) -> None:
    for replica_id in pair.replicas():
        pair.tell(replica_id, "hang")
    with pytest.raises(DeadlineExceeded):
        await pair.ask(timeout_s=0.5)
    await until(lambda: any(pair.has(f"cancelled-{known}") for known in pair.replicas()))


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_leaving_ends_the_call_on_the_replica(pair: Stage, how: str) -> None:
    for replica_id in pair.replicas():
        pair.tell(replica_id, "hang" if how == "cancelled" else "hang after a token")
        (pair.folder / f"called-{replica_id}").unlink(missing_ok=True)
        (pair.folder / f"cancelled-{replica_id}").unlink(missing_ok=True)
    stream = pair.generator.stream(REQUEST, Deadline.after(30))
    waiting = asyncio.ensure_future(anext(stream))
    await until(lambda: any(pair.has(f"called-{known}") for known in pair.replicas()))
    if how == "closed":
        assert (await waiting).text
        await stream.aclose()
    else:
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await until(lambda: any(pair.has(f"cancelled-{known}") for known in pair.replicas()))


async def test_nobody_spins_when_all_replicas_are_full_and_the_queue_is_bounded(
    serve_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = deploy("full", tmp_path, max_ongoing_requests=1, max_queued_requests=1)
    for replica_id in full.replicas():
        full.tell(replica_id, "hang")
    hanging = []
    for busy in (1, 2):
        # One after the other: a call counts as queued while it is on its way to a free replica.
        hanging.append(asyncio.ensure_future(full.ask(30)))
        await until(lambda: len(list(full.folder.glob("called-*"))) == busy)  # noqa: B023
    asked = 0
    choose = WeightedRouter.choose_replicas

    async def count(self: WeightedRouter, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return await choose(self, *args, **kwargs)

    monkeypatch.setattr(WeightedRouter, "choose_replicas", count)
    queued = asyncio.ensure_future(full.ask(1.0))
    await until(lambda: asked > 0)
    with pytest.raises(Overloaded) as caught:
        await full.ask()
    assert caught.value.retry_after_s > 0
    with pytest.raises(DeadlineExceeded):
        await queued
    assert asked < 40
    for call in hanging:
        call.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_replica_that_dies_fails_no_call_before_its_first_token(
    serve_cluster: None, tmp_path: Path
) -> None:
    stage = deploy("mortal", tmp_path)
    dying, _ = stage.replicas()
    stage.tell(dying, "die")
    answers = await stage.ask_often(40)
    assert answers.total() == 40
    await until(lambda: len(stage.replicas()) == 3, timeout_s=60)
    for replica_id in stage.replicas():
        stage.tell(replica_id, "die after a token")
    with pytest.raises(Unavailable):
        await stage.ask()


async def test_an_application_that_is_not_deployed_is_unavailable(serve_cluster: None) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        await Stage("nowhere", Path()).ask()


async def test_calls_of_one_http_request_wait_side_by_side(
    serve_cluster: None, tmp_path: Path
) -> None:
    stage = deploy("one-place", tmp_path, num_replicas=1, max_ongoing_requests=1)
    assert await stage.ask() in stage.replicas()
    # As in a gateway, where Serve has set it for the request.
    _set_request_context(request_id="one", _internal_request_id="one")
    answers = await asyncio.gather(*(stage.ask() for _ in range(4)))
    assert answers == stage.replicas() * 4
