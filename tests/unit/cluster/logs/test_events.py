"""Events in both forms: what stands in a line, and what a value from outside cannot do to it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import Unavailable
from cluster.logs import context
from cluster.logs.alerts import CANARY_AT_FAULT, REGIONS_DIFFER
from cluster.logs.context import bind, log_scope
from cluster.logs.events import TEXT_MAX, EventLog
from cluster.logs.formats import EXCEPTION_MAX, JsonFormatter, TextFormatter

NAME = "tests.logs"


class Written:
    """What a logger writes, in both forms."""

    def __init__(self) -> None:
        self.text, self._json = io.StringIO(), io.StringIO()
        self.handlers = [logging.StreamHandler(self.text), logging.StreamHandler(self._json)]
        self.handlers[0].setFormatter(TextFormatter())
        self.handlers[1].setFormatter(JsonFormatter())

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._json.getvalue().splitlines()]

    @property
    def lines(self) -> list[str]:
        # As `grep` knows lines: for `splitlines`, a form feed ends one, too.
        return self.text.getvalue().removesuffix("\n").split("\n")


def writing() -> Iterator[Written]:
    written, logger = Written(), logging.getLogger(NAME)
    logger.handlers, logger.propagate = list(written.handlers), False
    logger.setLevel(logging.DEBUG)
    yield written
    logger.handlers, logger.propagate = [], True


written = pytest.fixture(writing)


@pytest.fixture
def in_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_region", "eu")


log = EventLog(NAME)


def test_an_event_is_a_line_to_read(written: Written, in_region: None) -> None:
    with log_scope(release=7):
        log.warning("shard.let_go", "shard {shard} is let go of", shard=2, corpus="tea time")
    (line,) = written.lines
    at, _, rest = line.partition(" ")
    assert datetime.fromisoformat(at).utcoffset() is not None
    assert rest == (
        'WARNING shard 2 is let go of [shard.let_go region=eu release=7 corpus="tea time"]'
    )


def test_an_event_is_a_json_object(written: Written, in_region: None) -> None:
    with log_scope(trace_id="4bf92f"):
        log.warning("shard.let_go", "shard {shard} is let go of", shard=2, ratio=0.5, hot=None)
    (entry,) = written.objects
    assert datetime.fromisoformat(entry.pop("time")).utcoffset() is not None
    assert entry == {
        "level": "WARNING",
        "logger": NAME,
        "event": "shard.let_go",
        "message": "shard 2 is let go of",
        "region": "eu",
        "trace_id": "4bf92f",
        "fields": {"shard": 2, "ratio": 0.5, "hot": None},
    }


def test_an_alert_is_told_apart(written: Written) -> None:
    log.alert(CANARY_AT_FAULT, release=7, reason="3 of 4 failed")
    log.alert(REGIONS_DIFFER, difference="tea")
    canary, differ = written.objects
    assert (canary["event"], canary["alert"], canary["level"]) == ("canary.at_fault", True, "ERROR")
    assert (canary["release"], canary["fields"]) == (7, {"reason": "3 of 4 failed"})
    assert differ["message"] == "tea"
    told = "ALERT: canary release 7 is at fault: 3 of 4 failed [canary.at_fault]"
    assert told in written.lines[0]


def test_records_of_other_libraries_have_the_context(written: Written, in_region: None) -> None:
    with log_scope(trace_id="4bf92f"):
        logging.getLogger(NAME).warning("%d left", 3)
    (entry,) = written.objects
    assert (entry["message"], entry["region"], entry["trace_id"]) == ("3 left", "eu", "4bf92f")
    assert "event" not in entry
    assert written.lines[0].endswith(f"WARNING {NAME}: 3 left")


def test_what_is_bound_ends_with_the_scope(written: Written) -> None:
    with log_scope(trace_id="a"):
        bind(release=3)
        log.info("a.b", "inside")
        with log_scope():
            log.info("a.b", "of nobody")
    log.info("a.b", "outside")
    inside, nobody, outside = written.objects
    assert (inside["trace_id"], inside["release"]) == ("a", 3)
    assert not {"trace_id", "release"} & (nobody.keys() | outside.keys())


def test_a_field_of_the_event_goes_over_what_is_bound(written: Written) -> None:
    with log_scope(release=3):
        log.info("a.b", "release {release} follows", release=4)
    assert written.objects[0]["release"] == 4


def test_an_error_has_its_message_and_on_request_its_traceback(written: Written) -> None:
    class FromActor(Unavailable):
        def __str__(self) -> str:
            return "ray::Traceback of another process"

    log.warning("a.b", "again: {error}", error=FromActor("the store is away"))
    try:
        raise ValueError("forged\n2026-01-01T00:00:00Z ERROR all is lost")
    except ValueError as error:
        log.error("a.b", "failed: {error}", error=error, traceback_of=error)
    first, second = written.objects
    assert first["message"] == "again: the store is away"
    assert second["exception"].startswith("Traceback (most recent call last)")
    assert second["exception"].endswith("all is lost")
    # One line each for the events, and nothing else at the beginning of a line.
    assert [line for line in written.lines if not line.startswith("    ")] == [
        line for line in written.lines if " [a.b" in line
    ]


def test_long_values_are_shortened(written: Written) -> None:
    log.warning("a.b", "got {body}", body="x" * 10_000 + "end")
    try:
        raise ValueError("y" * 100_000)
    except ValueError as error:
        log.error("a.b", "failed", traceback_of=error)
    first, second = written.objects
    assert len(first["fields"]["body"]) == TEXT_MAX
    assert first["fields"]["body"].endswith("xend")
    assert len(second["exception"]) == EXCEPTION_MAX


def test_an_event_below_the_level_costs_no_look_at_its_fields() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError

    logging.getLogger(NAME).setLevel(logging.WARNING)
    log.info("a.b", "{x}", x=Unprintable())


@given(st.text(st.characters(), max_size=40), st.integers() | st.floats() | st.booleans())
def test_no_value_can_forge_a_line(value: str, number: float) -> None:
    for written in writing():
        log.warning("a.b", "asked for {value}", value=value, again=value, number=number)
        try:
            raise ValueError(value)
        except ValueError as error:
            log.error("a.b", "failed: {error}", error=error, traceback_of=error)
        assert sum(not line.startswith("    ") for line in written.lines) == 2
        assert all(" " <= c < "\x7f" or c >= "\xa0" for line in written.lines for c in line)
        written.text.getvalue().encode()
        assert len(written.objects) == 2
        assert written.objects[0]["fields"]["value"] == value
