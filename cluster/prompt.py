"""From a question and the passages found for it to the messages that the generator reads.

The prompt is part of a release. It is cut to the model's length by tokens: whole passages are
dropped from the weakest end first, then the last one that stays is shortened, then the question; a
prompt never fails for its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import model_validator

from cluster.errors import InvalidArgument
from cluster.generation import ChatMessage, PromptTokenizer
from cluster.records import Record

_PASSAGE_TOKENS_MIN = 16
"""A passage cut shorter than this says nothing; it is left out."""


class PromptTemplate(Record):
    """How passages and question become messages. `{passages}` and `{question}` are filled in."""

    # In this order, and this short, the starter model answers plain questions best. Asked to name
    # its passages, or with the instruction before them, it makes more mistakes.
    system: str = "You are a helpful assistant."
    passage: str = "[{number}] {text}"
    user: str = (
        "{passages}\n\nUsing only the passages above, answer in one short sentence: {question}"
    )

    @model_validator(mode="after")
    def _check_placeholders(self) -> Self:
        try:
            self.passage.format(number=1, text="")
            self.user.format(passages="", question="")
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(f"not a template: {error!r} (a literal brace is doubled)") from error
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPrompt:
    messages: tuple[ChatMessage, ...]
    num_passages: int
    """How many of the passages, from the best on, stand in the prompt."""
    prompt_tokens: int


def build_prompt(
    *,
    template: PromptTemplate,
    question: str,
    passages: Sequence[str],
    tokenizer: PromptTokenizer,
    prompt_tokens_max: int,
    history: Sequence[ChatMessage] = (),
) -> BuiltPrompt:
    """Fits the passages (best first) and the question into `prompt_tokens_max` tokens.

    `history` holds the earlier turns of a conversation; the oldest are dropped first. Raises
    InvalidArgument only when the model is too small for the template itself.
    """
    turns = list(history)

    def messages_for(texts: Sequence[str], asked: str) -> tuple[ChatMessage, ...]:
        numbered = [template.passage.format(number=i, text=text) for i, text in enumerate(texts, 1)]
        user = template.user.format(passages="\n".join(numbered), question=asked)
        system = ChatMessage(role="system", content=template.system)
        return (system, *turns, ChatMessage(role="user", content=user))

    def excess(texts: Sequence[str], asked: str) -> int:
        return tokenizer.count(messages_for(texts, asked)) - prompt_tokens_max

    while turns and excess((), question) > 0:
        turns.pop(0)
    asked = _longest_fitting(question, lambda text: excess((), text), tokenizer)
    texts = _fitting_passages(passages, lambda kept: excess(kept, asked), tokenizer)
    messages = messages_for(texts, asked)
    return BuiltPrompt(
        messages=messages, num_passages=len(texts), prompt_tokens=tokenizer.count(messages)
    )


def fit_conversation(
    messages: Sequence[ChatMessage], tokenizer: PromptTokenizer, prompt_tokens_max: int
) -> tuple[ChatMessage, ...]:
    """The conversation, cut to `prompt_tokens_max` tokens for a generator without retrieval.

    The oldest turns go first (a leading system message stays), then the last message is shortened.
    """
    opening = [m for m in messages[:1] if m.role == "system" and len(messages) > 1]
    turns = list(messages[len(opening) :])

    def excess(kept: Sequence[ChatMessage]) -> int:
        return tokenizer.count((*opening, *kept)) - prompt_tokens_max

    while len(turns) > 1 and excess(turns) > 0:
        turns.pop(0)
    if not turns:
        return ()
    role = turns[-1].role
    text = _longest_fitting(
        turns[-1].content, lambda t: excess((ChatMessage(role=role, content=t),)), tokenizer
    )
    return (*opening, *turns[:-1], ChatMessage(role=role, content=text))


def _fitting_passages(
    passages: Sequence[str],
    excess: Callable[[Sequence[str]], int],
    tokenizer: PromptTokenizer,
) -> list[str]:
    kept = list(passages)
    while kept and excess(kept) > 0:
        last = kept.pop()
        if excess((*kept, "")) <= -_PASSAGE_TOKENS_MIN:
            shortened = _longest_fitting(last, lambda text: excess((*kept, text)), tokenizer)
            return [*kept, shortened] if shortened else kept
    return kept


def _longest_fitting(text: str, excess: Callable[[str], int], tokenizer: PromptTokenizer) -> str:
    """The longest beginning of `text` with `excess(beginning) <= 0`."""
    if excess(text) <= 0:
        return text
    room = -excess("")
    if room < 0:
        raise InvalidArgument(
            f"the prompt template exceeds the model's context by {-room} tokens; "
            "use a model with a longer context or a shorter template"
        )
    while room > 0:
        shortened = tokenizer.truncate(text, room)
        # At its seams a text may take other tokens than it takes alone: try again with less.
        if (over := excess(shortened)) <= 0:
            return shortened
        room -= over
    return ""
