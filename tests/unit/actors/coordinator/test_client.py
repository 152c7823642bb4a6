"""What a caller learns when the coordinator goes away: before, or while it makes a change."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from actors.coordinator import client as coordinator_client
from actors.coordinator.client import CoordinatorClient
from cluster.errors import Conflict, DeadlineExceeded, NotFound, OutcomeUnknown, Unavailable
from cluster.releases.entries import LogState
from cluster.releases.fold import fold
from cluster.releases.requests import CommitRelease
from tests.support.fakes import Entries


class FakeRay:
    """A coordinator as Ray shows it: each call of a method takes the next of its answers, the last
    one for ever.
    """

    def __init__(self, **answers: list[object]) -> None:
        self.answers: dict[str, list[object]] = {"ping": [None], **answers}
        self.asked: list[str] = []
        self.is_there = True

    def get_actor(self, name: str, namespace: str) -> object:
        if not self.is_there:
            raise ValueError(f"Failed to look up actor {name}")
        methods = {name: SimpleNamespace(remote=self._method(name)) for name in self.answers}
        return SimpleNamespace(**methods)

    def get(self, answer: object, timeout: float) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _method(self, name: str) -> Callable[..., object]:
        def ask(*args: object) -> object:
            self.asked.append(name)
            answers = self.answers[name]
            return answers.pop(0) if len(answers) > 1 else answers[0]

        return ask


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setattr(coordinator_client, "ray", ray)
    return ray


def client() -> CoordinatorClient:
    return CoordinatorClient(sleep=lambda _: None)


COMMIT = CommitRelease(release=1)
CHANGES: list[tuple[str, tuple[Any, ...]]] = [("request", (COMMIT,)), ("scale", ("c", 2))]
GONE = [ActorDiedError(), GetTimeoutError()]


@pytest.mark.parametrize("error", GONE)
def test_of_a_change_under_way_nobody_knows(ray: FakeRay, error: Exception) -> None:
    for method, args in CHANGES:
        ray.answers[method] = [error]
        with pytest.raises(OutcomeUnknown, match="raygion release list"):
            getattr(client(), method)(*args)


@pytest.mark.parametrize("error", GONE)
def test_a_coordinator_that_is_away_is_asked_for_no_change(ray: FakeRay, error: Exception) -> None:
    ray.answers |= {"request": [1], "ping": [error]}
    with pytest.raises(Unavailable, match="does not answer"):
        client().request(COMMIT)
    assert ray.asked == ["ping"]
    ray.is_there = False
    with pytest.raises(Unavailable, match="no region runs"):
        client().request(COMMIT)


def test_a_coordinator_of_another_version_is_told_from_one_that_is_away(ray: FakeRay) -> None:
    with pytest.raises(Conflict, match="another version of Raygion: start the region again"):
        CoordinatorClient().request(COMMIT)
    assert ray.asked == ["ping"]
    del ray.answers["ping"]
    with pytest.raises(Conflict, match="another version"):
        CoordinatorClient().request(COMMIT)


@pytest.mark.parametrize("error", GONE)
def test_looking_fails_without_a_doubt(ray: FakeRay, error: Exception) -> None:
    ray.answers["log_state"] = [error]
    with pytest.raises(Unavailable):
        client().log_state()


def test_errors_of_the_coordinator_come_as_they_are(ray: FakeRay) -> None:
    for cause, told in ((Conflict("no"), Conflict), (ValueError("a bug"), RayTaskError)):
        error = RayTaskError("request", "its stack", cause).as_instanceof_cause()
        ray.answers["request"] = [error]
        with pytest.raises(told):
            client().request(COMMIT)


def test_waiting_goes_on_while_the_coordinator_starts_anew(ray: FakeRay) -> None:
    make, state = Entries(), LogState()
    for entry in (make.elect("a", 1), make.propose(1)):
        state = fold(state, entry)
    committed = fold(state, make.commit(1))
    away = ActorDiedError()
    opened = state.proposals[1]
    ray.answers["proposal"] = [opened, away, None, opened, committed.proposals[1]]
    client().wait_until_committed(1, 30.0)
    assert ray.asked == ["proposal"] * 5, "the whole log is not sent again and again"
    ray.answers["proposal"] = [None, opened]
    ray.answers["regions_prepared"] = [frozenset(), away, frozenset(state.proposals[1].targets)]
    client().wait_until_prepared(1, 30.0)
    serving = SimpleNamespace(release=1, healthy=True)
    ray.answers["status"] = [away, SimpleNamespace(release=1, healthy=False), serving]
    assert client().wait_until_serving(1, 30.0) is serving
    ray.answers["proposal"] = [None, fold(state, make.abort(1)).proposals[1]]
    with pytest.raises(Conflict, match="release 1 was aborted"):
        client().wait_until_committed(1, 30.0)


def test_whoever_waits_is_told_what_preparing_fails_with(ray: FakeRay) -> None:
    make, state = Entries(), LogState()
    for entry in (make.elect("a", 1), make.propose(1)):
        state = fold(state, entry)
    committed = fold(state, make.commit(1)).proposals[1]
    ray.answers["proposal"] = [state.proposals[1], state.proposals[1], committed]
    ray.answers["failures"] = [{}, {"b": "no memory", "a": "timed out"}, {}]
    told: list[str] = []
    client().wait_until_committed(1, 30.0, told.append)
    assert told == ["release 1", "release 1, tried again (a: timed out; b: no memory)", "release 1"]


def test_waiting_comes_to_an_end(ray: FakeRay) -> None:
    ray.answers["proposal"] = [ActorDiedError()]
    with pytest.raises(DeadlineExceeded, match="release 1 to be committed") as caught:
        client().wait_until_committed(1, 0.0)
    assert isinstance(caught.value.__cause__, Unavailable)
    ray.answers["status"] = [NotFound("no such thing")]
    with pytest.raises(NotFound):
        client().wait_until_serving(1, 30.0)
