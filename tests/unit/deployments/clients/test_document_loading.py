"""A file of documents on its way to a region that is not always well."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from cluster.errors import Conflict, OutcomeUnknown, Overloaded, RaygionError, Unavailable
from deployments.clients.document_loading import BATCH_BYTES_MAX, BATCH_MAX, Loading
from deployments.installation import NotRunning


@dataclass
class FakeRegion:
    """Fails by `failures`, one a request; refuses documents whose text is `bad`, and for the first
    time those whose text is `late`.
    """

    failures: list[RaygionError] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    batches: list[list[Any]] = field(default_factory=list)
    unmet: str = ""

    def write_documents(self, body: Mapping[str, Any], key: str) -> dict[str, Any]:
        is_first = key not in self.keys
        self.keys.append(key)
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(body["documents"])
        reply: dict[str, Any] = {
            "documents": [self._end(raw, is_first=is_first) for raw in body["documents"]]
        }
        if self.unmet:
            reply["unmet"] = {"message": self.unmet}
        return reply

    def _end(self, raw: Any, *, is_first: bool) -> dict[str, Any]:
        if not isinstance(raw, dict):
            return {"id": None, "error": {"code": "invalid_argument", "message": "no object"}}
        if raw["text"] == "bad":
            return {"id": raw["id"], "error": {"code": "conflict", "message": "is another"}}
        if raw["text"] == "late" and is_first:
            return {"id": raw["id"], "error": {"code": "overloaded", "message": "full"}}
        return {"id": raw["id"], "version": "1.0.a", "position": 1}


@dataclass
class Pauses:
    taken_s: list[float] = field(default_factory=list)


def loading(region: FakeRegion, pauses: Pauses | None = None) -> Loading:
    taken = (pauses or Pauses()).taken_s
    return Loading(region, "tickets", "durable", taken.append, random.Random(7))


def line(number: int, text: str = "t") -> bytes:
    return orjson.dumps({"id": str(number), "text": text}) + b"\n"


def test_documents_go_in_batches_and_all_lines_are_counted() -> None:
    region = FakeRegion()
    load = loading(region)
    lines = [line(n) for n in range(BATCH_MAX + 5)]
    lines.insert(3, b"\n")

    assert list(load.load(lines)) == [BATCH_MAX + 1, BATCH_MAX + 6]
    assert [len(batch) for batch in region.batches] == [BATCH_MAX, 5]
    assert (load.written, load.refused) == (BATCH_MAX + 5, [])
    assert len(set(region.keys)) == 2


def test_long_documents_go_in_smaller_batches() -> None:
    region = FakeRegion()
    long = "x" * (BATCH_BYTES_MAX // 3)
    list(loading(region).load([line(n, long) for n in range(5)]))

    assert [len(batch) for batch in region.batches] == [2, 2, 1]


def test_what_is_wrong_is_told_by_its_line_and_the_rest_is_written() -> None:
    load = loading(FakeRegion())
    list(load.load([line(1), b"{oops\n", line(3, "bad"), b"[]\n", line(5)]))

    assert load.written == 2
    told = sorted((each.line, each.id, each.code) for each in load.refused)
    assert told == [(2, None, "invalid_argument"), (3, "3", "conflict"), (4, None, told[2][2])]


def test_a_load_goes_on_where_it_was_interrupted() -> None:
    region = FakeRegion()
    load = loading(region)
    list(load.load([line(n) for n in range(10)], skip=7))

    assert [document["id"] for document in region.batches[0]] == ["7", "8", "9"]
    assert (load.written, load.lines) == (3, 10)


@pytest.mark.parametrize(
    "failure", [Unavailable("away"), OutcomeUnknown("lost"), Overloaded("full", 4.0)]
)
def test_a_batch_that_failed_is_sent_again_with_its_key(failure: RaygionError) -> None:
    region, pauses = FakeRegion(failures=[failure]), Pauses()
    load = loading(region, pauses)
    list(load.load([line(1)]))

    assert load.written == 1
    assert len(region.keys) == 2
    assert len(set(region.keys)) == 1
    (pause_s,) = pauses.taken_s
    assert pause_s == 4.0 if isinstance(failure, Overloaded) else 0.0 < pause_s < 1.0


def test_a_batch_with_a_document_that_may_be_written_later_is_sent_again() -> None:
    region = FakeRegion()
    load = loading(region)
    list(load.load([line(1), line(2, "late"), line(3, "bad")]))

    assert (load.written, [each.id for each in load.refused]) == (2, ["3"])
    assert len(region.batches) == 2


def test_a_region_that_stays_away_ends_the_load_where_it_is() -> None:
    region = FakeRegion()
    load = loading(region)
    progress = load.load([line(n) for n in range(BATCH_MAX + 1)])
    next(progress)
    region.failures = [Unavailable("away")] * 100
    with pytest.raises(Unavailable):
        next(progress)

    assert (load.written, load.lines) == (BATCH_MAX, BATCH_MAX)


@pytest.mark.parametrize("failure", [NotRunning("no region"), Conflict("odd")])
def test_what_will_not_pass_is_not_waited_for(failure: RaygionError) -> None:
    region, pauses = FakeRegion(failures=[failure]), Pauses()
    with pytest.raises(type(failure)):
        list(loading(region, pauses).load([line(1)]))
    assert pauses.taken_s == []
