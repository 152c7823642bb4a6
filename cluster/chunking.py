"""Cuts a text into passages that an embedder can take in.

A passage ends where a paragraph ends, or else a sentence, or else a word; only text without any of
these (a long run of letters, or Chinese without punctuation) is cut between two characters. Where a
text is cut, the next passage repeats the end of the one before, so that a fact that spans the cut
stands whole in one of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

CHARS_MAX_DEFAULT = 1000

# Ends of a sentence: closing quotes and brackets belong to it. CJK marks need no space after them.
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE_END = re.compile(
    r"[.!?\u2026][\"'\u2019\u201d)\]]*\s+|[\u3002\uff01\uff1f][\u201d\u300d]?\s*"
)
_WORD_END = re.compile(r"\s+")
# A paragraph that ends early in the window would leave a passage too small to mean much.
_EARLIEST = {_PARAGRAPH_END: 0.5, _SENTENCE_END: 0.4, _WORD_END: 0.25}
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")
_JOINED_MAX = 16


def chunk_text(
    text: str,
    *,
    chars_max: int = CHARS_MAX_DEFAULT,
    overlap_chars: int | None = None,
) -> list[str]:
    """The passages of a text, in order; none when the text is blank.

    Guarantee: each passage is a part of `text` as it stands, without white space at its ends, of at
    most `chars_max` characters; every character of `text` but white space is in one of them; equal
    input gives equal passages. Two neighbours share at most `overlap_chars` characters; None takes
    a tenth of `chars_max`.
    """
    if overlap_chars is None:
        overlap_chars = chars_max // 10
    return [text[start:end] for start, end in chunk_spans(text, chars_max, overlap_chars)]


def chunk_spans(text: str, chars_max: int, overlap_chars: int) -> Iterator[tuple[int, int]]:
    """Where the passages of `chunk_text` begin and end in the text."""
    assert chars_max >= 1
    assert 0 <= overlap_chars <= chars_max // 2
    length = len(text.rstrip())
    start = _skip_space(text, 0)
    while start < length:
        cut = length if length - start <= chars_max else _best_cut(text, start, chars_max)
        end = start + len(text[start:cut].rstrip())
        yield start, end
        if cut >= length:
            return
        start = _skip_space(text, _restart(text, start, cut, overlap_chars))


def _skip_space(text: str, start: int) -> int:
    match = _WORD_END.match(text, start)
    return match.end() if match else start


def _best_cut(text: str, start: int, chars_max: int) -> int:
    """The last good place to cut in (start, start + chars_max]; the coarsest kind of place wins."""
    # A boundary may begin with the last character that fits, so one more character is looked at.
    limit = start + chars_max
    for boundary, earliest in _EARLIEST.items():
        cuts = [
            min(match.end(), limit)
            for match in boundary.finditer(text, start, limit + 1)
            if len(text[start : match.end()].rstrip()) <= chars_max
        ]
        if cuts and cuts[-1] - start >= chars_max * earliest:
            return cuts[-1]
    return _between_characters(text, start, limit)


def _between_characters(text: str, start: int, cut: int) -> int:
    """Moves a cut to before a letter whose accents or joined signs it would tear off."""
    for moved in range(cut, max(start, cut - _JOINED_MAX), -1):
        joined = unicodedata.combining(text[moved]) or text[moved] in _JOINERS
        if not joined and text[moved - 1] != "\u200d":
            return moved
    return cut


def _restart(text: str, start: int, cut: int, overlap_chars: int) -> int:
    """Where the next passage begins: at a sentence or word in the last characters before the cut.

    Always after `start`, so that the work ends.
    """
    earliest = max(start + 1, cut - overlap_chars)
    for boundary in (_SENTENCE_END, _WORD_END):
        for match in boundary.finditer(text, earliest - 1, cut):
            if earliest <= match.end() < cut:
                return match.end()
    return cut
