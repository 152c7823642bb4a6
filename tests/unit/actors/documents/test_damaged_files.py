"""No file leads to anything but documents or a typed error; `make fuzz` tries it without an end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.documents.source_formats import FORMATS, OFFICE_FORMATS, format_of
from tests.fuzz import run
from tests.fuzz.damage import SAMPLES
from tests.fuzz.reading import read_damaged

OFFICE = [kind for kind in SAMPLES if format_of(f"file{kind}") in OFFICE_FORMATS]
OTHERS = [kind for kind in SAMPLES if kind not in OFFICE]
SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize("kind", OTHERS)
@settings(max_examples=70, deadline=None)
@given(seed=SEEDS)
def test_a_damaged_file_is_documents_or_a_typed_error(kind: str, seed: int) -> None:
    read_damaged(kind, [seed])


@pytest.mark.parametrize("kind", OFFICE)
@settings(max_examples=2, deadline=None)
@given(first=SEEDS)
def test_damaged_office_files_are_documents_or_left_out(kind: str, first: int) -> None:
    (found,) = read_damaged(kind, range(first, first + 20))
    left_out = sum(left.count for left in found.files_left_out)
    assert found.num_files_read + left_out >= found.num_files == 20


def test_the_run_without_an_end_tells_its_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--kind", ".md", "--seed", "17", "--batches", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == [".md from --seed 17", ".md from --seed 67"]


def test_every_kind_of_file_is_damaged() -> None:
    assert {format_of(f"file{kind}") for kind in SAMPLES} == set(FORMATS.values())
