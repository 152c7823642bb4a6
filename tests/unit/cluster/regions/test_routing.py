"""Which region serves a request, by table, by property, and on the map."""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.verdicts import peer_verdict
from cluster.config import Settings
from cluster.errors import Unavailable
from cluster.query.caller import Caller, Location
from cluster.regions.endpoint import RegionEndpoint
from cluster.regions.overview import SILENT_AFTER_S
from cluster.regions.routing import REGION_BREAKER, RegionRouter, distance_km, loads_of
from cluster.regions.settings import RoutingPolicy
from cluster.releases.events import RegionStatus

LATENCIES = Path(__file__).parents[3] / "data" / "latency" / "region_rtt_ms.csv"
LOCATIONS = {
    "Dallas": (32.78, -96.80),
    "Toronto": (43.65, -79.38),
    "Washington DC": (38.91, -77.04),
    "Frankfurt": (50.11, 8.68),
    "London": (51.51, -0.13),
    "Madrid": (40.42, -3.70),
    "Montreal": (45.50, -73.57),
    "Chennai": (13.08, 80.27),
    "Mumbai": (19.08, 72.88),
    "Osaka": (34.69, 135.50),
    "Sydney": (-33.87, 151.21),
    "Tokyo": (35.68, 139.69),
    "Sao Paulo": (-23.55, -46.63),
}
VIENNA, LIMA, AUCKLAND = (48.21, 16.37), (-12.05, -77.04), (-36.85, 174.76)


class Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def at(location: tuple[float, float]) -> Location:
    return Location(latitude=location[0], longitude=location[1])


def name_of(location: str) -> str:
    return location.lower().replace(" ", "-")


def settings(
    places: dict[str, tuple[float, float] | None], policy: str = "nearest", **others: Any
) -> Settings:
    regions = {
        name: {"location": None if location is None else at(location).model_dump()}
        for name, location in places.items()
    }
    return Settings.model_validate({"regions": regions, "routing": {"policy": policy}} | others)


def router(settings: Settings, time: Time | None = None) -> RegionRouter:
    return RegionRouter(settings.region_map(), now_s=time or Time(), rng=random.Random(7))


WORLD: dict[str, tuple[float, float] | None] = {name_of(p): at_ for p, at_ in LOCATIONS.items()}
THREE: dict[str, tuple[float, float] | None] = {
    "eu": LOCATIONS["Frankfurt"],
    "us": LOCATIONS["Washington DC"],
    "asia": LOCATIONS["Tokyo"],
}


@pytest.mark.parametrize(
    ("policy", "asked", "caller", "loads", "order"),
    [
        # Who is asked serves; the others follow by their distance from there.
        ("local", "us", Caller(), {}, ["us", "eu", "asia"]),
        ("local", "asia", Caller(location=at(VIENNA)), {}, ["asia", "eu", "us"]),
        # The nearest to the caller; without a place, as if local.
        ("nearest", "us", Caller(location=at(VIENNA)), {}, ["eu", "us", "asia"]),
        ("nearest", "eu", Caller(location=at(AUCKLAND)), {}, ["asia", "us", "eu"]),
        ("nearest", "eu", Caller(location=at(LIMA)), {}, ["us", "eu", "asia"]),
        ("nearest", "asia", Caller(), {}, ["asia", "eu", "us"]),
        # A region that says nothing of its load counts as full, and a small gain is not worth it.
        ("least_loaded", "us", Caller(), {"us": 0.9, "eu": 0.5, "asia": 0.1}, ["asia", "eu", "us"]),
        ("least_loaded", "us", Caller(), {"us": 0.3, "eu": 0.25}, ["us", "eu", "asia"]),
        ("least_loaded", "us", Caller(), {"us": 0.3, "eu": 0.1}, ["eu", "us", "asia"]),
        ("least_loaded", "us", Caller(), {}, ["us", "eu", "asia"]),
        # Without a user there is nothing to hash.
        ("user", "asia", Caller(location=at(VIENNA)), {}, ["asia", "eu", "us"]),
        # A caller who has asked no region yet.
        ("local", None, Caller(), {}, ["eu", "us", "asia"]),
        ("nearest", None, Caller(location=at(AUCKLAND)), {}, ["asia", "us", "eu"]),
    ],
)
def test_the_policies(
    policy: str, asked: str | None, caller: Caller, loads: dict[str, float], order: list[str]
) -> None:
    routed = router(settings(THREE, policy))
    assert list(routed.order(asked=asked, caller=caller, loads=loads)) == order
    if asked is not None:
        assert routed.first(asked=asked, caller=caller, loads=loads) == order[0]


def test_a_region_without_a_place_comes_after_those_that_have_one() -> None:
    routed = router(settings({"nowhere": None, **THREE}))
    order = routed.order(asked="us", caller=Caller(location=at(VIENNA)))
    assert order == ("eu", "us", "asia", "nowhere")
    assert routed.order(asked="nowhere", caller=Caller()) == ("nowhere", "eu", "us", "asia")


def test_the_nearest_of_thirteen_regions_is_nearly_the_quickest_to_reach() -> None:
    """By the measured round trips between them, each without itself."""
    rows = list(csv.reader(LATENCIES.read_text().splitlines()))
    assert set(rows[0][1:]) == LOCATIONS.keys()
    for row in rows[1:]:
        rtt_ms = dict(zip(rows[0][1:], map(int, row[1:]), strict=True))
        del rtt_ms[row[0]]
        others = {name: location for name, location in WORLD.items() if name != name_of(row[0])}
        caller = Caller(location=at(LOCATIONS[row[0]]))
        order = router(settings(others)).order(asked=None, caller=caller)
        nearest = next(location for location in rtt_ms if name_of(location) == order[0])
        assert rtt_ms[nearest] <= min(rtt_ms.values()) + 10


def haversine_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    lat1, lon1, lat2, lon2 = map(math.radians, (*one, *other))
    a = math.sin((lat2 - lat1) / 2) ** 2
    a += math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371.009 * math.asin(min(1.0, math.sqrt(a)))


places = st.tuples(st.floats(-90, 90, allow_nan=False), st.floats(-180, 180, allow_nan=False))


@given(location=places, asked=st.sampled_from(sorted(WORLD)))
def test_nearest_is_nearest_anywhere_on_earth(location: tuple[float, float], asked: str) -> None:
    order = router(settings(WORLD)).order(asked=asked, caller=Caller(location=at(location)))
    assert sorted(order) == sorted(WORLD)
    away = [haversine_km(location, WORLD[name] or (0, 0)) for name in order]
    assert all(one <= next_ + 0.5 for one, next_ in itertools.pairwise(away))


def test_the_date_line_is_no_border() -> None:
    fiji, samoa = at((-18.14, 178.44)), at((-13.83, -171.77))
    assert distance_km(fiji, samoa) < 1300


policies = st.sampled_from([policy.value for policy in RoutingPolicy])


@given(
    policy=policies,
    asked=st.sampled_from([None, *sorted(WORLD)]),
    user=st.text(max_size=8),
    location=st.none() | places,
    loads=st.dictionaries(st.sampled_from(sorted(WORLD)), st.floats(0, 1)),
    homes=st.none() | st.lists(st.sampled_from(sorted(WORLD)), min_size=1, unique=True),
    failing=st.lists(st.sampled_from(sorted(WORLD)), unique=True),
)
def test_an_order_has_every_region_that_may_serve_and_no_other(
    policy: str,
    asked: str | None,
    user: str,
    location: tuple[float, float] | None,
    loads: dict[str, float],
    homes: list[str] | None,
    failing: list[str],
) -> None:
    routed = router(settings(WORLD, policy, corpora={"papers": {"regions": homes}}))
    for region in failing:
        break_down(routed, region)
    caller = Caller(location=None if location is None else at(location), user=user)
    order = routed.order(asked=asked, caller=caller, corpus="papers", loads=loads)
    assert sorted(order) == sorted(homes or WORLD)
    # Twice the same, and those that fail come after those that do not.
    assert order == routed.order(asked=asked, caller=caller, corpus="papers", loads=loads)
    assert [name in failing for name in order] == sorted(name in failing for name in order)


def test_a_corpus_is_asked_for_only_where_it_may_be() -> None:
    corpora = {"patients": {"regions": ["eu"]}, "open": {}}
    routed = router(settings(THREE, "local", corpora=corpora))
    assert routed.order(asked="us", caller=Caller(), corpus="patients") == ("eu",)
    assert routed.first(asked="us", caller=Caller(), corpus="patients") == "eu"
    assert not routed.residency.may_hold("us", "patients")
    # What nobody knows is no reason to ask elsewhere, nor is a request without a corpus.
    for corpus in ("open", "unknown", None):
        assert routed.first(asked="us", caller=Caller(), corpus=corpus) == "us"


def test_without_a_name_the_only_corpus_is_meant() -> None:
    routed = router(settings(THREE, "local", corpora={"patients": {"regions": ["eu"]}}))
    assert routed.residency.meant(None) == "patients"
    assert routed.first(asked="us", caller=Caller(), corpus=routed.residency.meant(None)) == "eu"
    assert router(settings(THREE, corpora={"a": {}, "b": {}})).residency.meant(None) is None
    assert router(settings(THREE)).residency.meant("papers") == "papers"


@pytest.mark.parametrize("policy", RoutingPolicy)
def test_for_itself_a_region_asks_the_nearest_whatever_the_policy(policy: RoutingPolicy) -> None:
    corpora = {"patients": {"regions": ["eu", "asia"]}}
    routed = router(settings(THREE, policy.value, corpora=corpora))
    assert routed.nearest("us", corpus=None) == ("us", "eu", "asia")
    assert routed.nearest("us", corpus="patients") == ("eu", "asia")
    break_down(routed, "eu")
    assert routed.nearest("us", corpus="patients") == ("asia", "eu")


users = [f"user-{i}" for i in range(3000)]


def homes_of(names: list[str]) -> dict[str, str]:
    routed = router(settings(dict.fromkeys(names), "user"))
    return {user: routed.order(asked=None, caller=Caller(user=user))[0] for user in users}


def test_users_are_spread_evenly_and_stay_where_they_are() -> None:
    names = ["a", "b", "c", "d", "e"]
    before = homes_of(names)
    shares = Counter(before.values())
    assert all(abs(shares[name] - 600) < 120 for name in names)
    # Whoever is asked, and in whatever order the settings name them.
    assert homes_of(names[::-1]) == before
    routed = router(settings(dict.fromkeys(names), "user"))
    assert {routed.first(asked=name, caller=Caller(user="user-1")) for name in names} == {
        before["user-1"]
    }


@given(
    names=st.lists(
        st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=2, max_size=8, unique=True
    ),
    data=st.data(),
)
def test_when_a_region_goes_only_its_own_users_move(names: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(names))
    user = data.draw(st.text(min_size=1, max_size=12))
    left = [name for name in names if name != gone]
    with_all = router(settings(dict.fromkeys(names), "user"))
    without = router(settings(dict.fromkeys(left), "user"))
    order = with_all.order(asked=None, caller=Caller(user=user))
    # The whole order closes up, so a user moves to what was the second choice.
    assert without.order(asked=None, caller=Caller(user=user)) == tuple(
        name for name in order if name != gone
    )


def break_down(routed: RegionRouter, region: str) -> None:
    for _ in range(REGION_BREAKER.failures_in_row_max):
        fail(routed, region)


def fail(routed: RegionRouter, region: str) -> None:
    with pytest.raises(Unavailable), routed.watched(region, peer_verdict):
        raise Unavailable("nobody answers")


def test_a_region_that_fails_comes_last_and_is_probed_back_in() -> None:
    time = Time()
    routed = router(settings(THREE), time)
    caller = Caller(location=at(VIENNA))
    break_down(routed, "eu")
    assert routed.order(asked="us", caller=caller) == ("us", "asia", "eu")
    # When the wait is over one request goes there, and no second one beside it.
    time.now_s += 1.0
    assert routed.order(asked="us", caller=caller)[0] == "eu"
    with routed.watched("eu", peer_verdict):
        assert routed.order(asked="us", caller=caller)[0] == "us"
    with routed.watched("eu", peer_verdict):
        pass
    assert routed.order(asked="us", caller=caller)[0] == "eu"


def test_a_lost_region_is_looked_at_again_within_five_seconds() -> None:
    time = Time()
    routed = router(settings(THREE), time)
    break_down(routed, "eu")
    for _ in range(20):
        time.now_s += 5.0
        assert routed.order(asked="eu", caller=Caller())[0] == "eu"
        fail(routed, "eu")


def test_an_only_home_is_asked_though_its_breaker_is_open() -> None:
    routed = router(settings(THREE, "local", corpora={"patients": {"regions": ["eu"]}}))
    break_down(routed, "eu")
    assert routed.order(asked="us", caller=Caller(), corpus="patients") == ("eu",)


def test_a_site_is_where_the_settings_say_and_keeps_its_key_to_itself() -> None:
    regions = {
        "eu": {"url": "https://eu.example", "http": {"api_keys": ["first-key", "other"]}},
        "us": {"http": {"host": "10.0.0.7", "port": 8123}},
    }
    found = Settings.model_validate({"regions": regions})
    eu = RegionEndpoint.of("eu", found.regions["eu"])
    assert (eu.url, eu.api_key) == ("https://eu.example", "first-key")
    assert "first-key" not in repr(eu)
    us = RegionEndpoint.of("us", found.regions["us"])
    assert (us.url, us.api_key) == ("http://10.0.0.7:8123", None)
    assert (eu.region_key, us.region_key) == ("first-key", None)


def test_regions_send_each_other_the_first_of_their_own_keys() -> None:
    keys = {"http": {"api_keys": ["a-callers"]}}
    found = Settings.model_validate({"regions": {"eu": keys, "us": {}}, "region_keys": ["k", "l"]})
    for region in ("eu", "us"):
        endpoint = RegionEndpoint.of(region, found.regions[region], found.region_keys)
        assert endpoint.region_key == "k"
        assert "'k'" not in repr(endpoint)
    assert RegionEndpoint.of("eu", found.regions["eu"], found.region_keys).api_key == "a-callers"


def test_what_a_lost_region_told_last_is_no_load() -> None:
    now_ms = 1_000_000
    told = {
        name: RegionStatus(
            region=name,
            position=1,
            prepared=(),
            current=None,
            at_ms=now_ms - round(ago_s * 1000),
            load=load,
        )
        for name, ago_s, load in (
            ("eu", 1.0, 0.9),
            ("us", SILENT_AFTER_S + 0.001, 0.0),
            ("asia", SILENT_AFTER_S, 0.1),
        )
    }
    loads = loads_of(told, now_ms)
    assert loads == {"eu": 0.9, "asia": 0.1}
    busiest = router(settings(THREE, "least_loaded"))
    assert busiest.order(asked="eu", caller=Caller(), loads=loads) == ("asia", "eu", "us")
