"""`python -m bench.regions.run`: what several regions cost and keep, on three real Ray clusters.

python -m bench.regions.run                 all of it, some ten minutes
python -m bench.regions.run --quick         shows that everything runs
python -m bench.regions.run --write-docs    also puts the table into docs/benchmarks.md

    50 commits                 skew between the first and the last region's first answer
    10 rollbacks               from the request to the last region's first answer
    20 switches under load     queries that failed, p99 beside the quiet one, memory
    3 coordinators killed      the leader's, until another request is in the log
    2 regions killed           until a user beside it is answered by another region
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from bench.load.client import quantile_of
from bench.regions.report import RegionLoss, RegionsReport, Times, UnderLoad, report_path, show
from bench.regions.world import LOCATIONS, RegionsWorld, three_regions
from bench.reports import environment_now
from cluster.clock import SYSTEM_CLOCK
from cluster.releases.entries import Switch
from cluster.releases.requests import RollBackTo
from deployments.clients.regions_client import RegionsClient
from deployments.demo.traffic import Reply, Traffic
from deployments.hosting.interrupts import end_alike

T = TypeVar("T")
_PAUSE_S = 0.004
"""Between two queries of one asker: how exactly a switch is seen."""
_LOAD_PAUSE_S = 0.02
_SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    num_vectors: int
    commits: int
    rollbacks: int
    switches_under_load: int
    quiet_s: float
    coordinators: int
    regions: int


FULL = Amount(
    num_vectors=20_000,
    commits=50,
    rollbacks=10,
    switches_under_load=20,
    quiet_s=20.0,
    coordinators=3,
    regions=2,
)
QUICK = Amount(
    num_vectors=1_000,
    commits=2,
    rollbacks=1,
    switches_under_load=2,
    quiet_s=3.0,
    coordinators=1,
    regions=1,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.regions.run")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md")
    asked = parser.parse_args()
    if asked.quick and asked.write_docs:
        sys.exit("--quick measures nothing worth writing down: leave out --write-docs")
    end_alike()
    try:
        report = measure(QUICK if asked.quick else FULL, quick=asked.quick)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    report_path().parent.mkdir(exist_ok=True)
    report_path().write_text(report.model_dump_json(indent=2))
    show(report, write_docs=asked.write_docs)


def measure(amount: Amount, *, quick: bool) -> RegionsReport:
    where = environment_now(quick=quick, repetitions=amount.commits)
    with three_regions(amount.num_vectors) as world:
        quiet_mib = _noted({region: world.pss_mib(region) for region in LOCATIONS})
        commits = [_noted(_commit(world)) for _ in _counted("commit", amount.commits)]
        rollbacks = [_noted(_rollback(world)) for _ in _counted("rollback", amount.rollbacks)]
        under_load = _noted(_under_load(world, amount))
        peak_mib = _noted(_memory_while_switching(world))
        leaders = [_noted(_kill_leader(world)) for _ in _counted("leader", amount.coordinators)]
        losses = [_noted(_kill_region(world)) for _ in _counted("region", amount.regions)]
        return RegionsReport(
            environment=where,
            num_vectors=amount.num_vectors,
            start_s=world.start_s,
            quiet_mib=quiet_mib,
            peak_mib=peak_mib,
            skew_ms=Times.of([skew_ms for skew_ms, _, _ in commits]),
            late_ms=Times.of([late_ms for _, late_ms, _ in commits]),
            commit_ms=Times.of([took_ms for _, _, took_ms in commits]),
            rollback_ms=Times.of(rollbacks),
            under_load=under_load,
            leader_killed_ms=Times.of(leaders),
            losses=tuple(losses),
        )


def _noted(found: T) -> T:
    """Shown as it comes: a run is long, and what fails late takes nothing with it then."""
    print(f"  {found}", flush=True)
    return found


def _counted(what: str, times: int) -> Iterator[int]:
    for number in range(1, times + 1):
        print(f"{what} {number} of {times}", flush=True)
        yield number


def _commit(world: RegionsWorld) -> tuple[float, float, float]:
    """Times of one commit, in ms: the skew; from the moment of the switch to the last region's
    first answer; from the request to that.
    """
    came, switch, asked_ms = _seen_switch(world, world.propose_next)
    last_ms = max(came.values())
    return last_ms - min(came.values()), last_ms - switch.at_ms, last_ms - asked_ms


def _rollback(world: RegionsWorld) -> float:
    came, _, asked_ms = _seen_switch(world, lambda: world.request(RollBackTo()))
    return max(came.values()) - asked_ms


def _seen_switch(
    world: RegionsWorld, act: Callable[[], object]
) -> tuple[dict[str, float], Switch, float]:
    """The moments at which each region first answered by the release to which `act` switches, that
    switch, and when `act` was called.
    """
    known = len(world.log.switches)
    with world.traffic(pause_s=_PAUSE_S) as traffic:
        traffic.wait_for_more()
        asked_ms = float(SYSTEM_CLOCK.wall_ms())
        act()
        traffic.wait_for(lambda: len(world.log.switches) > known, "the switch in the log")
        switch = world.log.switches[known]
        came = first_answers_ms(traffic, tuple(world.drivers), switch.release, asked_ms)
    # What a switch brings along is done before the next one begins.
    world.wait_until_serving(switch.release)
    return came, switch, asked_ms


def first_answers_ms(
    traffic: Traffic, regions: Sequence[str], release: int, since_ms: float
) -> dict[str, float]:
    """The moments at which each region first answered by the release, of what was asked since then.

    What was asked before may be answered by it, too; then the next answer is waited for. Raises
    DeadlineExceeded.
    """

    def answered() -> dict[str, float]:
        came = {name: traffic.switched_ms(name, release, since_ms) for name in regions}
        return {name: at_ms for name, at_ms in came.items() if at_ms is not None}

    traffic.wait_for(lambda: len(answered()) == len(regions), f"answers of release {release}")
    return answered()


def _under_load(world: RegionsWorld, amount: Amount) -> UnderLoad:
    """The same load without and with switches, commits and rollbacks in turn."""
    with world.traffic(pause_s=_LOAD_PAUSE_S) as quiet:
        time.sleep(amount.quiet_s)
    switching: list[tuple[float, float]] = []
    with world.traffic(pause_s=_LOAD_PAUSE_S) as busy:
        for number in _counted("switch under load", amount.switches_under_load):
            began_ms = float(SYSTEM_CLOCK.wall_ms())
            if number % 2:
                world.commit_next()
            else:
                world.wait_until_serving(world.request(RollBackTo()))
            switching.append((began_ms, float(SYSTEM_CLOCK.wall_ms())))
        busy.wait_for_more()
    return found_under_load(quiet.replies, amount.quiet_s, busy.replies, switching)


def found_under_load(
    quiet: Sequence[Reply],
    quiet_s: float,
    busy: Sequence[Reply],
    switching: Sequence[tuple[float, float]],
) -> UnderLoad:
    """`switching`: from when to when each switch went on, in ms."""
    during = [
        reply.took_ms
        for reply in busy
        if any(began_ms <= reply.asked_ms <= ended_ms for began_ms, ended_ms in switching)
    ]
    calm = sorted(reply.took_ms for reply in quiet)
    return UnderLoad(
        switches=len(switching),
        queries=len(busy),
        failed=sum(bool(reply.error) for reply in busy),
        quiet_queries=len(quiet),
        quiet_failed=sum(bool(reply.error) for reply in quiet),
        queries_per_s=len(quiet) / quiet_s,
        quiet_p50_ms=quantile_of(calm, 0.5),
        quiet_p99_ms=quantile_of(calm, 0.99),
        switching_p50_ms=quantile_of(sorted(during), 0.5),
        switching_p99_ms=quantile_of(sorted(during), 0.99),
    )


def _memory_while_switching(world: RegionsWorld) -> dict[str, float]:
    """The most that each region's processes have while a release is prepared and switched to.

    Apart from what is timed: a look at the memory of all processes takes a while.
    """
    most = dict.fromkeys(world.drivers, 0.0)
    with _sampling(lambda: most.update({r: max(most[r], world.pss_mib(r)) for r in most})):
        world.commit_next()
    return most


@contextmanager
def _sampling(look: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            look()
            over.wait(_SAMPLE_S)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _kill_leader(world: RegionsWorld) -> float:
    """Time from the kill of the leader's coordinator to the next request that is in the log, in
    ms.
    """
    state = world.log
    assert state.leader is not None
    world.kill_coordinator(state.leader)
    killed_s = time.monotonic()
    release = world.request(RollBackTo())
    moved_ms = (time.monotonic() - killed_s) * 1000.0
    world.wait_until_serving(release)
    return moved_ms


def _kill_region(world: RegionsWorld) -> RegionLoss:
    """Kills the region that leads, and asks for the log and for a user beside it."""
    gone = world.log.leader
    assert gone is not None
    others = [name for name in world.drivers if name != gone]
    settings = world.drivers[gone].installation.settings
    with (
        RegionsClient(settings, location=LOCATIONS[gone]) as user,
        Traffic({"user": world.asker(user.post)}, pause_s=_LOAD_PAUSE_S) as traffic,
    ):
        traffic.wait_for_more()
        killed_ms = float(SYSTEM_CLOCK.wall_ms())
        world.drivers[gone].kill()
        release = world.request(RollBackTo())
        log_moved_ms = SYSTEM_CLOCK.wall_ms() - killed_ms
        traffic.wait_for_release(release)
    moved = next(r for r in traffic.of("user") if r.served_by in others)
    world.wait_until_serving(release, *others)
    started_s = time.monotonic()
    world.start_again(gone)
    world.wait_until_serving(release, gone)
    return RegionLoss(
        moved_ms=moved.came_ms - killed_ms,
        log_moved_ms=log_moved_ms,
        queries=len(traffic.replies),
        failed=len(traffic.failed),
        back_s=time.monotonic() - started_s,
    )


if __name__ == "__main__":
    main()
