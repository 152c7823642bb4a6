from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from cluster.errors import DeadlineExceeded, Unavailable
from deployments.demo.traffic import Traffic, traffic_to
from deployments.installation import Installation
from tests.support.worlds.region_servers import nobody, settings_of


class Region:
    """Answers by whatever release it is told to."""

    def __init__(self) -> None:
        self.release = 1
        self.lost = False

    def __call__(self) -> dict[str, Any]:
        if self.lost:
            raise Unavailable("lost")
        return {
            "release": self.release,
            "region": "here",
            "served_by": "here",
            "staleness_ms": 5,
            "hits": [{"id": f"{self.release}-1"}],
        }


def test_it_sees_when_each_asker_gets_the_first_answer_of_a_release() -> None:
    one, other = Region(), Region()
    with Traffic({"one": one, "other": other}, pause_s=0.001) as traffic:
        traffic.wait_for_release(1)
        one.release = 2
        traffic.wait_for_release(2, "one")
        assert traffic.latest("other").release == 1
        other.release = 2
        traffic.wait_for_release(2)
    moments = [traffic.switched_ms(name, 2, 0.0) for name in ("one", "other")]
    assert moments[0] is not None
    assert moments[1] is not None
    assert moments[0] <= moments[1]
    assert traffic.failed == []
    assert {reply.ids for reply in traffic.of("one")} == {("1-1",), ("2-1",)}


def test_what_fails_is_kept_and_the_latest_answer_stays() -> None:
    region = Region()
    with Traffic({"one": region}, pause_s=0.001) as traffic:
        assert traffic.latest("one").release in {0, 1}
        traffic.wait_for_release(1)
        region.lost = True
        traffic.wait_for(lambda: len(traffic.failed) > 0, "a failure")
        assert traffic.latest("one").release == 1
        with pytest.raises(DeadlineExceeded, match="answers of release 2"):
            traffic.wait_for_release(2, timeout_s=0.05)
    assert {reply.error for reply in traffic.failed} == {"lost"}


def test_traffic_to_endpoints_goes_by_the_names_of_their_regions() -> None:
    with nobody() as one, nobody() as other:
        settings = settings_of({"one": one, "other": other})
        installations = [Installation(settings, name) for name in ("one", "other")]
        with traffic_to(
            installations, lambda http: partial(http.post, "/v1/search", {})
        ) as traffic:
            traffic.wait_for_more(1)
        for name, url in (("one", one), ("other", other)):
            assert {url in reply.error for reply in traffic.of(name)} == {True}
