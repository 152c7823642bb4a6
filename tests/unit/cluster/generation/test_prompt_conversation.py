"""A conversation with the plain model fits, and is never cut in silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ContextLengthExceeded
from cluster.generation.generator import ChatMessage
from cluster.generation.prompt import Truncated, Truncation, fit_conversation
from tests.support.fakes import FakeTokenizer
from tests.support.values.conversations import (
    CountingTokenizer,
    messages,
    room_for,
    said,
    tokenizers,
    turn,
)

TOKENIZER = FakeTokenizer()


@given(
    conversation=st.lists(messages, min_size=1, max_size=6),
    tokenizer=tokenizers,
    size=st.integers(0, 300),
    truncation=st.sampled_from(Truncation),
)
def test_a_conversation_fits_and_is_whole_or_says_what_it_lacks(
    conversation: list[ChatMessage], tokenizer: FakeTokenizer, size: int, truncation: Truncation
) -> None:
    *history, last = conversation
    must_stay = (
        conversation
        if truncation is Truncation.DISABLED
        else [*(m for m in history if m.role == "system"), last]
    )
    try:
        fitted = fit_conversation(conversation, tokenizer, room_for(size), truncation)
    except ContextLengthExceeded:
        assert tokenizer.count(tuple(must_stay)) > size
        return
    assert tokenizer.count(fitted.messages) <= size
    assert fitted.num_passages == 0
    assert fitted.messages[-1] == last
    systems = [m for m in history if m.role == "system"]
    assert [m for m in fitted.messages[:-1] if m.role == "system"] == systems
    turns = [m for m in history if m.role != "system"]
    kept = [m for m in fitted.messages[:-1] if m.role != "system"]
    assert kept == turns[len(turns) - len(kept) :]
    missing = len(turns) - len(kept)
    assert fitted.truncated == (Truncated(history_messages=missing) if missing else None)


def test_by_default_nothing_is_cut() -> None:
    long = turn("w" * 100)
    whole = TOKENIZER.count((long,))
    with pytest.raises(ContextLengthExceeded) as caught:
        fit_conversation([long], TOKENIZER, room_for(whole - 1), Truncation.DISABLED)
    assert caught.value.field == "messages"
    assert f"take {whole} tokens" in caught.value.message
    fitted = fit_conversation([long], TOKENIZER, room_for(whole), Truncation.DISABLED)
    assert fitted.messages == (long,)
    with pytest.raises(ContextLengthExceeded, match="last message"):
        fit_conversation([long], TOKENIZER, room_for(whole - 1), Truncation.AUTO)


def test_if_asked_it_loses_its_oldest_turns_and_keeps_its_system_messages() -> None:
    system, later = said("system", "be brief"), said("system", "be kind")
    turns = [turn("1" * 20), turn("2" * 20), later, turn("3" * 20)]
    whole = TOKENIZER.count((system, *turns))
    for less, lacking in ((0, 0), (1, 1), (23, 1), (24, 2)):
        fitted = fit_conversation(
            [system, *turns], TOKENIZER, room_for(whole - less), Truncation.AUTO
        )
        left = [m for m in turns if m.role == "system" or m.content[0] > str(lacking)]
        assert fitted.messages == (system, *left)
        assert fitted.truncated == (Truncated(history_messages=lacking) if lacking else None)


def test_only_as_much_as_fits_is_tokenized_a_few_times_over() -> None:
    tokenizer = CountingTokenizer()
    turns = [turn("y" * 1000)] * 256
    assert fit_conversation(turns, tokenizer, room_for(2000), Truncation.AUTO).truncated
    assert tokenizer.counted < 30 * 2000
