"""A canary at fault stops, and somebody is told."""

from __future__ import annotations

import json

import pytest

from actors.coordinator.canary_judge import CanaryJudge
from cluster.canary.counts import Measure, OutcomeReport, Sides, class_of
from cluster.logs.formats import JsonFormatter
from tests.support.fakes import SimClock


def test_a_fault_is_an_alert_with_the_release_and_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = SimClock()
    judge = CanaryJudge(clock)
    fast, waiting = Sides(), Sides()
    fast.current.times[Measure.VECTOR_SEARCH, class_of(0.005)] = 100
    for age_s in (3.0, 6.0, 9.0, 12.0):
        waiting.canary.times[Measure.VECTOR_SEARCH, class_of(age_s)] = 10
    healthy = OutcomeReport(reporter="a", release=2, ended=fast, waiting=Sides())
    assert judge.take(healthy, 2) is None
    assert caplog.records == []
    clock.sleep(14.0)
    reason = judge.take(OutcomeReport(reporter="b", release=2, ended=Sides(), waiting=waiting), 2)
    assert reason is not None
    (record,) = caplog.records
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["event"], entry["alert"], entry["release"]) == ("canary.at_fault", True, 2)
    assert entry["fields"] == {"reason": reason}
    assert record.getMessage().startswith(f"ALERT: canary release 2 is at fault: {reason}")
