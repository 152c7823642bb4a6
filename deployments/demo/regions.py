"""`raygion demo --regions N`: one release in several regions on this machine, and what they meet.

Each region is a Ray cluster of its own with an endpoint, a coordinator and a cache of its own; what
they share is the store. This process is in none of the clusters (see
`deployments.hosting.region_driver`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson

from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.config import Settings
from cluster.errors import Conflict, InvalidArgument, NotFound
from cluster.generation.prompt import PromptTemplate
from cluster.query.caller import Location
from cluster.regions.settings import RegionSettings, RoutingPolicy, RoutingSettings
from cluster.releases.entries import ReleaseContents
from cluster.shards.index_parameters import IndexKind, NamedIndex
from deployments.clients.http_client import HttpRegion
from deployments.clients.regions_client import RegionsClient
from deployments.demo import steps as acts
from deployments.demo.live_note import LiveNote, write_and_find
from deployments.demo.report import Cut, Findings, Killed, ObservedSwitch, report
from deployments.demo.store_link import StoreLink
from deployments.demo.traffic import Traffic, traffic_to
from deployments.hosting.interrupts import uninterrupted
from deployments.hosting.region_driver import (
    RegionDriver,
    join_new_cluster,
    run_in_each,
    start_services,
)
from deployments.installation import Installation
from deployments.nodes.local_cluster import find_local_cluster
from deployments.terminal import REUSED, Step, Steps, err

T = TypeVar("T")
SOURCE = Path(__file__).resolve().parents[2] / "data" / "factbook" / "factbook.jsonl"
CORPUS, SUBSET = "africa", "africa"
"""Subset of the factbook, since it is embedded for two kinds of index."""
QUESTION = "What is the capital of Chad?"
ASKED = {"corpus": CORPUS, "query": QUESTION, "top_k": 3}

LOCATIONS = {
    "frankfurt": Location(latitude=50.1, longitude=8.7),
    "virginia": Location(latitude=38.9, longitude=-77.4),
    "singapore": Location(latitude=1.35, longitude=103.8),
    "saopaulo": Location(latitude=-23.5, longitude=-46.6),
    "sydney": Location(latitude=-33.9, longitude=151.2),
}
REGIONS_MIN, REGIONS_MAX = 3, len(LOCATIONS)
"""Numbers of regions: with fewer, one cannot be cut off and another one lost while a third goes on.
"""
_LEADER_TIMEOUT_S = 60.0
_SERVE_TIMEOUT_S = 900.0
_CUT_S = 8
STALENESS_MAX_MS = 2000


@dataclass(frozen=True, slots=True)
class _World:
    """The regions of the story, in the order in which they come up."""

    steps: Steps
    drivers: tuple[RegionDriver, ...]
    links: dict[str, StoreLink]

    @property
    def first(self) -> RegionDriver:
        """Builds what all serve, and generates."""
        return self.drivers[0]

    def traffic(self) -> AbstractContextManager[Traffic]:
        """The same question, steadily, to each region."""
        installations = [driver.installation for driver in self.drivers]
        return traffic_to(installations, lambda region: partial(_search, region))

    def at_leader(self, act: Callable[..., T], *args: object) -> T:
        """Carries out a change of the releases in the region that leads; waits for one that does.

        Raises Conflict when none does for long.
        """
        deadline = Deadline.after(_LEADER_TIMEOUT_S)
        while True:
            leader = self.first.installation.read_release_log().leader
            driver = next((d for d in self.drivers if d.region == leader), None)
            try:
                if driver is not None:
                    return driver.run(act, *args)
            except Conflict:
                # Between two leaders, or right after the start of one.
                if deadline.expired():
                    raise
            if deadline.expired():
                raise Conflict(f"no region of the demo leads; {leader} does")
            SYSTEM_CLOCK.sleep(0.5)


def run_regions_demo(
    installation: Installation, *, regions: int, stay: bool, as_json: bool
) -> None:
    """Runs the whole story, then stays up until Ctrl-C unless asked to end. Leaves nothing
    running.
    """
    _check(installation, regions)
    settings, links = _settings(installation, regions)
    if running := [name for name, s in settings.items() if _runs(Installation(s, name))]:
        raise Conflict(f"a demo already runs here: {', '.join(running)}; end it first")
    steps = Steps(quiet=as_json)
    started_s = SYSTEM_CLOCK.monotonic_s()
    with _stopped_at_end(settings, steps) as drivers:
        world = _World(steps, drivers, links)
        with steps.shown():
            findings = _run_story(world)
        took_s = SYSTEM_CLOCK.monotonic_s() - started_s
        report(findings, steps, [d.installation for d in drivers], took_s, as_json=as_json)
        if stay:
            err.print("The regions are up; Ctrl-C ends them.")
            threading.Event().wait()


def _check(installation: Installation, regions: int) -> None:
    if not REGIONS_MIN <= regions <= REGIONS_MAX:
        raise InvalidArgument(f"must be 1, or {REGIONS_MIN} to {REGIONS_MAX}", "regions")
    if installation.ray_address is not None:
        raise InvalidArgument("the demo starts Ray clusters of its own; unset it", "ray_address")
    if "://" in installation.settings.store.url:
        raise InvalidArgument(
            "must be a folder, since the demo cuts a region off from the store", "store"
        )
    if not SOURCE.is_file():
        raise NotFound("the demo's corpus comes with the repository: run it from a clone of it")


def _settings(
    installation: Installation, regions: int
) -> tuple[dict[str, Settings], dict[str, StoreLink]]:
    """The same settings for each region, except for a folder and a way to the store of its own."""
    base = installation.settings
    store, folder = Path(base.store.url), base.state_folder / "demo"
    store.mkdir(parents=True, exist_ok=True)
    named = {
        name: _region(installation.region_settings, number, location)
        for number, (name, location) in enumerate(list(LOCATIONS.items())[:regions])
    }
    corpus = base.corpus(CORPUS).model_copy(update={"replicas": 1})
    shared = base.model_copy(
        update={
            "regions": named,
            "corpora": {CORPUS: corpus},
            "routing": RoutingSettings(policy=RoutingPolicy.NEAREST),
        }
    )
    links = {name: StoreLink(folder / name / "store", store) for name in named}
    return {
        name: shared.model_copy(
            update={
                "store": base.store.model_copy(update={"url": str(links[name].path)}),
                "state_folder": folder / name,
            }
        )
        for name in named
    }, links


def _region(like: RegionSettings, number: int, location: Location) -> RegionSettings:
    http = like.http.model_copy(update={"port": like.http.port + number, "gateways_max": 1})
    changes: dict[str, object] = {"http": http, "location": location, "generates": number == 0}
    if number:
        # Only the first one builds and generates.
        changes["cpus"] = 1
    return like.model_copy(update=changes)


def _runs(installation: Installation) -> bool:
    found = find_local_cluster(installation.run_folder)
    return found is not None and found.is_alive()


@contextmanager
def _stopped_at_end(
    settings: dict[str, Settings], steps: Steps
) -> Iterator[tuple[RegionDriver, ...]]:
    drivers: list[RegionDriver] = []
    try:
        for name, own in settings.items():
            drivers.append(RegionDriver(Installation(own, name)))
        yield tuple(drivers)
    finally:
        with uninterrupted(), ThreadPoolExecutor(len(settings)) as threads:
            if not steps.quiet:
                err.print("Stopping the regions ...")
            list(threads.map(RegionDriver.stop, drivers))


def _run_story(world: _World) -> Findings:
    first, second = _bring_up(world)
    with world.steps.step("The same question in every region") as step:
        hits = _ask_each(world)
        same = len({orjson.dumps(found["hits"]) for found in hits.values()}) == 1
        step.note("same hits, same scores" if same else "THE HITS DIFFER")
    with world.steps.step("A document written in one region, found in all") as step:
        note = _write_note(world, step)
    with world.steps.step("Another index and prompt, committed under queries") as step:
        committed, commit = _switched(world, step, acts.propose, second)
    with world.steps.step("Rolled back under queries") as step:
        _, rollback = _switched(world, step, acts.rollback, first)
    with world.steps.step("A region without a language model answers") as step:
        answer = _answer_elsewhere(world, step)
    cut = _cut_off(world, committed, first)
    killed = _kill(world, next(d for d in world.drivers[1:] if d.region != cut.region))
    return Findings(
        question=QUESTION,
        hits=hits,
        same_hits=same,
        note=note,
        switches=(commit, rollback),
        cut=cut,
        killed=killed,
        answer=answer,
    )


def _bring_up(world: _World) -> tuple[int, ReleaseContents]:
    """The number of the first release, which all regions serve then, and the second one's parts."""
    steps, build = world.steps, world.first
    with steps.step(f"{len(world.drivers)} Ray clusters") as step:
        run_in_each(world.drivers, join_new_cluster, note=step.note)
    with steps.step("Read the World Factbook on Africa") as step:
        build.run(acts.ingest, CORPUS, str(_subset_of_source(world)), note=step.note)
    with steps.step("Embedding model and language model") as step:
        build.run(acts.store_models, note=step.note)
    with steps.step("Embed and build the shards") as step:
        first = build.run(acts.build, CORPUS, None, None, note=step.note)
    with steps.step("The same with another index and prompt") as step:
        ivf = NamedIndex(kind=IndexKind.IVF_FLAT)
        brief = PromptTemplate(system="You are a helpful assistant who answers in a few words.")
        second = build.run(acts.build, CORPUS, ivf, brief, note=step.note)
    with steps.step("Coordinators and HTTP endpoints") as step:
        run_in_each(world.drivers, start_services, note=step.note)
        ports = [driver.installation.region_settings.http.port for driver in world.drivers]
        step.note(f"ports {', '.join(map(str, ports))}")
    with steps.step("A release, prepared everywhere and committed") as step:
        number, reused = world.at_leader(acts.propose_unless_current, first)
        run_in_each(world.drivers, acts.wait_until_serving, number, _SERVE_TIMEOUT_S)
        step.note(f"release {number}, {REUSED}" if reused else f"release {number}")
    return number, second


def _subset_of_source(world: _World) -> Path:
    documents = map(orjson.loads, SOURCE.read_bytes().splitlines())
    subset = [doc for doc in documents if doc["metadata"]["region"] == SUBSET]
    path = world.first.installation.settings.state_folder / f"{SUBSET}.jsonl"
    path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in subset))
    return path


def _search(region: HttpRegion, **more: object) -> dict[str, Any]:
    return region.post("/v1/search", {**ASKED, **more})


def _ask_each(world: _World) -> dict[str, dict[str, Any]]:
    found = {}
    for driver in world.drivers:
        with HttpRegion.of(driver.installation) as http:
            found[driver.region] = _search(http)
    return found


def _write_note(world: _World, step: Step) -> LiveNote:
    with ExitStack() as connections:
        regions = {
            driver.region: connections.enter_context(HttpRegion.of(driver.installation))
            for driver in world.drivers
        }
        note = write_and_find(world.first.region, regions, CORPUS, {"region": SUBSET})
    last_ms = max((took_ms for took_ms in note.found_ms.values() if took_ms), default=0.0)
    step.note(f"all within {last_ms:.0f} ms" if note.is_as_promised else "NOT AS PROMISED")
    return note


def _answer_elsewhere(world: _World, step: Step) -> dict[str, Any] | None:
    """The answer of the last region, whose generating step goes to the first one."""
    if world.first.installation.settings.generator.source is None:
        step.note("none runs one: search only")
        return None
    asked = world.drivers[-1]
    body = {"corpus": CORPUS, "question": QUESTION, "max_tokens": 48, "timeout_ms": 60_000}
    with HttpRegion.of(asked.installation) as http:
        answer = http.post("/v1/answer", body)
    step.note(f"{asked.region} found, {world.first.region} wrote")
    return answer


def _switched(
    world: _World, step: Step, act: Callable[..., int], subject: object
) -> tuple[int, ObservedSwitch]:
    """Carries out a switch while every region is asked; the release, and what the replies tell."""
    with world.traffic() as traffic:
        traffic.wait_for_more()
        since_ms = float(SYSTEM_CLOCK.wall_ms())
        number = world.at_leader(act, subject)
        traffic.wait_for_release(number, timeout_s=_SERVE_TIMEOUT_S)
        traffic.wait_for_more()
    switch = world.first.installation.read_release_log().switches[-1]
    moments = {d.region: traffic.switched_ms(d.region, number, since_ms) for d in world.drivers}
    observed = ObservedSwitch(
        what=f"release {number}",
        at_ms=switch.at_ms,
        first_reply_ms={name: at_ms for name, at_ms in moments.items() if at_ms is not None},
        queries=len(traffic.replies),
        failed=len(traffic.failed),
    )
    step.note(
        f"skew {observed.skew_ms:.0f} ms, {observed.failed} of {observed.queries} queries failed"
    )
    return number, observed


def _cut_off(world: _World, other: int, current: int) -> Cut:
    """Closes one region's way to the store; the others switch to release `other` meanwhile."""
    leader = world.first.installation.read_release_log().leader
    away = next(d for d in reversed(world.drivers) if d.region != leader)
    others = [d.region for d in world.drivers if d is not away]
    staleness: dict[str, list[float]] = {d.region: [] for d in world.drivers}
    with world.steps.step(f"{away.region} cut off from the store") as step:
        with world.traffic() as traffic, HttpRegion.of(away.installation) as http:
            traffic.wait_for_release(current)
            world.links[away.region].close()
            closed_s = SYSTEM_CLOCK.monotonic_s()
            world.at_leader(acts.rollback, other)
            traffic.wait_for_release(other, *others)
            for second in range(_CUT_S + 1):
                SYSTEM_CLOCK.sleep(Deadline(closed_s + second).remaining_s())
                for name, known in staleness.items():
                    known.append(traffic.latest(name).staleness_ms)
                step.note(
                    f"release {current} there, staleness {staleness[away.region][-1] / 1000:.1f} s"
                )
            meanwhile = traffic.latest(away.region).release
            bounded = {"consistency": "bounded", "max_staleness_ms": STALENESS_MAX_MS}
            served_by = _search(http, **bounded)["served_by"]
            world.links[away.region].open()
            opened_s = SYSTEM_CLOCK.monotonic_s()
            traffic.wait_for_release(other)
            caught_up_s = SYSTEM_CLOCK.monotonic_s() - opened_s
            traffic.wait_for_more()
        step.note(f"let back in, it caught up in {caught_up_s:.1f} s")
    return Cut(
        region=away.region,
        release_meanwhile=meanwhile,
        release_of_others=other,
        staleness_ms=staleness,
        bounded_served_by=served_by,
        caught_up_s=caught_up_s,
        queries=len(traffic.replies),
        failed=len(traffic.failed),
    )


def _kill(world: _World, gone: RegionDriver) -> Killed:
    """Kills every process of the region, while a user next to it asks."""
    settings = world.first.installation.settings
    with (
        world.steps.step(f"{gone.region} killed under queries") as step,
        RegionsClient(settings, location=LOCATIONS[gone.region]) as user,
        Traffic({"user": partial(user.post, "/v1/search", ASKED)}) as traffic,
    ):
        traffic.wait_for_more()
        killed_ms = float(SYSTEM_CLOCK.wall_ms())
        processes = gone.kill()
        traffic.wait_for(
            lambda: traffic.latest("user").served_by not in ("", gone.region), "another region"
        )
        traffic.wait_for_more(20)
        step.note(f"served by {traffic.latest('user').served_by}")
    moved = next(r for r in traffic.of("user") if r.served_by not in ("", gone.region))
    return Killed(
        region=gone.region,
        processes=processes,
        served_by=moved.served_by,
        moved_s=(moved.came_ms - killed_ms) / 1000.0,
        queries=len(traffic.replies),
        failed=len(traffic.failed),
    )
