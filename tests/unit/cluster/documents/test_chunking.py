from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from actors.models.starter_models import starter_embedder_folder
from cluster.documents.chunking import Chunker
from cluster.embedding.tokenizer import EmbedderTokenizer

CHINESE = "本公司历史悠久，产品种类繁多。客户遍布各地，员工认真负责！服务周到细致"
FAMILY = "👩\u200d👩\u200d👧"
UNITS = ["word ", "Word. ", "ab", "é", "e\u0301", "中", "。", "\n", "\n\n", "# ", "- ", "```\n"]
UNITS += ["> ", "| ", "한", "\u1112\u1161\u11ab", "🇫🇷", FAMILY, "\u200b", "\t", "x1", "$", "    "]
TEXTS = st.one_of(
    st.lists(st.sampled_from(UNITS), max_size=250).map("".join), st.text(max_size=200)
)
GRAPHEME = regex.compile(r"\X")


class Characters:
    """Counts a token for each character."""

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]


@pytest.fixture(scope="module")
def tokenizer() -> EmbedderTokenizer:
    return EmbedderTokenizer.of_folder(starter_embedder_folder())


def assert_all_is_there(text: str, chunker: Chunker) -> None:
    covered = bytearray(len(text))
    for start, end in chunker.spans(text):
        covered[start:end] = b"\1" * (end - start)
    assert all(covered[i] or text[i].isspace() for i in range(len(text)))


@given(text=TEXTS, tokens_max=st.integers(32, 60), overlap=st.integers(0, 16))
@example(text="e\u0301" * 100, tokens_max=33, overlap=16)
@example(text="中" * 200, tokens_max=32, overlap=3)
@example(text="a\n" * 100, tokens_max=32, overlap=0)
@example(text="中" + "\u0301" * 500, tokens_max=32, overlap=3)
@example(text="中" + "\u0301" * 25 + "文" * 40, tokens_max=32, overlap=3)
def test_nothing_is_lost_and_no_passage_is_too_long(
    tokenizer: EmbedderTokenizer, text: str, tokens_max: int, overlap: int
) -> None:
    for counter in (tokenizer, Characters()):
        chunker = Chunker(counter, tokens_max, overlap)
        assert_all_is_there(text, chunker)
        chunks = chunker.chunks(text)
        assert all(chunk.strip() for chunk in chunks)
        assert max(counter.count(chunks), default=0) <= tokens_max
        assert chunks == Chunker(counter, tokens_max, overlap).chunks(text)


LETTERS = ["a", "中", "中\u0301", "て\u3099", "e\u0301", "🇫🇷", FAMILY, "한"]
DECOMPOSED = unicodedata.normalize("NFD", "日本語の文書が検索できます")


@given(text=st.lists(st.sampled_from(LETTERS)).map("".join))
@example(text=DECOMPOSED * 20)
@example(text=FAMILY * 60)
@example(text="🇫🇷" * 100)
def test_no_grapheme_is_cut(text: str) -> None:
    edges = {0, *(match.end() for match in GRAPHEME.finditer(text))}
    for start, end in Chunker(Characters(), 32, 4).spans(text):
        assert {start, end} <= edges


@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000"])
def test_a_blank_text_has_no_passages(text: str) -> None:
    assert Chunker(Characters(), 32, 0).chunks(text) == []


def test_a_text_that_fits_is_one_passage_without_space_around_it() -> None:
    text = "  Paris is the capital.\n\nIt is old. \n"
    assert Chunker(Characters(), 40, 4).chunks(text) == [text.strip()]


def test_paragraphs_are_kept_before_sentences_and_sentences_before_words() -> None:
    chunker = Chunker(Characters(), 40, 0)
    first, second = "Rome is old. It has hills.", "Oslo is new. It has a fjord."
    assert chunker.chunks(f"{first}\n\n{second}") == [first, second]
    assert chunker.chunks("Rome is an old city. Oslo is newer than that.") == [
        "Rome is an old city.",
        "Oslo is newer than that.",
    ]
    capitals = [f"{name}是它的国家的首都，也很大。" for name in ("巴黎", "柏林", "罗马", "雅典")]
    pairs = ["".join(capitals[:2]), "".join(capitals[2:])]
    assert chunker.chunks("".join(capitals)) == pairs


def test_a_heading_stays_with_what_it_leads() -> None:
    section = "A sentence of some length. " * 4
    text = f"# Title\n\n## One\n\n{section}\n\n## Two\n\n{section}"
    chunks = Chunker(Characters(), 140, 0).chunks(text)
    assert chunks == [f"# Title\n\n## One\n\n{section.strip()}", f"## Two\n\n{section.strip()}"]


def test_a_block_of_code_stays_whole_where_it_fits() -> None:
    code = "```bash\n# not a heading\n\nmake all\n\nmake install\n```"
    sentences = "A sentence before the code. " * 5
    text = f"# Build\n\n{sentences}\n\n{code}\n\n{sentences}"
    chunks = Chunker(Characters(), 160, 0).chunks(text)
    assert len(chunks) > 2
    assert any(code in chunk for chunk in chunks)


def test_neighbours_share_whole_sentences() -> None:
    text = " ".join(f"Sentence number {n} is here." for n in range(40))
    found = Chunker(Characters(), 200, 40).spans(text)
    shared = [text[start:end] for (_, end), (start, _) in pairwise(found)]
    assert all(re.fullmatch(r"Sentence number \d+ is here\.", part) for part in shared)


def test_what_stands_last_in_a_long_text_is_in_a_passage_that_the_embedder_reads(
    tokenizer: EmbedderTokenizer,
) -> None:
    tail = "紧急联系电话是八八六五四三二一"
    chunks = Chunker(tokenizer, tokenizer.tokens_max, 25).chunks(CHINESE * 30 + tail)
    assert chunks[-1].endswith(tail)
    assert max(tokenizer.count(chunks)) <= tokenizer.tokens_max


@pytest.mark.parametrize("unit", ["a1b2c3d4e5", "word ", "中", "`", "> ", "[", "x\n", "| a "])
def test_a_hostile_text_is_cut_all_the_same(tokenizer: EmbedderTokenizer, unit: str) -> None:
    text = unit * (20_000 // len(unit))
    chunks = Chunker(tokenizer, tokenizer.tokens_max, 25).chunks(text)
    assert max(tokenizer.count(chunks)) <= tokenizer.tokens_max
    assert sum(map(len, chunks)) >= len(text.strip())
    assert len(chunks) < 400
