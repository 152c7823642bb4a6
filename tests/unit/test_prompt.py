"""Prompts fit whatever comes in, and lose the least useful first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.errors import InvalidArgument
from cluster.generation import ChatMessage
from cluster.prompt import BuiltPrompt, PromptTemplate, build_prompt, fit_conversation
from tests.fakes import FakeTokenizer

SHORT = PromptTemplate(system="S", passage="[{number}] {text}", user="{passages}\nQ: {question}")
TOKENIZER = FakeTokenizer()
ROOMY = 10_000

texts = st.text(max_size=80)
messages = st.builds(ChatMessage, role=st.sampled_from(["user", "assistant"]), content=texts)
tokenizers = st.builds(FakeTokenizer, chars_per_token=st.integers(1, 6), overhead=st.integers(0, 9))
templates = st.builds(
    PromptTemplate,
    system=st.text(max_size=20),
    passage=st.sampled_from(["{text}", "[{number}] {text}", "x" * 40 + "{text}", "{{}}{text}"]),
    user=st.sampled_from(["{passages}{question}", "Passages:\n{passages}\nQuestion: {question}"]),
)


def build(
    question: str = "why?",
    passages: tuple[str, ...] = (),
    tokens_max: int = ROOMY,
    history: tuple[ChatMessage, ...] = (),
) -> BuiltPrompt:
    return build_prompt(
        template=SHORT,
        question=question,
        passages=passages,
        tokenizer=TOKENIZER,
        prompt_tokens_max=tokens_max,
        history=history,
    )


def tokens(prompt: BuiltPrompt) -> int:
    return TOKENIZER.count(prompt.messages)


def turn(content: str) -> ChatMessage:
    return ChatMessage(role="user", content=content)


@given(
    template=templates,
    question=texts,
    passages=st.lists(texts, max_size=6),
    history=st.lists(messages, max_size=4),
    tokenizer=tokenizers,
    tokens_max=st.integers(0, 300),
)
def test_a_prompt_never_exceeds_its_bound(
    template: PromptTemplate,
    question: str,
    passages: list[str],
    history: list[ChatMessage],
    tokenizer: FakeTokenizer,
    tokens_max: int,
) -> None:
    def made(asked: str, found: list[str], turns: list[ChatMessage]) -> BuiltPrompt:
        return build_prompt(
            template=template,
            question=asked,
            passages=found,
            tokenizer=tokenizer,
            prompt_tokens_max=tokens_max,
            history=turns,
        )

    try:
        prompt = made(question, passages, history)
    except InvalidArgument:
        # Then not even the bare template fits: no input could have.
        with pytest.raises(InvalidArgument, match="template"):
            made("", [], [])
        return
    assert tokenizer.count(prompt.messages) <= tokens_max
    assert 0 <= prompt.num_passages <= len(passages)
    kept = list(prompt.messages[1:-1])
    assert kept == history[len(history) - len(kept) :]


def test_everything_is_kept_while_it_fits() -> None:
    prompt = build("why?", ("first", "second"), history=(turn("before"),))
    assert [m.content for m in prompt.messages] == [
        "S",
        "before",
        "[1] first\n[2] second\nQ: why?",
    ]
    assert [m.role for m in prompt.messages] == ["system", "user", "user"]
    assert prompt.num_passages == 2


def test_the_weakest_passages_go_first_and_the_last_that_stays_is_shortened() -> None:
    passages = ("a" * 50, "b" * 50, "c" * 50)
    whole = build("why?", passages)
    kept = []
    for tokens_max in range(tokens(whole), tokens(build("why?")) - 1, -1):
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
    assert set(kept) == {0, 1, 2, 3}


def test_a_passage_too_short_to_say_anything_is_left_out() -> None:
    bare = tokens(build("why?"))
    passages = ("a" * 100,)
    room_for_label = len("[1] ")
    assert build("why?", passages, bare + room_for_label + 15).num_passages == 0
    assert build("why?", passages, bare + room_for_label + 16).num_passages == 1


def test_the_oldest_turns_go_first_and_before_the_question() -> None:
    history = (turn("1" * 30), turn("2" * 30), turn("3" * 30))
    bare = tokens(build("why?"))
    for room, left in [(0, ""), (32, ""), (33, "3"), (65, "3"), (66, "23"), (99, "123")]:
        prompt = build("why?", tokens_max=bare + room, history=history)
        assert "".join(m.content[0] for m in prompt.messages[1:-1]) == left
        assert prompt.messages[-1].content.endswith("why?")


def test_the_question_is_cut_last_of_all() -> None:
    bare = tokens(build(""))
    prompt = build("w" * 100, ("passage",), bare + 10, (turn("before"),))
    assert prompt.num_passages == 0
    assert prompt.messages[-1].content == "\nQ: " + "w" * 10
    assert len(prompt.messages) == 2


def test_a_model_too_small_for_the_template_is_refused() -> None:
    bare = tokens(build(""))
    with pytest.raises(InvalidArgument, match="exceeds the model's context by 1 tokens"):
        build("why?", tokens_max=bare - 1)


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


class SeamTokenizer(FakeTokenizer):
    """Counts two more tokens for a text than it has alone, as real ones may at seams."""

    def count(self, messages: tuple[ChatMessage, ...]) -> int:
        return super().count(messages) + 2 * sum(bool(m.content) for m in messages)


def test_seams_that_cost_tokens_do_not_break_the_bound() -> None:
    for tokens_max in range(20, 120):
        prompt = build_prompt(
            template=SHORT,
            question="w" * 40,
            passages=["a" * 40, "b" * 40],
            tokenizer=SeamTokenizer(),
            prompt_tokens_max=tokens_max,
        )
        assert tokens(prompt) <= tokens_max


@given(
    conversation=st.lists(messages, max_size=5),
    system=st.none() | texts,
    tokenizer=tokenizers,
    tokens_max=st.integers(0, 200),
)
def test_a_conversation_never_exceeds_its_bound(
    conversation: list[ChatMessage],
    system: str | None,
    tokenizer: FakeTokenizer,
    tokens_max: int,
) -> None:
    opening = [] if system is None else [ChatMessage(role="system", content=system)]
    asked = [*opening, *conversation]
    try:
        fitted = fit_conversation(asked, tokenizer, tokens_max)
    except InvalidArgument:
        # Then even an empty last message is too much beside what must stay.
        last = ChatMessage(role="user", content="")
        must_stay = (*opening, last) if conversation else (last,)
        assert tokenizer.count(must_stay) > tokens_max
        return
    if not asked:
        assert fitted == ()
        return
    assert tokenizer.count(fitted) <= tokens_max
    assert asked[-1].content.startswith(fitted[-1].content)
    assert [m.role for m in fitted] == [m.role for m in asked[-1:]] or len(fitted) > 1
    if opening and conversation:
        assert fitted[0] == opening[0]


def test_a_conversation_loses_its_oldest_turns_and_keeps_its_system_message() -> None:
    system = ChatMessage(role="system", content="be brief")
    turns = [turn("1" * 20), turn("2" * 20), turn("3" * 20)]
    whole = TOKENIZER.count((system, *turns))
    fitted = fit_conversation([system, *turns], TOKENIZER, whole - 1)
    assert fitted == (system, *turns[1:])
    assert fit_conversation([system, *turns], TOKENIZER, whole) == (system, *turns)
    last_only = TOKENIZER.count((system, turn("3" * 5)))
    assert fit_conversation([system, *turns], TOKENIZER, last_only) == (system, turn("3" * 5))


def test_a_system_message_alone_is_cut_too() -> None:
    system = ChatMessage(role="system", content="s" * 50)
    (fitted,) = fit_conversation([system], TOKENIZER, 16)
    assert (fitted.role, fitted.content) == ("system", "s" * 10)


@given(
    passages=st.lists(st.text(max_size=40), max_size=40),
    history=st.lists(messages, max_size=40),
    tokens_max=st.integers(40, 400),
)
def test_as_many_passages_and_turns_stay_as_there_is_room_for(
    passages: list[str], history: list[ChatMessage], tokens_max: int
) -> None:
    prompt = build("why?", tuple(passages), tokens_max, tuple(history))
    turns = prompt.messages[1:-1]
    if len(turns) < len(history):
        one_more = build("why?", (), ROOMY, tuple(history[len(history) - len(turns) - 1 :]))
        assert TOKENIZER.count(one_more.messages) > tokens_max
    if prompt.num_passages < len(passages):
        one_more = build("why?", tuple(passages[: prompt.num_passages + 1]), ROOMY, turns)
        assert TOKENIZER.count(one_more.messages) > tokens_max


@pytest.mark.parametrize("num_passages", [10, 100, 1000])
def test_no_more_is_tokenized_than_a_few_times_what_fits(num_passages: int) -> None:
    class Counting(FakeTokenizer):
        counted = 0

        def count(self, messages: tuple[ChatMessage, ...]) -> int:
            tokens = super().count(messages)
            self.counted += tokens
            return tokens

    tokenizer = Counting()
    tokens_max = 2000
    passages = ["x" * 1000] * num_passages
    turns = [turn("y" * 1000)] * 256
    prompt = build_prompt(
        template=SHORT,
        question="why?",
        passages=passages,
        tokenizer=tokenizer,
        prompt_tokens_max=tokens_max,
    )
    assert 0 < prompt.num_passages < num_passages
    assert fit_conversation(turns, tokenizer, tokens_max)
    assert tokenizer.counted < 60 * tokens_max
