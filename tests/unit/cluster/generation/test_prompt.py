"""Prompts fit whatever comes in, keep their evidence, and tell what they lack."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.errors import ContextLengthExceeded
from cluster.generation.generator import ChatMessage
from cluster.generation.prompt import (
    BuiltPrompt,
    PromptTemplate,
    TokenBudget,
    Truncated,
    Truncation,
    build_prompt,
)
from tests.support.fakes import FakeTokenizer
from tests.support.values.conversations import (
    CountingTokenizer,
    messages,
    room_for,
    said,
    texts,
    tokenizers,
    turn,
)

SHORT = PromptTemplate(system="S", passage="[{number}] {text}", user="{passages}\nQ: {question}")
TOKENIZER = FakeTokenizer()
ROOMY = 10_000


templates = st.builds(
    PromptTemplate,
    system=st.text(max_size=20),
    passage=st.sampled_from(["{text}", "[{number}] {text}", "x" * 40 + "{text}", "{{}}{text}"]),
    user=st.sampled_from(["{passages}{question}", "Passages:\n{passages}\nQuestion: {question}"]),
)
asked = st.fixed_dictionaries(
    {
        "template": templates,
        "question": texts,
        "passages": st.lists(texts, max_size=6),
        "history": st.lists(messages, max_size=8),
        "tokenizer": tokenizers,
    }
)
prompt_sizes = st.integers(0, 500)


def build(
    question: str = "why?",
    passages: tuple[str, ...] = (),
    tokens_max: int = ROOMY,
    history: tuple[ChatMessage, ...] = (),
    truncation: Truncation = Truncation.AUTO,
) -> BuiltPrompt:
    return build_prompt(
        template=SHORT,
        question=question,
        passages=passages,
        tokenizer=TOKENIZER,
        budget=room_for(tokens_max),
        history=history,
        truncation=truncation,
    )


def tokens(prompt: BuiltPrompt) -> int:
    return TOKENIZER.count(prompt.messages)


def passages_of(asked: dict[str, Any], prompt: BuiltPrompt) -> list[str]:
    """The passages as they stand in the prompt: whole ones, and the beginning of the last one."""
    template: PromptTemplate = asked["template"]
    whole = asked["passages"][: prompt.num_passages]
    ends = range(len(whole[-1]), -1, -1) if whole else [0]
    for end in ends:
        shown = [*whole[:-1], *(text[:end] for text in whole[-1:])]
        numbered = [template.passage.format(number=i, text=t) for i, t in enumerate(shown, 1)]
        user = template.user.format(passages="\n".join(numbered), question=asked["question"])
        if prompt.messages[-1].content == user:
            return shown
    raise AssertionError(f"these are not the passages: {prompt.messages[-1].content!r}")


@given(asked=asked, size=prompt_sizes)
def test_a_prompt_fits_and_is_whole_or_says_what_it_lacks(asked: dict[str, Any], size: int) -> None:
    try:
        prompt = build_prompt(**asked, budget=room_for(size))
    except ContextLengthExceeded:
        assume(False)
    assert asked["tokenizer"].count(prompt.messages) <= size
    assert build_prompt(**asked, budget=room_for(size)) == prompt

    opening, *kept, last = prompt.messages
    turns = [m for m in asked["history"] if m.role != "system"]
    systems = [m.content for m in asked["history"] if m.role == "system"]
    assert opening == said("system", "\n\n".join([asked["template"].system, *systems]))
    assert kept == turns[len(turns) - len(kept) :]
    assert len(kept) in (0, len(turns)) or kept[0].role == "user"
    assert last.role == "user"
    shown = passages_of(asked, prompt)
    assert shown or not asked["passages"]

    lacking = Truncated(
        history_messages=len(turns) - len(kept),
        passages=len(asked["passages"]) - len(shown),
        passages_shortened=int(shown != asked["passages"][: len(shown)]),
    )
    assert prompt.truncated == (None if lacking == Truncated() else lacking)


@given(asked=asked, size=prompt_sizes)
def test_only_what_must_stay_is_too_long(asked: dict[str, Any], size: int) -> None:
    least = {
        **asked,
        "passages": [],
        "history": [m for m in asked["history"] if m.role == "system"],
    }
    bare = asked["tokenizer"].count(build_prompt(**least, budget=room_for(ROOMY)).messages)
    try:
        build_prompt(**asked, budget=room_for(size))
    except ContextLengthExceeded:
        label = len(asked["template"].passage)
        # At most a label, a piece of a passage and some seams are missing.
        assert bare > size or (asked["passages"] and bare + label + 16 + 4 > size)
    else:
        assert bare <= size


@given(asked=asked, size=prompt_sizes)
def test_neither_passages_nor_history_are_crowded_out(asked: dict[str, Any], size: int) -> None:
    """Each gets what it would get alone in half of the room, whatever the other one needs."""
    least = {
        **asked,
        "passages": [],
        "history": [m for m in asked["history"] if m.role == "system"],
    }
    bare = asked["tokenizer"].count(build_prompt(**least, budget=room_for(ROOMY)).messages)
    try:
        both = build_prompt(**asked, budget=room_for(size))
        half_for_passages = build_prompt(
            **{**asked, "history": least["history"]}, budget=room_for((bare + size + 1) // 2)
        )
    except ContextLengthExceeded:
        # Half of the room is too little for a passage.
        assume(False)
    lengths = [sum(map(len, passages_of(asked, prompt))) for prompt in (both, half_for_passages)]
    assert lengths[0] >= lengths[1]
    seams = 2 * (len(asked["passages"]) + 1)
    half_for_history = build_prompt(
        **{**asked, "passages": []}, budget=room_for(max(bare, (bare + size) // 2 - seams))
    )
    assert len(both.messages) >= len(half_for_history.messages)


@given(asked=asked, size=prompt_sizes)
def test_where_nothing_may_be_cut_all_of_it_stands_there_or_nothing(
    asked: dict[str, Any], size: int
) -> None:
    try:
        cut = build_prompt(**asked, budget=room_for(size)).truncated is not None
    except ContextLengthExceeded:
        cut = True
    disabled = {**asked, "budget": room_for(size), "truncation": Truncation.DISABLED}
    if cut:
        with pytest.raises(ContextLengthExceeded, match="maximum context length"):
            build_prompt(**disabled)
    else:
        assert build_prompt(**disabled) == build_prompt(**asked, budget=room_for(size))


def test_everything_is_kept_while_it_fits() -> None:
    prompt = build("why?", ("first", "second"), history=(turn("before"),))
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "S"),
        ("user", "before"),
        ("user", "[1] first\n[2] second\nQ: why?"),
    ]
    assert prompt.num_passages == 2
    assert prompt.truncated is None


def test_system_messages_follow_the_templates_own_text() -> None:
    history = (said("system", "Be brief."), turn("before"), said("system", "Speak Spanish."))
    prompt = build("why?", ("first",), history=history)
    assert prompt.messages[0] == said("system", "S\n\nBe brief.\n\nSpeak Spanish.")
    assert prompt.messages[1] == turn("before")
    assert len(prompt.messages) == 3


def test_the_weakest_passages_go_first_and_the_last_that_stays_is_shortened() -> None:
    passages = ("a" * 50, "b" * 50, "c" * 50)
    whole = build("why?", passages)
    least = len("[1] ") + 16
    kept = []
    for tokens_max in range(tokens(whole), tokens(build("why?")) + least - 1, -1):
        prompt = build("why?", passages, tokens_max)
        text = prompt.messages[-1].content
        assert text.endswith("Q: why?")
        lengths = [text.count(letter) for letter in "abc"]
        # Whole passages, then at most one that is cut, then none.
        partial = [n for n in lengths if 0 < n < 50]
        assert lengths == sorted(lengths, reverse=True)
        assert len(partial) <= 1
        assert prompt.num_passages == sum(n > 0 for n in lengths)
        kept.append(prompt.num_passages)
    assert kept == sorted(kept, reverse=True)
    assert set(kept) == {1, 2, 3}


def test_a_passage_too_short_to_say_anything_is_left_out() -> None:
    passages = ("a" * 20, "b" * 100)
    first = tokens(build("why?", passages[:1]))
    room_for_label = len("\n[2] ")
    assert build("why?", passages, first + room_for_label + 15).truncated == Truncated(passages=1)
    shortened = build("why?", passages, first + room_for_label + 16)
    assert shortened.truncated == Truncated(passages_shortened=1)


def test_a_history_that_is_longer_than_the_prompt_leaves_the_passages_whole() -> None:
    history = tuple(said(role, f"{i} " * 20) for i in range(90) for role in ("user", "assistant"))
    bare = tokens(build("why?"))
    passages = ("a" * 100, "b" * 100)
    prompt = build("why?", passages, bare + 500, history)
    assert prompt.num_passages == 2
    assert prompt.truncated is not None
    kept = len(prompt.messages) - 2
    assert kept > 0
    assert prompt.truncated == Truncated(history_messages=len(history) - kept)


def test_what_one_does_not_need_the_other_one_has() -> None:
    bare = tokens(build("why?"))
    long, brief = "x" * 1000, "y" * 30
    prompt = build("why?", (long,), bare + 200, (turn(brief),))
    assert prompt.messages[1] == turn(brief)
    assert prompt.messages[-1].content.count("x") > 150
    prompt = build("why?", (brief,), bare + 200, tuple(turn("z" * 20) for _ in range(50)))
    assert "[1] " + brief in prompt.messages[-1].content
    assert len(prompt.messages) - 2 == (200 - len("[1] ") - 30) // (20 + TOKENIZER.overhead)


def test_a_piece_of_a_passage_may_take_more_than_half() -> None:
    bare = tokens(build("why?"))
    prompt = build("why?", ("a" * 100,), bare + 25, (turn("before"),))
    assert prompt.num_passages == 1
    assert prompt.truncated == Truncated(history_messages=1, passages_shortened=1)
    with pytest.raises(ContextLengthExceeded, match="no room for a passage"):
        build("why?", ("a" * 100,), bare + 15, (turn("before"),))


def test_the_oldest_turns_go_first() -> None:
    history = (turn("1" * 30), turn("2" * 30), turn("3" * 30))
    bare = tokens(build("why?"))
    for room, left in [(0, ""), (32, ""), (33, "3"), (65, "3"), (66, "23"), (99, "123")]:
        prompt = build("why?", tokens_max=bare + room, history=history)
        assert "".join(m.content[0] for m in prompt.messages[1:-1]) == left
        assert prompt.messages[-1].content.endswith("why?")


def test_a_history_that_lost_messages_does_not_begin_with_an_answer() -> None:
    history = tuple(said(role, "x" * 30) for _ in range(3) for role in ("user", "assistant"))
    bare = tokens(build("why?"))
    kept = [build("why?", (), bare + 33 * n, history).messages[1:-1] for n in range(7)]
    assert list(map(len, kept)) == [0, 0, 2, 2, 4, 4, 6]


def test_the_question_is_never_cut() -> None:
    bare = tokens(build(""))
    with pytest.raises(ContextLengthExceeded) as caught:
        build("w" * 100, ("passage",), bare + 10)
    assert caught.value.field == "question"
    assert f"take {bare + 100} tokens" in caught.value.message
    assert f"maximum context length is {bare + 20} tokens" in caught.value.message
    assert f"{bare + 10} are left for the prompt" in caught.value.message


def test_a_text_that_is_surely_too_long_is_not_tokenized() -> None:
    class Refusing(FakeTokenizer):
        def count(self, messages: tuple[ChatMessage, ...]) -> int:
            raise AssertionError("this takes too long")

    with pytest.raises(ContextLengthExceeded, match="take at least 50"):
        build_prompt(
            template=SHORT,
            question="w" * 1600,
            passages=(),
            tokenizer=Refusing(chars_per_token=4),
            budget=room_for(49),
        )


def test_braces_in_passages_and_questions_are_text() -> None:
    prompt = build("{question} {0}", ("{text} {",))
    assert prompt.messages[-1].content == "[1] {text} {\nQ: {question} {0}"


@pytest.mark.parametrize(
    "fields",
    [{"passage": "{txt}"}, {"passage": "{}"}, {"user": "{question"}, {"user": "{question.no}"}],
)
def test_a_template_with_a_wrong_placeholder_is_refused_when_it_is_made(
    fields: dict[str, str],
) -> None:
    with pytest.raises(ValidationError, match="template"):
        PromptTemplate(**fields)


@pytest.mark.parametrize(
    ("context", "wanted", "prompt"), [(2048, 128, 1920), (2048, 5000, 1024), (101, 100, 51)]
)
def test_the_prompt_has_at_least_half_of_the_context(
    context: int, wanted: int, prompt: int
) -> None:
    budget = TokenBudget.for_answer(context, wanted)
    assert budget.prompt == prompt
    assert budget.prompt + budget.answer == context


@pytest.mark.parametrize(
    ("wanted", "prompt_tokens", "longest"),
    [
        # As long as wanted, but for what the prompt leaves of the context.
        (100, 36, 100),
        (1900, 36, 1900),
        (1900, 148, 1900),
        (1900, 149, 1899),
        (32_768, 36, 2012),
        (32_768, 1024, 1024),
    ],
)
def test_an_answer_may_have_what_the_prompt_leaves(
    wanted: int, prompt_tokens: int, longest: int
) -> None:
    budget = TokenBudget.for_answer(2048, wanted)
    assert prompt_tokens <= budget.prompt
    assert budget.beside(prompt_tokens, wanted) == longest


@pytest.mark.parametrize("num_passages", [10, 100, 1000])
def test_no_more_is_tokenized_than_a_few_times_what_fits(num_passages: int) -> None:
    tokenizer = CountingTokenizer()
    prompt = build_prompt(
        template=SHORT,
        question="why?",
        passages=["x" * 1000] * num_passages,
        tokenizer=tokenizer,
        budget=room_for(2000),
        history=[turn("y" * 1000)] * 256,
    )
    assert 0 < prompt.num_passages < num_passages
    assert tokenizer.counted < 60 * 2000


def test_a_prompt_that_fits_whole_is_tokenized_once() -> None:
    tokenizer = CountingTokenizer()
    prompt = build_prompt(
        template=SHORT,
        question="why?",
        passages=["x" * 100] * 3,
        tokenizer=tokenizer,
        budget=room_for(2000),
    )
    assert prompt.num_passages == 3
    whole = FakeTokenizer().count(prompt.messages)
    assert tokenizer.counted < 1.5 * whole, "once, and once more without its passages"
