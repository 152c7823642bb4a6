from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.chunking import chunk_spans, chunk_text

WORDS = st.text(alphabet="abcé.!? \n\t。，中文\u0301\u200d😀\"')", max_size=400)
SIZES = st.integers(min_value=1, max_value=60)


@given(text=st.one_of(WORDS, st.text(max_size=300)), chars_max=SIZES, share=st.floats(0, 0.5))
@example(text="a\u0301" * 40, chars_max=5, share=0.5)
@example(text="." * 50, chars_max=7, share=0.5)
@example(text="x  " * 30, chars_max=1, share=0.0)
def test_nothing_is_lost_and_bounds_are_kept(text: str, chars_max: int, share: float) -> None:
    overlap_chars = int(chars_max * share)
    spans = list(chunk_spans(text, chars_max, overlap_chars))
    covered = bytearray(len(text))
    for start, end in spans:
        assert 0 < end - start <= chars_max
        assert text[start:end] == text[start:end].strip()
        covered[start:end] = b"\1" * (end - start)
    assert all(covered[i] or text[i].isspace() for i in range(len(text)))
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start
        assert end < next_end
        assert end - next_start <= overlap_chars


@given(text=WORDS, chars_max=SIZES)
def test_equal_input_gives_equal_passages(text: str, chars_max: int) -> None:
    first = chunk_text(text, chars_max=chars_max, overlap_chars=0)
    assert first == chunk_text(text, chars_max=chars_max, overlap_chars=0)
    assert re.sub(r"\s", "", "".join(first)) == re.sub(r"\s", "", text)


@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000"])
def test_a_blank_text_has_no_passages(text: str) -> None:
    assert chunk_text(text) == []


def test_a_short_text_is_one_passage_without_space_around_it() -> None:
    assert chunk_text("  Paris is the capital.\n\nIt is old. \n") == [
        "Paris is the capital.\n\nIt is old."
    ]


def test_paragraphs_are_kept_whole_before_sentences_and_sentences_before_words() -> None:
    text = "One one. One two.\n\nTwo one is here. Two two, and more."
    assert chunk_text(text, chars_max=30, overlap_chars=0) == [
        "One one. One two.",
        "Two one is here.",
        "Two two, and more.",
    ]
    assert chunk_text("alpha beta gamma delta", chars_max=12, overlap_chars=0) == [
        "alpha beta",
        "gamma delta",
    ]


def test_the_next_passage_repeats_whole_sentences_from_before_the_cut() -> None:
    text = "First sentence is here. Second one. Third sentence is longer than others."
    first, second = chunk_text(text, chars_max=50, overlap_chars=15)
    assert first == "First sentence is here. Second one."
    assert second == "Second one. Third sentence is longer than others."


def test_chinese_is_cut_at_its_own_full_stops_and_else_between_characters() -> None:
    text = "巴黎是法国的首都。柏林是德国的首都。罗马是意大利的首都。"
    assert chunk_text(text, chars_max=20, overlap_chars=0) == [
        "巴黎是法国的首都。柏林是德国的首都。",
        "罗马是意大利的首都。",
    ]
    assert chunk_text("中" * 25, chars_max=10, overlap_chars=0) == ["中" * 10, "中" * 10, "中" * 5]


def test_accents_and_joined_signs_stay_with_their_letter() -> None:
    assert chunk_text("e\u0301" * 4, chars_max=3, overlap_chars=0) == ["e\u0301"] * 4
    family = "👩\u200d👧"
    assert chunk_text(family * 2, chars_max=4, overlap_chars=0) == [family, family]


def test_a_long_text_takes_time_in_proportion() -> None:
    text = "word " * 200_000
    chunks = chunk_text(text)
    assert sum(len(chunk) for chunk in chunks) >= len(text) * 4 / 5
    assert max(len(chunk) for chunk in chunks) <= 1000
