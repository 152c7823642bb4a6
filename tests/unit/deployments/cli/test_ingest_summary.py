"""What `raygion ingest` tells when it is done."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.documents.ingest_report import (
    EXAMPLES_MAX,
    REASONS_MAX,
    DocumentChanges,
    IngestReport,
    LeftOut,
    ReasonCounts,
)
from deployments.cli.ingest_summary import report_lines
from deployments.terminal import print_json

REPORT = IngestReport(
    documents=DocumentChanges(
        new=12, replaced=7, replaced_examples=("a", "b"), unchanged=3, removed=1
    ),
    documents_left_out=(
        LeftOut(reason="text: must not be empty", count=1, examples=("x.jsonl, row 3",)),
    ),
    files_read=1,
    files_left_out=(LeftOut(reason="is hidden", count=3, examples=("d/.a", "d/.b")),),
    folder_values_left_out=(LeftOut(reason="no field", count=1, examples=("d/my-key=1",)),),
)


def test_people_read_it_in_lines() -> None:
    assert list(report_lines(REPORT)) == [
        "From 1 file: 12 new, 7 replaced (a, b, ...), 3 unchanged, 1 of before removed.",
        "Left out 1 document: text: must not be empty: x.jsonl, row 3",
        "Left out 3 files: is hidden: d/.a, d/.b, ...",
        "Left out 1 folder value: no field: d/my-key=1",
    ]


def test_machines_read_it_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"position": 3, "report": REPORT})
    told = orjson.loads(capsys.readouterr().out)
    assert told["report"]["documents"]["replaced"] == 7
    assert told["report"]["files_left_out"] == [
        {"reason": "is hidden", "count": 3, "examples": ["d/.a", "d/.b"]}
    ]


@given(st.lists(st.tuples(st.integers(0, 40).map(str), st.integers(0, 5).map(str))), st.data())
def test_a_tally_counts_everything_in_bounded_space(
    added: list[tuple[str, str]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(added)))
    tallies = ReasonCounts(), ReasonCounts()
    for tally, part in zip(tallies, (added[:cut], added[cut:]), strict=True):
        for reason, example in part:
            tally.add(reason, example)
    together = ReasonCounts()
    for tally in tallies:
        together.add_all(tally.left_out())
    found = together.left_out()
    assert sum(group.count for group in found) == len(added)
    assert len(found) <= REASONS_MAX + 1
    assert all(1 <= len(group.examples) <= min(group.count, EXAMPLES_MAX) for group in found)
