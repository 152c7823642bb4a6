"""Each level of consistency on a real region: tokens, staleness, and strong answers while a release
is committed and rolled back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import ray

from actors.region_client import connect
from cluster.errors import InvalidArgument
from cluster.generation.prompt import PromptTemplate
from cluster.query.session import SessionToken
from cluster.releases.requests import RollBackTo
from deployments.hosting import release_commands
from tests.support.regions.region_fixture import REGION, LiveRegion, posted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

ASK: dict[str, Any] = {"corpus": "xquad", "query": "What is the Saxon Garden in Polish?"}
CALM_MS = 5000
"""Far more than the time between two readings of the log, even on a busy machine."""


@pytest.fixture(autouse=True)
def _first_release_again(shared_region: LiveRegion) -> Iterator[None]:
    yield
    if shared_region.coordinator.status().release != shared_region.release:
        release_commands.switch(RollBackTo(release=shared_region.release, force=True))


def commit_another(region: LiveRegion) -> int:
    contents = region.contents.model_copy(update={"prompt": PromptTemplate(system="Be brief.")})
    return release_commands.propose(region.installation, contents, commit=True, note=lambda _: None)


@pytest.mark.parametrize(
    "demand",
    [
        {},
        {"consistency": "eventual"},
        {"max_staleness_ms": CALM_MS},
        {"consistency": "quorum"},
        {"consistency": "strong"},
    ],
)
def test_every_level_is_met(
    shared_region: LiveRegion, http: httpx.Client, demand: dict[str, Any]
) -> None:
    found = posted(http, "/v1/search", {**ASK, **demand})
    assert (found["release"], found["region"], found["served_by"]) == (
        shared_region.release,
        REGION,
        REGION,
    )
    assert 100 <= found["staleness_ms"] <= CALM_MS
    again = posted(http, "/v1/search", {**ASK, "session": found["session"]})
    assert again["hits"] == found["hits"]


def test_an_answer_by_each_level_says_what_it_was_made_by(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    body = {"corpus": "xquad", "question": ASK["query"], "max_tokens": 4}
    for level in ("quorum", "strong"):
        answer = posted(http, "/v1/answer", {**body, "consistency": level})
        assert (answer["release"], answer["served_by"]) == (shared_region.release, REGION)
        token = SessionToken.decode(answer["session"])
        assert posted(http, "/v1/answer", {**body, "session": token.encode()})["answer"]


def test_strong_answers_never_go_back_while_releases_change(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    seen: list[tuple[int, int]] = []
    over = threading.Event()

    def watch() -> None:
        with shared_region.http() as client:
            while not over.is_set():
                found = posted(client, "/v1/search", {**ASK, "consistency": "strong"})
                token = SessionToken.decode(found["session"])
                seen.append((token.position, found["release"]))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        wait_until(lambda: bool(seen), "a first answer")
        number = commit_another(shared_region)
        newer = posted(http, "/v1/search", {**ASK, "consistency": "strong"})
        assert newer["release"] == number
        wait_until(lambda: seen[-1][1] == number, "the watcher to see the new release")
        release_commands.switch(RollBackTo(release=shared_region.release))
        # The rollback came later than what the token has seen, so it may be served by it.
        back = posted(http, "/v1/search", {**ASK, "session": newer["session"]})
        assert back["release"] == shared_region.release
        seen_by = [SessionToken.decode(found["session"]).position for found in (newer, back)]
        assert seen_by == sorted(seen_by)
        wait_until(lambda: seen[-1][1] == shared_region.release, "the watcher to see the rollback")
    finally:
        over.set()
        watching.join(timeout=60)
    assert [position for position, _ in seen] == sorted(position for position, _ in seen)
    assert [n for n, _ in dict.fromkeys((r, p) for p, r in seen)] == [
        shared_region.release,
        number,
        shared_region.release,
    ]


def test_tokens_that_are_none_of_this_log(shared_region: LiveRegion, http: httpx.Client) -> None:
    token = SessionToken.decode(posted(http, "/v1/search", ASK)["session"])
    for wrong in (
        SessionToken("another-store", token.position),
        SessionToken(token.store_id, token.position + 1_000_000),
    ):
        reply = http.post("/v1/search", json={**ASK, "session": wrong.encode()})
        assert (reply.status_code, reply.json()["error"]["field"]) == (400, "session")


def test_a_release_that_never_was(shared_region: LiveRegion, http: httpx.Client) -> None:
    reply = http.post("/v1/search", json={**ASK, "release": 1_000_000})
    assert reply.status_code == 400
    assert "there is no release 1000000" in reply.json()["error"]["message"]


def test_the_python_client_asks_the_same(shared_region: LiveRegion) -> None:
    region = connect()
    query = ASK["query"]
    found = ray.get(region.search.remote(query, corpus="xquad", consistency="strong"))
    assert (found.release, found.served_by) == (shared_region.release, REGION)
    assert found.staleness_ms <= CALM_MS
    again = ray.get(region.search.remote(query, corpus="xquad", session=found.session))
    assert [hit.id for hit in again.hits] == [hit.id for hit in found.hits]
    with pytest.raises(InvalidArgument):
        region.search.remote(query, corpus="xquad", consistency="exact")
