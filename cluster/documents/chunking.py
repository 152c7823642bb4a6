"""Cuts a text into passages that an embedder reads whole, measured in the embedder's own tokens.

Where to cut is left to a splitter of Markdown, to which plain text is Markdown without marks:
before a heading, or else between blocks, of which a fenced block of code is one, or else after a
line, a sentence, a word; inside a word only where nothing else is left, and never inside a grapheme
that fits.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from semantic_text_splitter import MarkdownSplitter

from cluster.catalog.corpus_settings import ChunkSettings
from cluster.embedding.tokenizer import EmbedderTokenizer
from cluster.errors import InvalidArgument

_FILL = 0.95
"""Share of the longest passage that a cut aims at, measured in characters, which do not all have
the same number of tokens.
"""
_HALF = 0.55
"""Share of the longest passage that is aimed at for a text that is a little too long, so that it
becomes two halves rather than a passage and a scrap.
"""
_SCRAP = 0.125
"""Share of a passage's size below which a piece says little by itself."""
_MARKS_MAX = 30
"""Marks on one letter, as in the stream-safe text format (Unicode Standard Annex 15)."""


class TokenCounter(Protocol):
    """A measure for the length of texts."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text."""
        ...


@dataclass(frozen=True, slots=True)
class Chunker:
    """Cuts texts into passages of at most `tokens_max` tokens.

    Two neighbours share some `overlap_tokens` tokens, so that a fact that spans a cut stands whole
    in one of them.
    """

    counter: TokenCounter
    tokens_max: int
    overlap_tokens: int

    @classmethod
    def of(cls, settings: ChunkSettings, tokenizer: EmbedderTokenizer) -> Self:
        """The chunker that the settings of a corpus ask for. Raises InvalidArgument."""
        tokens_max = settings.tokens_max or tokenizer.tokens_max
        overlap_tokens = settings.overlap_tokens
        if overlap_tokens is None:
            overlap_tokens = tokens_max // 10
        if overlap_tokens > tokens_max // 2:
            raise InvalidArgument(
                f"is {overlap_tokens}, more than half of the {tokens_max} tokens of a passage",
                "chunks.overlap_tokens",
            )
        return cls(tokenizer, tokens_max, overlap_tokens)

    def chunks(self, text: str) -> list[str]:
        """The passages of a text, in order; none when the text is blank.

        Guarantee: each passage is a part of `text` as it stands; every character of `text` but
        white space is in one of them; equal input gives equal passages. A passage has at most
        `tokens_max` tokens, unless it is a single character.
        """
        return [text[start:end] for start, end in self.spans(text)]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Begin and end in the text of each passage of `chunks`, as indexes of characters."""
        whole = text.strip()
        if not whole:
            return []
        return self._joined(text, self._spans(whole, text.index(whole)))

    def _spans(self, text: str, offset: int) -> Iterator[tuple[int, int]]:
        """Begin and end of each passage, plus `offset`."""
        # The splitter can count tokens itself, but does so some fifteen times for each character,
        # and without end in a long word. So it gets a size in characters, which is made to fit.
        tokens = self._tokens(text)
        if tokens <= self.tokens_max or len(text) == 1:
            yield offset, offset + len(text)
            return
        share = min(_FILL * self.tokens_max / tokens, _HALF)
        chars_max = math.ceil(share * (len(text) - 1))
        overlap_chars = min(chars_max // 2, len(text) * self.overlap_tokens // tokens)
        pieces = MarkdownSplitter(chars_max, overlap_chars).chunk_indices(text)
        cuts = [(start, start + len(piece)) for start, piece in pieces]
        whole = [(_before_marks(text, start), _before_marks(text, end)) for start, end in cuts]
        if (0, len(text)) in whole:
            # It is a letter with more marks than fit.
            whole = cuts
        for start, end in whole:
            if start < end:
                yield from self._spans(text[start:end], offset + start)

    def _joined(self, text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Joins a heading, or another scrap, to the passage after it, where both fit."""
        joined: list[tuple[int, int]] = []
        for start, end in spans:
            if joined:
                first, last = joined[-1]
                is_scrap = self._tokens(text[first:last]) < _SCRAP * self.tokens_max
                if is_scrap and self._tokens(text[first:end]) <= self.tokens_max:
                    joined[-1] = first, end
                    continue
            joined.append((start, end))
        return joined

    def _tokens(self, text: str) -> int:
        return self.counter.count([text])[0]


def _before_marks(text: str, cut: int) -> int:
    """The cut, or else the index of the letter whose marks stand there: the splitter finds words of
    Chinese and Japanese by a dictionary, which does not know letters with marks of their own.
    """
    index = cut
    while 0 < index < len(text) and unicodedata.category(text[index]).startswith("M"):
        index -= 1
        if cut - index > _MARKS_MAX:
            return cut
    return index
