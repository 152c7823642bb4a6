"""Every event of the log has a name and a sentence of its own, and the fields that it speaks of."""

from __future__ import annotations

import re
from collections import Counter
from string import Formatter

import pytest

from cluster.logs.alerts import ALERTS
from tests.support.events_table import WrittenEvent, written_events

EVENTS = written_events()


def test_each_name_stands_for_one_event() -> None:
    events = {(event.name, event.level, event.sentence) for event in EVENTS}
    names = Counter([name for name, _, _ in events] + [alert.name for alert in ALERTS])
    assert [name for name, times in names.items() if times > 1] == []
    assert [name for name in names if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)] == []


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_the_fields_of_a_sentence_are_given(event: WrittenEvent) -> None:
    told = {field for _, field, _, _ in Formatter().parse(event.sentence) if field is not None}
    assert told <= event.fields
