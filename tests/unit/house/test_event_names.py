"""Every event of the log has a name and a sentence of its own, and the fields that it speaks of."""

from __future__ import annotations

import re
from collections import Counter
from string import Formatter

import pytest

from cluster.logs import alerts
from cluster.logs.alerts import ALERTS, Alert
from tests.support.events_table import (
    WrittenAlert,
    WrittenEvent,
    written_alerts,
    written_events,
)

EVENTS = written_events()
RAISED = written_alerts()


def fields_of(sentence: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(sentence) if field is not None}


def test_each_name_stands_for_one_event() -> None:
    events = {(event.name, event.level, event.sentence) for event in EVENTS}
    names = Counter([name for name, _, _ in events] + [alert.name for alert in ALERTS])
    assert [name for name, times in names.items() if times > 1] == []
    assert [name for name in names if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)] == []


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_the_fields_of_a_sentence_are_given(event: WrittenEvent) -> None:
    assert fields_of(event.sentence) <= event.fields


def alert_of(raised: WrittenAlert) -> Alert:
    alert: Alert = getattr(alerts, raised.constant)
    return alert


@pytest.mark.parametrize("raised", RAISED, ids=lambda raised: f"{raised.constant}-{raised.module}")
def test_the_fields_of_an_alert_are_given(raised: WrittenAlert) -> None:
    assert fields_of(alert_of(raised).sentence) <= raised.fields


def test_every_alert_is_raised_by_somebody() -> None:
    assert {alert_of(raised).name for raised in RAISED} == {alert.name for alert in ALERTS}
