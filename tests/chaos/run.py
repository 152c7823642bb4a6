"""`make chaos`: breaks a region in every way we know of while it is asked, and counts.

    python -m tests.chaos.run                     all of it, twice: with `local_first` off and on
    python -m tests.chaos.run --quick             without the language model, `local_first` off
    python -m tests.chaos.run --only overload     only what has this in its name

Prints the report as Markdown and writes it to `.raygion/chaos.md`. Ends with 1 when a query failed
or was wrong, or something did not come back.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from cluster.errors import RaygionError
from tests.chaos.deaths import DEATHS, measure_deaths
from tests.chaos.overload import OVERLOAD, measure_overload
from tests.chaos.region import ROOT, ChaosRegion, chaos_region
from tests.chaos.report import Row, as_markdown
from tests.chaos.scenario import Scenario
from tests.chaos.scenarios import NOT_POSSIBLE, SCENARIOS
from tests.chaos.steady_load import SteadyLoad
from tests.support.redis_server import REDIS
from tests.support.regions.search_region import search_region, search_settings
from tests.support.waiting import wait_until

_REPORT = ROOT / ".raygion" / "chaos.md"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="no language model, one turn")
    parser.add_argument("--only", default="", help="only scenarios with this in their name")
    asked = parser.parse_args(arguments)
    # Ended by a signal, too, everything that was started must go.
    signal.signal(signal.SIGTERM, _leave)
    wanted = [
        s
        for s in SCENARIOS
        if asked.only in s.name
        and not (asked.quick and s.needs_answers)
        and not (REDIS is None and s.needs_redis)
    ]
    rows: list[Row] = []
    if wanted:
        for local_first in (False,) if asked.quick else (False, True):
            rows += _turn(wanted, local_first=local_first, with_answers=not asked.quick)
    overload = None
    if asked.only in OVERLOAD:
        with (
            tempfile.TemporaryDirectory(prefix="rgc-") as folder,
            # One gateway, so that the capacity stays what it was measured to be.
            search_region(Path(folder), search_settings(Path(folder), gateways_max=1)) as region,
        ):
            overload = measure_overload(region)
    deaths = measure_deaths() if asked.only in DEATHS else []
    report = as_markdown(rows, deaths, overload)
    print(report)
    _REPORT.parent.mkdir(exist_ok=True)
    _REPORT.write_text(report)
    broken = [r for r in rows if r.failed_too_long or r.counts.wrong or r.problem]
    return 1 if broken else 0


def _turn(wanted: list[Scenario], *, local_first: bool, with_answers: bool) -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="rgc-") as folder,
        chaos_region(Path(folder), local_first=local_first, with_answers=with_answers) as region,
    ):
        return [
            row for scenario in wanted for row in _run(region, scenario, local_first=local_first)
        ]


def _run(region: ChaosRegion, scenario: Scenario, *, local_first: bool) -> list[Row]:
    note = problem = ""
    with SteadyLoad(region) as load:
        started_s = time.monotonic()
        try:
            note = scenario.does(region)
            wait_until(region.search.is_whole, "all parts in order")
        except NOT_POSSIBLE as error:
            note = f"not done: {error}"
        except (AssertionError, RaygionError, TimeoutError) as error:
            problem = repr(error)
        recovered_s = time.monotonic() - started_s
        with suppress(AssertionError):
            load.go_on()
    rows = [
        Row(
            scenario=scenario.name,
            local_first=local_first,
            asked=asked,
            counts=counts,
            recovered_s=recovered_s,
            failed_until_s=max(0.0, load.last_failure_s - started_s),
            lost_s=scenario.lost_s,
            note=note,
            problem=problem,
        )
        for asked, counts in load.counts().items()
    ]
    for row in rows:
        print(row, flush=True)
    return rows


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
