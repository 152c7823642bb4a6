"""Three real regions on this machine that only search: a Ray cluster each, one store.

    vectors a, b (ready-made) -> index versions -> releases -> the same in every region

Ids tell the vectors (`a-017`), and exact search over them tells which ids are right, so every reply
can be judged: failed, wrong, or right for the release that it names. Each region has a folder, a
cache and a way to the store of its own; the way can be closed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from bench.regions.driven_regions import DrivenRegions, build_each, regions_at
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.model_settings import GeneratorSettings
from cluster.clock import SYSTEM_CLOCK
from cluster.config import Settings
from cluster.query.caller import Location
from cluster.query.session import SessionToken
from cluster.regions.settings import (
    RoutingPolicy,
    RoutingSettings,
    StoreSettings,
)
from cluster.releases.entries import RELEASE_LOG, LogState, ReleaseContents
from cluster.releases.events import RegionStatus
from cluster.releases.fold import fold
from cluster.releases.log_entries import parse_entry
from cluster.releases.requests import ProposeRelease, RollBackTo
from cluster.shards.index_parameters import IndexKind, NamedIndex
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import ObjectStore, open_store
from cluster.vectors.metric import Metric
from deployments.clients.http_client import HttpRegion
from deployments.clients.regions_client import RegionsClient
from deployments.demo.store_link import StoreLink
from deployments.demo.traffic import Traffic, traffic_to
from deployments.hosting.region_driver import (
    RegionDriver,
    join_new_cluster,
    run_in_each,
    start_services,
)
from deployments.installation import Installation
from tests.support.regions.built_once import BUILT
from tests.support.regions.ports import region_port
from tests.support.regions.search_region import CORPUS, SHARDS, TOP_K, Vectors, make_vectors

LOCATIONS = {
    "ankara": Location(latitude=39.9, longitude=32.9),
    "berlin": Location(latitude=52.5, longitude=13.4),
    "cordoba": Location(latitude=-31.4, longitude=-64.2),
}
REGIONS = tuple(LOCATIONS)
KINDS = {
    "flat": NamedIndex(kind=IndexKind.FLAT, metric=Metric.COSINE),
    "hnsw": NamedIndex(kind=IndexKind.HNSW, metric=Metric.COSINE),
    "ivf": NamedIndex(kind=IndexKind.IVF_FLAT, metric=Metric.COSINE, nlist=4, nprobe=3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    query: int
    asked_ms: int
    said: dict[str, Any]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(hit["id"] for hit in self.said["hits"])


class Asker:
    """Asks a region (or whoever stands in for it) one query after another, and keeps what came."""

    def __init__(
        self, post: Callable[[dict[str, object]], dict[str, Any]], queries: Float32Array
    ) -> None:
        self.answers: list[Answer] = []
        self._post = post
        self._queries = queries
        self._numbers = itertools.cycle(range(len(queries)))

    def __call__(self) -> dict[str, Any]:
        number, asked_ms = next(self._numbers), SYSTEM_CLOCK.wall_ms()
        said = self._post({"vector": self._queries[number].tolist(), "top_k": TOP_K})
        self.answers.append(Answer(query=number, asked_ms=asked_ms, said=said))
        return said


class Way(Protocol):
    """A region's way to the store."""

    def open(self) -> None: ...

    def close(self) -> None: ...


@dataclass(kw_only=True)
class ThreeRegions(DrivenRegions):
    folder: Path
    links: Mapping[str, Way]
    store: ObjectStore
    """By a way of our own, which stays open."""
    queries: Float32Array
    vectors: Mapping[str, Vectors]
    contents: dict[str, ReleaseContents] = field(default_factory=dict)
    """By `{letter}-{kind}`."""

    # What the log says.

    @property
    def entries(self) -> list[bytes]:
        return [data for _, data in NumberedLog(self.store, RELEASE_LOG).read_after(0)]

    @property
    def log(self) -> LogState:
        state = LogState()
        for position, data in enumerate(self.entries, 1):
            state = fold(state, parse_entry(data, position=position))
        return state

    def heartbeat(self, region: str) -> RegionStatus:
        data = self.store.get(f"regions/{region}/status.json")
        return RegionStatus.from_bytes(data, source=region)

    def prepared(self, number: int) -> set[str]:
        return {region for region in REGIONS if number in self.heartbeat(region).prepared}

    # What a person asks for.

    def propose(self, contents: str, *, commit: bool = True) -> int:
        return self.request(
            ProposeRelease(contents=self.contents[contents], targets=REGIONS, auto_commit=commit)
        )

    def commit(self, contents: str) -> int:
        """A new release, served by all regions."""
        number = self.propose(contents)
        self.wait_until_serving(number)
        return number

    def rollback(self, number: int | None = None) -> int:
        current = self.request(RollBackTo(release=number))
        self.wait_until_serving(current)
        return current

    def wait_until_whole(self) -> float:
        """All regions healthy, on the release that the log names."""
        current = self.log.switches[-1].release if self.log.switches else None
        return 0.0 if current is None else self.wait_until_serving(current)

    # What a user sees.

    def ask(self, region: str, **more: object) -> dict[str, Any]:
        """One query to the region."""
        with self.http(region) as http:
            return http.post(
                "/v1/search", {"vector": self.queries[0].tolist(), "top_k": TOP_K, **more}
            )

    @contextmanager
    def user_beside(self, region: str) -> Iterator[tuple[Traffic, Asker]]:
        """Steady queries of somebody who goes to the nearest region that answers."""
        settings = self.drivers[region].installation.settings
        with RegionsClient(settings, location=LOCATIONS[region]) as client:
            asker = Asker(partial(client.post, "/v1/search"), self.queries)
            with Traffic({"user": asker}, pause_s=0.02) as traffic:
                traffic.wait_for_more(2)
                yield traffic, asker

    @contextmanager
    def traffic(
        self, *regions: str, pause_s: float = 0.02
    ) -> Iterator[tuple[Traffic, list[Asker]]]:
        """Queries to each region (by default all), and the askers for `wrong`."""
        askers: list[Asker] = []

        def asker(http: HttpRegion) -> Asker:
            askers.append(Asker(partial(http.post, "/v1/search"), self.queries))
            return askers[-1]

        installations = [self.drivers[region].installation for region in regions or REGIONS]
        with traffic_to(installations, asker, pause_s=pause_s) as traffic:
            traffic.wait_for_more(2)
            yield traffic, askers

    def letters(self) -> dict[int, str]:
        """Which vectors each release serves, from the release log."""
        by_version = {c.indexes[CORPUS].version: name[0] for name, c in self.contents.items()}
        return {
            number: by_version[proposal.release.contents.indexes[CORPUS].version]
            for number, proposal in self.log.proposals.items()
        }

    def wrong(self, askers: list[Asker]) -> list[Answer]:
        """The answers whose hits are not those of exact search in the release that they name."""
        letters = self.letters()
        return [
            answer
            for asker in askers
            for answer in asker.answers
            if answer.ids != self.vectors[letters[answer.said["release"]]].expected[answer.query]
        ]

    def dishonest(self, askers: list[Asker]) -> list[Answer]:
        """The answers that say less than their true staleness: the time since the first switch, due
        when they were asked, after the one that they were served by.
        """
        switches = self.log.switches
        found = []
        for answer in (answer for asker in askers for answer in asker.answers):
            served = SessionToken.decode(answer.said["session"]).position
            passed = [
                answer.asked_ms - switch.at_ms
                for switch in switches
                if switch.position > served and switch.at_ms <= answer.asked_ms
            ]
            if passed and answer.said["staleness_ms"] < passed[0]:
                found.append(answer)
        return found


def regions_settings(folder: Path, stores: Mapping[str, str]) -> dict[str, Settings]:
    """Of each region, by the URL of the store as it sees it."""
    shared = Settings(
        regions=regions_at(LOCATIONS, region_port),
        corpora={CORPUS: CorpusSettings(shards=SHARDS, replicas=1, index=KINDS["flat"])},
        generator=GeneratorSettings(source=None),
        # One machine, one clock: what is reported is compared with the truth.
        routing=RoutingSettings(policy=RoutingPolicy.NEAREST, clock_skew_max_ms=0),
    )
    return {
        region: shared.model_copy(
            update={"store": StoreSettings(url=stores[region]), "state_folder": folder / region}
        )
        for region in REGIONS
    }


@contextmanager
def three_regions(
    folder: Path, *, contents: tuple[str, ...] = ("a-flat", "b-flat")
) -> Iterator[ThreeRegions]:
    """Three regions whose store is a folder, which each reaches by a link of its own."""
    (folder / "store").mkdir()
    links = {r: StoreLink(folder / r / "store", folder / "store") for r in REGIONS}
    settings = regions_settings(folder, {r: str(links[r].path) for r in REGIONS})
    store = open_store(str(folder / "store"))
    BUILT.write(folder / "store")
    built = {f"{letter}-flat": of_letter for letter, of_letter in BUILT.contents.items()}
    with running(folder, settings, links, store, contents, built=built) as regions:
        yield regions


@contextmanager
def running(
    folder: Path,
    settings: Mapping[str, Settings],
    links: Mapping[str, Way],
    store: ObjectStore,
    contents: tuple[str, ...],
    before: Callable[[RegionDriver], object] = lambda _: None,
    built: Mapping[str, ReleaseContents] = MappingProxyType({}),
) -> Iterator[ThreeRegions]:
    """Brings the regions up, with a release of the first of `contents`; ends all of them.

    `before`: done with each driver before it starts its cluster. `built`: what the store has.
    """
    queries, vectors = make_vectors()
    with ExitStack() as stack:
        started_s = time.monotonic()
        drivers = {r: RegionDriver(Installation(settings[r], r)) for r in REGIONS}
        regions = ThreeRegions(
            drivers=drivers,
            before=before,
            folder=folder,
            links=links,
            store=store,
            queries=queries,
            vectors=vectors,
        )
        for region in REGIONS:
            stack.callback(regions.stop, region)
        for driver in drivers.values():
            before(driver)
        run_in_each(list(drivers.values()), join_new_cluster)
        print(f"\nthree clusters after {time.monotonic() - started_s:.1f} s")
        regions.contents.update(built)
        missing = tuple(name for name in contents if name not in built)
        regions.contents.update(build_contents(drivers[REGIONS[0]], vectors, folder, missing))
        print(f"built after {time.monotonic() - started_s:.1f} s")
        run_in_each(list(drivers.values()), start_services)
        print(f"services after {time.monotonic() - started_s:.1f} s")
        regions.commit(contents[0])
        print(f"three regions up after {time.monotonic() - started_s:.1f} s")
        yield regions


def build_contents(
    builder: RegionDriver, vectors: Mapping[str, Vectors], folder: Path, names: tuple[str, ...]
) -> dict[str, ReleaseContents]:
    made: dict[str, ReleaseContents] = {}
    for letter in sorted({name[0] for name in names}):
        kinds = [name[2:] for name in names if name[0] == letter]
        source = str(vectors[letter].write(folder))
        indexes = {kind: KINDS[kind] for kind in kinds}
        for kind, ref in builder.run(build_each, CORPUS, source, indexes).items():
            made[f"{letter}-{kind}"] = ReleaseContents(indexes={CORPUS: ref})
    return made
