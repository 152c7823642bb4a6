"""A region loses the store, or is lost itself, while users ask; and what three regions hold in
common when all is well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.errors import RaygionError
from cluster.query.session import SessionToken
from cluster.releases.requests import AbortRelease, ProposeRelease, RollBackTo
from deployments.hosting.region_driver import RegionDriver, join_new_cluster, start_services
from deployments.installation import Installation
from tests.support.regions.ports import region_port
from tests.support.regions.regions_fixture import KINDS, REGIONS, ThreeRegions, three_regions
from tests.support.regions.regions_outage import outlives_an_outage
from tests.support.regions.search_region import TOP_K

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

CONTENTS = ("a-flat", "b-flat", "a-hnsw", "a-ivf")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeRegions]:
    with three_regions(tmp_path_factory.mktemp("regions"), contents=CONTENTS) as regions:
        yield regions


@pytest.fixture
def regions(live: ThreeRegions) -> ThreeRegions:
    """All of them in order, on a release of the vectors a."""
    live.wait_until_whole()
    if live.letters()[live.log.switches[-1].release] != "a":
        live.commit("a-flat")
    return live


@pytest.mark.parametrize("kind", KINDS)
def test_a_pinned_release_is_the_same_bytes_in_every_region(
    regions: ThreeRegions, kind: str
) -> None:
    number = regions.commit(f"a-{kind}")
    regions.commit("b-flat")
    for query in regions.queries:
        body = {"vector": query.tolist(), "top_k": TOP_K, "release": number}
        bodies = [httpx.post(url(regions, r), json=body, trust_env=False) for r in REGIONS]
        assert [reply.status_code for reply in bodies] == [200] * len(REGIONS)
        # What lies between the keys: ids, scores to the last digit, texts, their order.
        hits = {reply.content.partition(b'"hits":')[2].partition(b'],"')[0] for reply in bodies}
        assert len(hits) == 1
        assert len(json.loads(bodies[0].content)["hits"]) == TOP_K


def url(regions: ThreeRegions, region: str) -> str:
    return f"{regions.drivers[region].installation.url}/v1/search"


def test_a_region_without_the_store_says_how_old_its_answers_may_be(regions: ThreeRegions) -> None:
    outlives_an_outage(regions, next(r for r in reversed(REGIONS) if r != regions.log.leader))


def test_a_lost_region_is_served_by_another_one_and_comes_back(regions: ThreeRegions) -> None:
    first = regions.log.switches[-1].release
    regions.commit("b-flat")
    before = regions.entries
    gone = regions.log.leader
    assert gone is not None
    others = [region for region in REGIONS if region != gone]
    with (
        regions.user_beside(gone) as (traffic, user),
        regions.traffic(*others) as (rest, near),
    ):
        lost_s = time.monotonic()
        regions.drivers[gone].kill()
        traffic.wait_for(lambda: traffic.latest("user").served_by in others, "another region")
        moved_s = time.monotonic() - lost_s
        regions.request(RollBackTo(release=first))
        log_moved_s = time.monotonic() - lost_s
        regions.wait_until_serving(first, *others)
        traffic.wait_for_release(first)
        regions.start_again(gone)
        regions.wait_until_serving(first)
        traffic.wait_for(lambda: traffic.latest("user").served_by == gone, "the region again")
    print(f"\nserved elsewhere after {moved_s:.1f} s, the log moved after {log_moved_s:.1f} s")
    assert traffic.failed == []
    assert rest.failed == []
    assert regions.wrong([user, *near]) == []
    assert regions.entries[: len(before)] == before


def test_what_is_wrong_with_a_request_is_said_and_changes_nothing(regions: ThreeRegions) -> None:
    aborted = regions.propose("b-flat", commit=False)
    regions.request(AbortRelease(release=aborted, reason="only a test"))
    before = regions.entries
    elsewhere = SessionToken("another-store", 3).encode()
    for field, asked in (
        ("session", {"session": elsewhere}),
        ("session", {"session": "no token"}),
        ("release", {"release": aborted}),
        ("consistency", {"consistency": "perfect"}),
    ):
        with pytest.raises(RaygionError, match=field) as refused:
            regions.ask(REGIONS[1], **asked)
        assert refused.value.code == "invalid_argument"
    with pytest.raises(RaygionError, match="nowhere") as refused:
        regions.request(
            ProposeRelease(
                contents=regions.contents["b-flat"], targets=("nowhere",), auto_commit=True
            )
        )
    assert refused.value.code == "invalid_argument"
    assert regions.entries == before


def test_a_second_cluster_under_a_regions_name_is_refused(
    regions: ThreeRegions, tmp_path: Path
) -> None:
    name, before = REGIONS[2], regions.entries
    own = regions.drivers[name].installation.settings
    http = own.regions[name].http.model_copy(update={"port": region_port()})
    named = {**own.regions, name: own.regions[name].model_copy(update={"http": http})}
    twin = RegionDriver(
        Installation(
            own.model_copy(update={"regions": named, "state_folder": tmp_path / "twin"}), name
        )
    )
    try:
        twin.run(join_new_cluster)
        with pytest.raises(RaygionError, match=name) as refused:
            twin.run(start_services)
        assert refused.value.code == "conflict"
    finally:
        twin.stop()
    regions.wait_until_whole()
    assert regions.entries == before
