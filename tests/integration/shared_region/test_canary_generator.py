"""Two versions of the language model side by side: one for each user, until the new one hangs."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from actors.models.publishing import publish_model
from actors.runtime import names
from cluster.catalog.manifests import ManifestRef, ModelKind
from cluster.releases.entries import LogState, ReleaseStatus
from cluster.releases.requests import AbortRelease, SetShare
from deployments.hosting import release_commands
from deployments.nodes.local_cluster import find_local_cluster
from tests.support.regions.canary_region import UserLoad, is_tried_on
from tests.support.regions.region_fixture import MODEL_FOLDER, LiveRegion, posted
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PERCENT = 50
NEXT_MODEL = "SmolLM2-next"
ROLLED_BACK_S_MAX = 30.0
PER_S = 2.0


@pytest.fixture(scope="module")
def next_model(shared_region: LiveRegion, tmp_path_factory: pytest.TempPathFactory) -> ManifestRef:
    """Another version of the model: the same weights with one file more."""
    folder = tmp_path_factory.mktemp("model") / "next"
    shutil.copytree(MODEL_FOLDER, folder, copy_function=os.link)
    (folder / "NOTICE").write_text("next\n")
    ref = publish_model(
        shared_region.installation.catalog,
        shared_region.installation.cache,
        kind=ModelKind.GENERATOR,
        source=str(folder),
        name=NEXT_MODEL,
        scratch=folder.parent,
    ).ref
    return ref


@pytest.fixture
def canary(shared_region: LiveRegion, next_model: ManifestRef) -> Iterator[int]:
    """A release with the next model, on trial; aborted afterwards."""
    contents = shared_region.contents.model_copy(update={"generator": next_model})
    number = release_commands.propose(
        shared_region.installation, contents, commit=False, note=lambda _: None
    )
    shared_region.coordinator.request(SetShare(release=number, percent=PERCENT))
    try:
        yield number
    finally:
        client = shared_region.coordinator
        if client.log_state().proposals[number].status is ReleaseStatus.OPEN:
            client.request(AbortRelease(release=number, reason="only a test"))


def users_of(number: int, *, tried: bool) -> Iterator[str]:
    users = (f"user-{n}" for n in itertools.count())
    return (user for user in users if is_tried_on(user, number, PERCENT) == tried)


def question(user: str, **options: object) -> dict[str, object]:
    asked = {"corpus": "xquad", "question": "Why?", "top_k": 1, "max_tokens": 4}
    return {**asked, "user": user, **options}


def ask(http: httpx.Client, user: str) -> dict[str, Any]:
    return posted(http, "/v1/answer", question(user))


def model_processes(region: LiveRegion, model: ManifestRef) -> list[int]:
    """Of the model's Serve application: the replica, and the engine that it has started."""
    cluster = find_local_cluster(region.installation.run_folder)
    assert cluster is not None
    title = f"ray::ServeReplica:{names.generator_application(model.version)}:"
    found = []
    for pid in cluster.pids():
        command = psutil.Process(pid).cmdline()
        if command and command[0].startswith(title):
            found += [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return found


def test_each_user_is_answered_by_one_model_until_the_new_one_hangs(
    shared_region: LiveRegion, http: httpx.Client, canary: int, next_model: ManifestRef
) -> None:
    tried = next(users_of(canary, tried=True))
    wait_until(lambda: ask(http, tried)["release"] == canary, "the gateway to see the canary")
    users = [f"user-{n}" for n in range(12)]
    for user in [*users, *users[:4]]:
        answer = ask(http, user)
        is_new = is_tried_on(user, canary, PERCENT)
        assert answer["release"] == (canary if is_new else shared_region.release)
        assert (answer["model"] == NEXT_MODEL) == is_new
    chat = {
        "model": "raygion",
        "messages": [{"role": "user", "content": "Why?"}],
        "max_tokens": 4,
        "user": tried,
        "raygion": {"corpus": "xquad", "top_k": 1},
    }
    assert posted(http, "/v1/chat/completions", chat)["raygion"]["release"] == canary

    def answer_to(user: str, _: int) -> tuple[int, str]:
        reply = http.post("/v1/answer", json=question(user, timeout_ms=30_000))
        return reply.status_code, reply.text

    with UserLoad(answer_to, per_s=PER_S) as load:
        wait_until(lambda: len(load.replies) > 12, "answers")
        stopped = model_processes(shared_region, next_model)
        assert stopped
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        try:
            client = shared_region.coordinator
            wait_until(lambda: is_aborted(client.log_state(), canary), "the rollback")
            rolled_back_s = time.monotonic() - stopped_s
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        wait_until(lambda: ask(http, tried)["release"] == shared_region.release, "the way back")
    reason = client.log_state().proposals[canary].reason
    failed = [user for user, _, (status, _) in load.replies if status != 200]
    print(f"\nrolled back after {rolled_back_s:.1f} s, {len(failed)} failed: {reason}")
    assert rolled_back_s <= ROLLED_BACK_S_MAX
    assert [user for user in failed if not is_tried_on(user, canary, PERCENT)] == []


def is_aborted(state: LogState, release: int) -> bool:
    return state.proposals[release].status is ReleaseStatus.ABORTED
