from __future__ import annotations

import json
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.models.starter_models import starter_embedder_folder
from cluster.embedding.tokenizer import TOKENIZER_FILES, EmbedderTokenizer
from cluster.errors import InvalidArgument

FOLDER = starter_embedder_folder()
FILES = {name: (FOLDER / name).read_bytes() for name in TOKENIZER_FILES}
TOKENIZER = EmbedderTokenizer.of_folder(FOLDER)


def test_the_model_reads_what_its_own_files_say() -> None:
    assert TOKENIZER.tokens_max == 254, "256 without the two special tokens"
    without = {name: FILES[name] for name in FILES if name != "sentence_bert_config.json"}
    assert EmbedderTokenizer.of_files(without, "m").tokens_max == 510
    unlimited = {**without, "tokenizer_config.json": b'{"model_max_length": 1e30}'}
    assert EmbedderTokenizer.of_files(unlimited, "m").tokens_max == 510
    short = {**FILES, "sentence_bert_config.json": json.dumps({"max_seq_length": 128}).encode()}
    assert EmbedderTokenizer.of_files(short, "m").tokens_max == 126


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tokenizer.json": None}, "no sentence encoder with a tokenizer.json"),
        ({"tokenizer.json": b"{}"}, "the tokenizer.json of m cannot be read"),
        ({"tokenizer.json": b"\xff"}, "the tokenizer.json of m cannot be read"),
        ({"config.json": b"{"}, "the config.json of m is not JSON"),
        ({name: b"{}" for name in FILES if name != "tokenizer.json"}, "how many tokens it reads"),
        (
            {
                **{name: b"{}" for name in FILES if name != "tokenizer.json"},
                "tokenizer_config.json": b'{"model_max_length": 1000000000000000019884624838656}',
            },
            "how many tokens it reads",
        ),
        ({"sentence_bert_config.json": b'{"max_seq_length": 2}'}, "no more than 2 tokens"),
    ],
)
def test_what_is_no_tokenizer_is_refused(changed: dict[str, bytes | None], said: str) -> None:
    files = {name: data for name, data in {**FILES, **changed}.items() if data is not None}
    with pytest.raises(InvalidArgument, match=said) as caught:
        EmbedderTokenizer.of_files(files, "m")
    assert caught.value.field == "embedder"


def test_counts_leave_the_special_tokens_out_and_are_not_cut() -> None:
    assert TOKENIZER.count(["", "Paris is old.", "word " * 1000]) == [0, 4, 1000]
    assert TOKENIZER.count([]) == TOKENIZER.windows([]) == []


def test_a_word_of_any_length_is_read() -> None:
    word = "a1b2c3d4e5" * 30
    assert TOKENIZER.count([word])[0] > 100
    assert TOKENIZER.count([word[:90]])[0] > 30


@given(text=st.text(alphabet="ab \n中x1é", max_size=3000))
def test_windows_are_all_of_a_text(text: str) -> None:
    (count,) = TOKENIZER.count([text])
    (windows,) = TOKENIZER.windows([text])
    first, last = windows[0][0], windows[0][-1]
    inner = [window[1:-1] for window in windows]
    assert all(window[0] == first and window[-1] == last for window in windows)
    assert all(len(window) <= TOKENIZER.tokens_max for window in inner)
    shared = int(TOKENIZER.tokens_max / 8)
    assert sum(map(len, inner)) - shared * (len(inner) - 1) == count
    for window, after in pairwise(inner):
        assert window[-shared:] == after[:shared]


def test_it_travels_to_tasks() -> None:
    again = pickle.loads(pickle.dumps(TOKENIZER))
    assert again.windows(["word " * 400]) == TOKENIZER.windows(["word " * 400])
    assert again.count(["word"]) == [1]
