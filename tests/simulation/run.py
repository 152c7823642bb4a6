"""Runs many seeds in several processes, or replays one with a trace. Each seed is played twice:
with releases and answers, and with documents.

python -m tests.simulation.run --seeds 2000          # ends with status 1 when a rule was broken
python -m tests.simulation.run --seed 17             # what happened, and what of it was wrong
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys

from cluster.clock import SYSTEM_CLOCK
from tests.simulation.documents.trace import document_lines
from tests.simulation.documents.verdict import document_violations
from tests.simulation.documents.world import DocumentScenario, simulate_documents
from tests.simulation.harness import Scenario, simulate
from tests.simulation.judging.trace import lines
from tests.simulation.judging.verdict import violations

_TOLD_EVERY_S = 2.0
_FAILURES_SHOWN = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone, with its trace")
    parser.add_argument("--regions", type=int, help="so many; else the seed draws 3 to 32")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    scenario = Scenario(regions=asked.regions)
    # Alerts are part of what is simulated here.
    logging.disable(logging.CRITICAL)
    if asked.seed is not None:
        return replay(asked.seed, scenario)
    return run(range(asked.start, asked.start + asked.seeds), scenario, asked.processes)


def replay(seed: int, scenario: Scenario) -> int:
    history = simulate(seed, scenario)
    of_documents = simulate_documents(seed, _of_documents(scenario))
    print("\n".join(lines(history)), "\n".join(document_lines(of_documents)), sep="\n\n")
    found = violations(history) | document_violations(of_documents)
    print(f"\nseed {seed}, {len(history.regions)} regions: {', '.join(history.regions)}")
    print(f"documents in {len(of_documents.regions)}: {', '.join(of_documents.regions)}")
    for name, problems in found.items():
        print(f"BROKEN: {name}", *problems[:_FAILURES_SHOWN], sep="\n  ")
    print("" if found else "all rules hold")
    return bool(found)


def run(seeds: range, scenario: Scenario, processes: int) -> int:
    began_s = told_s = SYSTEM_CLOCK.monotonic_s()
    failed: dict[int, list[str]] = {}
    with multiprocessing.Pool(processes) as pool:
        jobs = ((seed, scenario) for seed in seeds)
        for done, (seed, broken) in enumerate(pool.imap_unordered(_judged, jobs, 4), 1):
            if broken:
                failed[seed] = broken
                print(f"\nseed {seed} breaks {', '.join(broken)}: {_again(seed, scenario)}")
            now_s = SYSTEM_CLOCK.monotonic_s()
            if now_s - told_s >= _TOLD_EVERY_S or done == len(seeds):
                told_s = now_s
                a_minute = done / (now_s - began_s) * 60
                told = f"{done:,} of {len(seeds):,} seeds, {a_minute:,.0f} a minute"
                print(f"\r{told}, {len(failed)} failed", end="", flush=True)
    print()
    return bool(failed)


def _judged(job: tuple[int, Scenario]) -> tuple[int, list[str]]:
    seed, scenario = job
    try:
        found = violations(simulate(seed, scenario))
        documents = simulate_documents(seed, _of_documents(scenario))
        return seed, [*found, *document_violations(documents)]
    except Exception as error:  # one seed that cannot be run must not hide what the others find
        return seed, [f"{type(error).__name__}: {error}"]


def _of_documents(scenario: Scenario) -> DocumentScenario:
    return DocumentScenario(regions=scenario.regions)


def _again(seed: int, scenario: Scenario) -> str:
    regions = "" if scenario.regions is None else f" REGIONS={scenario.regions}"
    return f"make sim SEED={seed}{regions}"


if __name__ == "__main__":
    sys.exit(main())
