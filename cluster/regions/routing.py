"""The region that serves a request first, and those that follow when it cannot.

    regions that may have the corpus (data residency)
        |
        v
    the policy's order ---> what an open breaker holds back comes last

Every order ends in the regions nearest to the one that was asked, so that two regions with the same
settings and the same knowledge say the same.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import assert_never

from geopy.distance import great_circle

from cluster.balance.circuit_breaker import BreakerSettings, CircuitBreaker
from cluster.balance.verdicts import Verdict
from cluster.clock import Backoff
from cluster.query.caller import Caller, Location
from cluster.regions.endpoint import RegionEndpoint
from cluster.regions.map import RegionMap
from cluster.regions.overview import SILENT_AFTER_S
from cluster.regions.settings import RoutingPolicy
from cluster.releases.events import RegionStatus

REGION_BREAKER = BreakerSettings(
    failures_in_row_max=3,
    backoff=Backoff(initial_s=0.5, wait_max_s=4.0),
)
"""A region that is lost is left out after three requests, and looked at again within 5 s."""
LOAD_MARGIN = 0.1
"""Another region is preferred only if its load is lower by at least this. Loads are seconds old;
without a margin every gateway would move to the same region at once.
"""
_FARTHEST_KM = 30_000.0
"""Distance of a region without a location: farther than anything on earth."""
_DISTANCES_MAX = 4096


@lru_cache(maxsize=_DISTANCES_MAX)
def distance_km(one: Location, other: Location) -> float:
    """The distance along the great circle."""
    here, there = (one.latitude, one.longitude), (other.latitude, other.longitude)
    return float(great_circle(here, there).km)


def loads_of(heartbeats: Mapping[str, RegionStatus], now_ms: int) -> dict[str, float]:
    """Loads from recent heartbeats only; the last load of a silent region is meaningless."""
    return {
        name: status.load
        for name, status in heartbeats.items()
        if now_ms - status.at_ms <= SILENT_AFTER_S * 1000
    }


def rendezvous_weight(region: str, user: str) -> int:
    """The region with the highest weight is the user's: when a region comes or goes, only its own
    users move.

    Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998).
    """
    digest = hashlib.blake2b(f"{region}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


class RegionRouter:
    """Orders the regions for a request, and remembers how they did.

    Every request to a region is made in the block of `watched`. The same calls with the same clock
    and random source give the same orders. Not thread-safe.
    """

    def __init__(
        self,
        regions: RegionMap,
        *,
        now_s: Callable[[], float],
        rng: random.Random,
        breaker: BreakerSettings = REGION_BREAKER,
    ) -> None:
        self.endpoints = regions.endpoints
        self.residency = regions.residency
        self.policy = regions.policy
        self._breakers = {
            name: CircuitBreaker(now_s=now_s, rng=rng, settings=breaker) for name in self.endpoints
        }

    def order(
        self,
        *,
        asked: str | None,
        caller: Caller,
        corpus: str | None = None,
        loads: Mapping[str, float] | None = None,
    ) -> tuple[str, ...]:
        """All regions that may serve a request, which needs that corpus (None: none), best first by
        the policy.

        `asked`: the region that has the request; None for a caller who has asked none yet. `loads`:
        the load of each region, from 0 to 1; a region without one counts as full.
        """
        return self._sorted(asked, corpus, self._ranking(asked, caller, loads or {}))

    def nearest(self, region: str, *, corpus: str | None) -> tuple[str, ...]:
        """All regions that may hold the corpus (None: every region), nearest to `region` first: the
        order for what this region itself asks of others, whatever the policy for callers.
        """
        return self._sorted(region, corpus, lambda _: 0.0)

    def first(
        self,
        *,
        asked: str,
        caller: Caller,
        corpus: str | None = None,
        loads: Mapping[str, float] | None = None,
    ) -> str:
        """The first one of the order; `asked` where there is none. Costs next to nothing where
        requests are served by whoever is asked.
        """
        if self.policy is RoutingPolicy.LOCAL and self.residency.may_hold(asked, corpus):
            return asked
        order = self.order(asked=asked, caller=caller, corpus=corpus, loads=loads)
        return order[0] if order else asked

    def watched(
        self, region: str, verdict_of: Callable[[BaseException, float], Verdict]
    ) -> AbstractContextManager[None]:
        """The block makes one request to the region: `CircuitBreaker.watched`."""
        return self._breakers[region].watched(verdict_of)

    def _sorted(
        self, asked: str | None, corpus: str | None, rank: Callable[[RegionEndpoint], float]
    ) -> tuple[str, ...]:
        keys = {
            name: (
                not self._breakers[name].passes(),
                rank(endpoint),
                name != asked,
                self._from_asked_km(asked, endpoint),
            )
            for name, endpoint in self.endpoints.items()
            if self.residency.may_hold(name, corpus)
        }
        # Sorting is stable: what is left equal stands as in the settings.
        return tuple(sorted(keys, key=keys.__getitem__))

    def _ranking(
        self, asked: str | None, caller: Caller, loads: Mapping[str, float]
    ) -> Callable[[RegionEndpoint], float]:
        """The key that the policy sorts by, the smallest first."""
        match self.policy:
            case RoutingPolicy.LOCAL:
                return lambda _: 0.0
            case RoutingPolicy.NEAREST:
                location = caller.location
                if location is None:
                    return lambda _: 0.0
                return lambda endpoint: _between_km(location, endpoint.location)
            case RoutingPolicy.LEAST_LOADED:
                return lambda endpoint: (
                    loads.get(endpoint.name, 1.0) + (0.0 if endpoint.name == asked else LOAD_MARGIN)
                )
            case RoutingPolicy.USER:
                if not caller.user:
                    return lambda _: 0.0
                return lambda endpoint: -rendezvous_weight(endpoint.name, caller.user)
        assert_never(self.policy)

    def _from_asked_km(self, asked: str | None, endpoint: RegionEndpoint) -> float:
        location = self.endpoints[asked].location if asked is not None else None
        return _FARTHEST_KM if location is None else _between_km(location, endpoint.location)


def _between_km(location: Location, other: Location | None) -> float:
    return _FARTHEST_KM if other is None else distance_km(location, other)
