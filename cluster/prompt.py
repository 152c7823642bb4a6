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
_USUAL = 4
"""Passages, or turns, that mostly fit: tried first."""


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

    def newest(number: int) -> Sequence[ChatMessage]:
        return history[len(history) - number :]

    def messages_for(
        turns: Sequence[ChatMessage], texts: Sequence[str], asked: str
    ) -> tuple[ChatMessage, ...]:
        numbered = [template.passage.format(number=i, text=text) for i, text in enumerate(texts, 1)]
        user = template.user.format(passages="\n".join(numbered), question=asked)
        system = ChatMessage(role="system", content=template.system)
        return (system, *turns, ChatMessage(role="user", content=user))

    def excess(turns: Sequence[ChatMessage], texts: Sequence[str], asked: str) -> int:
        return tokenizer.count(messages_for(turns, texts, asked)) - prompt_tokens_max

    turns = newest(_most_that_fit(len(history), lambda n: excess(newest(n), (), question) <= 0))
    asked = _longest_fitting(question, lambda text: excess(turns, (), text), tokenizer)
    texts = _fitting_passages(passages, lambda kept: excess(turns, kept, asked), tokenizer)
    messages = messages_for(turns, texts, asked)
    return BuiltPrompt(messages=messages, num_passages=len(texts))


def fit_conversation(
    messages: Sequence[ChatMessage], tokenizer: PromptTokenizer, prompt_tokens_max: int
) -> tuple[ChatMessage, ...]:
    """The conversation, cut to `prompt_tokens_max` tokens for a generator without retrieval.

    The oldest turns go first (a leading system message stays), then the last message is shortened.
    """
    opening = [m for m in messages[:1] if m.role == "system" and len(messages) > 1]
    turns = messages[len(opening) :]

    def excess(kept: Sequence[ChatMessage]) -> int:
        return tokenizer.count((*opening, *kept)) - prompt_tokens_max

    if not turns:
        return ()
    *earlier, last = turns
    kept = _most_that_fit(len(earlier), lambda n: excess(turns[len(earlier) - n :]) <= 0)
    text = _longest_fitting(
        last.content, lambda t: excess((ChatMessage(role=last.role, content=t),)), tokenizer
    )
    shortened = ChatMessage(role=last.role, content=text)
    return (*opening, *earlier[len(earlier) - kept :], shortened)


def _fitting_passages(
    passages: Sequence[str],
    excess: Callable[[Sequence[str]], int],
    tokenizer: PromptTokenizer,
) -> list[str]:
    kept = list(passages[: _most_that_fit(len(passages), lambda n: excess(passages[:n]) <= 0)])
    if len(kept) == len(passages) or excess((*kept, "")) > -_PASSAGE_TOKENS_MIN:
        return kept
    last = passages[len(kept)]
    shortened = _longest_fitting(last, lambda text: excess((*kept, text)), tokenizer)
    return [*kept, shortened] if shortened else kept


def _most_that_fit(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, if more never fit where less do not; else 0.

    What is looked at is at most twice what fits, a few times over, however much there is: a prompt
    is made on the event loop.
    """
    low, high = 0, min(_USUAL, most)
    while low < high and fits(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


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
