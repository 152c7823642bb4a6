"""Another release while queries run: none fails, and each answer is made wholly by one release."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import ray

from actors.runtime import names
from actors.runtime.calls import NAMESPACE
from actors.shards.replica import ReplicaStatus
from cluster.catalog.manifests import ManifestRef
from cluster.query.evidence import EvidencePolicy
from cluster.releases.entries import ReleaseContents
from cluster.releases.requests import AbortRelease, RollBackTo
from cluster.shards.index_parameters import IndexKind, NamedIndex
from cluster.vectors.metric import Metric
from deployments.hosting import release_commands
from deployments.installation import Installation
from tests.support.regions.region_fixture import LiveRegion, build, ingest
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

MARKER = "Quellbrunn"
TEXT = "The village of Quellbrunn keeps seven bronze herons in its clock tower."
QUERY = "What does Quellbrunn keep in its clock tower?"


@pytest.fixture(autouse=True)
def _first_release_again(shared_region: LiveRegion) -> Iterator[None]:
    yield
    if shared_region.coordinator.status().release != shared_region.release:
        release_commands.switch(RollBackTo(release=shared_region.release, force=True))


@pytest.fixture(scope="module")
def second(shared_region: LiveRegion, tmp_path_factory: pytest.TempPathFactory) -> ReleaseContents:
    """The corpus with one more document, in an index of another kind."""
    before = shared_region.installation
    corpora = dict(before.settings.corpora)
    index = NamedIndex(kind=IndexKind.IVF_FLAT, metric=Metric.COSINE, nlist=2, nprobe=2)
    corpora["xquad"] = corpora["xquad"].model_copy(update={"index": index})
    installation = Installation(
        before.settings.model_copy(update={"corpora": corpora}), before.region
    )
    source = tmp_path_factory.mktemp("marker") / "marker.jsonl"
    metadata = {"title": MARKER, "chars": len(TEXT)}
    source.write_text(json.dumps({"id": MARKER, "text": TEXT, "metadata": metadata}))
    ingest(installation, "xquad", source)
    _, ref = build(installation, "xquad")
    return with_index(shared_region.contents, "xquad", ref)


def with_index(contents: ReleaseContents, corpus: str, ref: ManifestRef) -> ReleaseContents:
    return contents.model_copy(update={"indexes": {**contents.indexes, corpus: ref}})


def propose(region: LiveRegion, contents: ReleaseContents) -> int:
    return release_commands.propose(region.installation, contents, commit=True, note=lambda _: None)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    release: int | None
    ids: tuple[str, ...]
    body: str


class Load:
    """Asks the same over and over, one request at a time, and keeps what came back."""

    def __init__(self, region: LiveRegion, path: str, body: dict[str, Any]) -> None:
        self.replies: list[Reply] = []
        self._region = region
        self._path = path
        self._body = body
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    def has_seen(self, release: int) -> bool:
        return any(reply.release == release for reply in self.replies)

    def _run(self) -> None:
        with self._region.http() as http:
            while not self._over.is_set():
                self.replies.append(self._ask(http))

    def _ask(self, http: httpx.Client) -> Reply:
        try:
            reply = http.post(self._path, json=self._body)
        except httpx.HTTPError as error:
            return Reply(0, None, (), repr(error))
        parsed = reply.json()
        hits = parsed.get("hits", parsed.get("citations", []))
        ids = tuple(hit["id"] for hit in hits)
        return Reply(reply.status_code, parsed.get("release"), ids, reply.text)


@contextmanager
def under_load(region: LiveRegion) -> Iterator[list[Load]]:
    """Searches by text and by vector, and answers, until the block ends."""
    search = {"corpus": "xquad", "top_k": 1}
    vector = region.vectors["Warsaw/0"].tolist()
    loads = [
        Load(region, "/v1/search", {**search, "query": QUERY}),
        Load(region, "/v1/search", {**search, "vector": vector}),
        Load(region, "/v1/answer", {**search, "question": QUERY, "max_tokens": 4}),
    ]
    for load in loads:
        load.start()
    try:
        yield loads
    finally:
        for load in loads:
            load.stop()


def assert_each_reply_is_of_one_release(loads: list[Load], marked: int) -> None:
    by_text, by_vector, answers = loads
    failed = [r for load in loads for r in load.replies if r.status != 200]
    assert not failed, f"{len(failed)} failed, the first: {failed[0]}"
    for reply in by_text.replies + answers.replies:
        assert (reply.ids[0] == MARKER) == (reply.release == marked), reply
    assert {reply.ids[0] for reply in by_vector.replies} == {"Warsaw/0"}


def test_a_switch_and_the_way_back_fail_no_query(
    shared_region: LiveRegion, http: httpx.Client, second: ReleaseContents
) -> None:
    first = shared_region.release
    with under_load(shared_region) as loads:
        wait_until(lambda: all(x.has_seen(first) for x in loads), "answers of the first release")
        number = propose(shared_region, second)
        wait_until(lambda: all(x.has_seen(number) for x in loads), "answers of the new release")
    assert_each_reply_is_of_one_release(loads, marked=number)
    for load in loads:
        releases = [reply.release for reply in load.replies]
        assert releases == sorted(releases, key=[first, number].index), "no way back by itself"
    _assert_pins_hold(http, first=first, marked=number)

    with under_load(shared_region) as loads:
        wait_until(lambda: all(x.has_seen(number) for x in loads), "answers of the new release")
        assert release_commands.switch(RollBackTo()) == first
        wait_until(lambda: all(x.has_seen(first) for x in loads), "answers of the first release")
    assert_each_reply_is_of_one_release(loads, marked=number)
    _assert_pins_hold(http, first=first, marked=number)


def _assert_pins_hold(http: httpx.Client, *, first: int, marked: int) -> None:
    for release, is_marked in ((first, False), (marked, True)):
        pinned = {"corpus": "xquad", "top_k": 1, "release": release}
        found = http.post("/v1/search", json={**pinned, "query": QUERY}).json()
        assert (found["release"], found["hits"][0]["id"] == MARKER) == (release, is_marked)
        body = {**pinned, "question": QUERY, "max_tokens": 4}
        answer = http.post("/v1/answer", json=body).json()
        assert (answer["release"], answer["citations"][0]["id"] == MARKER) == (release, is_marked)


def test_a_release_that_is_no_longer_resident_is_unloaded(
    shared_region: LiveRegion, http: httpx.Client, second: ReleaseContents
) -> None:
    version = second.indexes["xquad"].version
    gone = propose(shared_region, second)
    assert version in held_versions("xquad", 2, 2)
    release_commands.switch(RollBackTo(release=shared_region.release))
    _make_room(shared_region, version)
    wait_until(lambda: version not in held_versions("xquad", 2, 2), "the replicas to let go of it")
    reply = http.post("/v1/search", json={"corpus": "xquad", "query": QUERY, "release": gone})
    assert reply.status_code == 404
    assert f"release {gone} is not served here" in reply.json()["error"]["message"]


def test_a_proposal_is_prepared_beside_what_serves_and_can_be_dropped(
    shared_region: LiveRegion, http: httpx.Client, second: ReleaseContents
) -> None:
    version = second.indexes["xquad"].version
    _make_room(shared_region, version)
    client = shared_region.coordinator
    number = release_commands.propose(
        shared_region.installation, second, commit=False, note=lambda _: None
    )
    try:
        assert client.regions_prepared(number) == {shared_region.installation.region}
        assert version in held_versions("xquad", 2, 2)
        found = shared_region.search(http, query=QUERY, top_k=1)
        assert found["release"] == shared_region.release
        reply = http.post("/v1/search", json={"corpus": "xquad", "query": QUERY, "release": number})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    finally:
        client.request(AbortRelease(release=number, reason="only a test"))
    assert client.log_state().proposals[number].reason == "only a test"
    wait_until(lambda: version not in held_versions("xquad", 2, 2), "the replicas to let go of it")
    assert shared_region.search(http, query=QUERY)["release"] == shared_region.release


def test_a_least_score_counts_in_the_release_that_names_it(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    evidence = EvidencePolicy(score_min={"xquad": 0.31}, nothing_found="No idea.")
    number = propose(
        shared_region, shared_region.contents.model_copy(update={"evidence": evidence})
    )

    def ask(question: str, release: int) -> dict[str, Any]:
        body = {"corpus": "xquad", "question": question, "release": release, "max_tokens": 4}
        reply: dict[str, Any] = http.post("/v1/answer", json=body).json()
        return reply

    unrelated = ask("How do I bake a pizza?", number)
    assert (unrelated["outcome"], unrelated["citations"]) == ("nothing_found", [])
    assert unrelated["answer"] == "No idea."
    assert ask("How do I bake a pizza?", shared_region.release)["citations"]
    known = ask("What is the Saxon Garden in Polish?", number)
    assert (known["outcome"], known["citations"][0]["id"]) == ("answered", "Warsaw/0")


def _make_room(region: LiveRegion, version: str) -> None:
    """Takes an index version out of the resident releases: the current one and the one before."""
    resident = region.coordinator.status().resident
    if any(c.index_version == version for release in resident for c in release.corpora):
        propose(region, region.contents)
        release_commands.switch(RollBackTo(release=region.release))


def held_versions(corpus: str, shards: int, replicas: int) -> set[str]:
    """The index versions that any replica of the corpus holds."""
    actors = [
        ray.get_actor(names.replica(corpus, shard, number), namespace=NAMESPACE)
        for shard in range(shards)
        for number in range(replicas)
    ]
    statuses: list[ReplicaStatus] = ray.get([actor.status.remote() for actor in actors], timeout=30)
    return set().union(*(status.index_versions for status in statuses))
