from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.config import Settings
from cluster.errors import InvalidArgument, Unavailable
from cluster.progress import Note
from deployments.hosting.region_driver import RegionDriver, run_in_each
from deployments.installation import Installation
from tests.support.waiting import wait_until


def add(installation: Installation, note: Note, one: int, other: int) -> int:
    note(f"{one} and {other}")
    return one + other


def refuse(installation: Installation, note: Note) -> None:
    raise InvalidArgument("is wrong", "it")


def fail_oddly(installation: Installation, note: Note) -> None:
    class Local(Exception):
        """Known nowhere else."""

    raise Local("odd")


def touch_and_hang(installation: Installation, note: Note, name: str) -> None:
    (installation.settings.state_folder / name).touch()
    threading.Event().wait()


def process_id(installation: Installation, note: Note) -> int:
    return os.getpid()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[RegionDriver]:
    driver = RegionDriver(Installation(Settings(state_folder=tmp_path), "local"))
    yield driver
    driver.end()


def test_a_call_runs_in_another_process_and_tells_on_the_way(driver: RegionDriver) -> None:
    notes: list[str] = []
    assert driver.run(add, 1, 2, note=notes.append) == 3
    assert notes == ["1 and 2"]
    assert driver.run(process_id) == driver.run(process_id) != os.getpid()


def test_a_call_raises_what_the_function_raised_and_the_next_one_works(
    driver: RegionDriver,
) -> None:
    with pytest.raises(InvalidArgument, match="it: is wrong"):
        driver.run(refuse)
    with pytest.raises(RuntimeError, match="odd"):
        driver.run(fail_oddly)
    assert driver.run(add, 1, 2) == 3


def test_ending_it_cuts_a_call_off(driver: RegionDriver, tmp_path: Path) -> None:
    def end_when_it_hangs() -> None:
        wait_until((tmp_path / "hangs").exists)
        driver.end()

    ender = threading.Thread(target=end_when_it_hangs)
    ender.start()
    with pytest.raises(Unavailable, match="has ended"):
        driver.run(touch_and_hang, "hangs")
    ender.join()
    with pytest.raises(Unavailable, match="has ended"):
        driver.run(add, 1, 2)


def test_a_call_that_takes_too_long_ends_the_process(driver: RegionDriver) -> None:
    with pytest.raises(Unavailable, match="took over 0 s"):
        driver.run(touch_and_hang, "hangs", timeout_s=0.2)


def test_all_regions_act_side_by_side_and_one_failure_ends_the_others(tmp_path: Path) -> None:
    drivers = [
        RegionDriver(Installation(Settings(state_folder=tmp_path), "local")) for _ in range(2)
    ]
    try:
        assert run_in_each(drivers, add, 1, 2) == [3, 3]
        with pytest.raises(InvalidArgument):
            run_in_each(drivers, refuse)
        with pytest.raises(Unavailable):
            drivers[1].run(add, 1, 2)
    finally:
        for driver in drivers:
            driver.end()
