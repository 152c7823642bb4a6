"""When the watch brings a region up again, and when it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import machine, region_watch
from deployments.machine import Machine
from deployments.region_watch import Standing, keep_up

# Notes that it was called; fails when the next line of the plan says so.
COMMAND = """
import sys
from pathlib import Path
calls, plan = map(Path, sys.argv[1:])
done = len(calls.read_text()) if calls.exists() else 0
calls.write_text("x" * (done + 1))
sys.exit(int(plan.read_text().split()[done]))
"""


class Bringer:
    """A command that ends with the planned statuses, one after the other."""

    def __init__(self, folder: Path, *statuses: int) -> None:
        self._calls, plan = folder / "calls", folder / "plan"
        plan.write_text(" ".join(map(str, statuses)))
        self.command = [sys.executable, "-c", COMMAND, str(self._calls), str(plan)]

    @property
    def calls(self) -> int:
        return len(self._calls.read_text())


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_watch, "_LOOK_S", 0.0)
    monkeypatch.setattr(region_watch, "_RETRY_S", 0.0)


def test_it_is_brought_up_again_each_time_it_died_until_it_is_ended(tmp_path: Path) -> None:
    bringer, notes = Bringer(tmp_path, 0, 0, 0), list[str]()
    seen: Iterator[Standing] = iter(
        [Standing.UP, Standing.DIED, Standing.UP, Standing.DIED, Standing.ENDED]
    )
    assert keep_up(bringer.command, lambda: next(seen), notes.append) == 0
    assert (bringer.calls, len(notes)) == (3, 2)


def test_a_first_start_that_fails_is_told_and_not_repeated(tmp_path: Path) -> None:
    bringer = Bringer(tmp_path, 2)
    assert keep_up(bringer.command, lambda: Standing.DIED, lambda _: None) == 2
    assert bringer.calls == 1


def test_later_ones_are_tried_until_one_goes_well(tmp_path: Path) -> None:
    bringer = Bringer(tmp_path, 0, 1, 2, 0)
    seen = iter([Standing.DIED, Standing.ENDED])
    assert keep_up(bringer.command, lambda: next(seen), lambda _: None) == 0
    assert bringer.calls == 4


def test_a_head_that_was_stopped_is_told_from_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    died = Machine(
        config=tmp_path / "regions.yaml",
        region="here",
        ray_address="127.0.0.1:6379",
        token_path=tmp_path / "token",
        marker="no process carries this",
        keeper_pid=2**22 + 1,
        is_head=True,
    )
    machine._write(died)
    recorded = machine.find_machine()
    assert recorded is not None
    assert not recorded.was_stopped
    recorded.stop()
    recorded = machine.find_machine()
    assert recorded is not None
    assert recorded.was_stopped
