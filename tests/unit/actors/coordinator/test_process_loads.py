"""A region is as loaded as its busiest part said lately."""

from __future__ import annotations

import weakref

import pytest

from actors.coordinator.process_loads import ProcessLoads
from actors.runtime.busy_share import BusyShare
from tests.support.fakes import SimClock


def test_the_busiest_part_counts_as_long_as_it_speaks() -> None:
    clock, of_replicas = SimClock(), [0.2]
    loads = ProcessLoads(clock, lambda: of_replicas[0])
    assert loads.load() == 0.2
    loads.report("a", 0.9)
    loads.report("b", 0.5)
    assert loads.load() == 0.9
    loads.report("a", 0.1)
    assert loads.load() == 0.5
    clock.sleep(4.0)
    loads.report("c", 0.3)
    clock.sleep(2.0)
    # Of a and b nothing was heard for too long.
    assert loads.load() == 0.3
    of_replicas[0] = 0.4
    assert loads.load() == 0.4


class Name(str):
    """A process's name, of which a weak reference tells whether anybody has it still."""


def test_processes_that_are_gone_are_forgotten() -> None:
    clock, name = SimClock(), Name("a")
    gone = weakref.ref(name)
    loads = ProcessLoads(clock, lambda: 0.0)
    loads.report(name, 0.9)
    del name
    assert gone() is not None
    clock.sleep(6.0)
    loads.report("b", 0.5)
    assert gone() is None


def test_a_process_knows_how_busy_it_is() -> None:
    clock, used_s = SimClock(), [7.0]
    busy = BusyShare(now_s=clock.monotonic_s, cpu_s=lambda: used_s[0])
    shares = []
    for working_s in (1.0, 0.0, 4.0, 10.0):
        clock.sleep(4.0)
        used_s[0] += working_s
        shares.append(busy.look())
    # Several threads at once are no more than one core.
    assert shares == [0.25, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("of_replicas", [0.0, 1.0])
def test_before_anybody_spoke_replicas_are_all_there_is(of_replicas: float) -> None:
    assert ProcessLoads(SimClock(), lambda: of_replicas).load() == of_replicas
