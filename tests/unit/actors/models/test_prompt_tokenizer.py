"""Counting and cutting by the tokens of a small tokenizer made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from actors.models.prompt_tokenizer import FolderTokenizer
from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
HELLO = (ChatMessage(role="user", content="hello world"),)


def save_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, the quick brown fox\n\n    "] * 20, trainer)
    # What a folder may bring along, and must not change the counts.
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[FolderTokenizer, Tokenizer]:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = save_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return FolderTokenizer(folder), tokenizer


def test_it_counts_the_prompt_that_the_template_makes(
    saved: tuple[FolderTokenizer, Tokenizer],
) -> None:
    counting, tokenizer = saved
    prompt = "<s>user: hello world</s><s>assistant: "
    expected = len(tokenizer.encode(prompt, add_special_tokens=False).ids)
    assert counting.count(HELLO) == expected
    assert expected > 5


@given(text=st.text(alphabet="helo wrd\n é日🙂<s>/"), tokens_max=st.integers(-1, 40))
def test_a_cut_text_fits_and_is_a_beginning(
    saved: tuple[FolderTokenizer, Tokenizer], text: str, tokens_max: int
) -> None:
    counting, tokenizer = saved
    cut = counting.truncate(text, tokens_max)
    assert text.startswith(cut)
    tokens = len(tokenizer.encode(cut, add_special_tokens=False).ids)
    assert tokens <= max(0, tokens_max)
    whole = len(tokenizer.encode(text, add_special_tokens=False).ids)
    if whole <= tokens_max:
        assert cut == text


@pytest.mark.parametrize(
    "settings",
    [
        {"chat_template": TEMPLATE},
        {
            "chat_template": [
                {"name": "tool_use", "template": "other"},
                {"name": "default", "template": TEMPLATE},
            ]
        },
        {
            "bos_token": {"content": "<s>"},
            "eos_token": "</s>",
            "chat_template": TEMPLATE.replace("<s>", "{{ bos_token }}").replace(
                "</s>", "{% generation %}{{ eos_token }}{% endgeneration %}"
            ),
        },
    ],
)
def test_the_template_may_stand_in_the_tokenizers_settings(
    saved: tuple[FolderTokenizer, Tokenizer], tmp_path: Path, settings: dict[str, object]
) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert FolderTokenizer(tmp_path).count(HELLO) == saved[0].count(HELLO)


def test_what_the_template_refuses_is_the_callers_mistake(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system messages') }}")
    with pytest.raises(InvalidArgument, match="no system messages") as caught:
        FolderTokenizer(tmp_path).count(HELLO)
    assert caught.value.field == "messages"


@pytest.mark.parametrize("template", [None, "{% for %}"])
def test_a_folder_without_a_usable_template_is_refused(
    tmp_path: Path, template: str | None
) -> None:
    save_tokenizer(tmp_path)
    if template:
        (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(InvalidArgument, match="chat template"):
        FolderTokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json"):
        FolderTokenizer(tmp_path)
