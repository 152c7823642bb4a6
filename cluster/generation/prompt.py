"""Makes the messages that the generator reads, from a question and the passages found for it.

The prompt is part of a release. It has to fit into the model's context, which is shared in this
order:

    the system text and the question   whole, or the prompt is refused
    the passages                       half of what is left, and what the history does not need
    the history                        what the passages leave of it

Passages are dropped from the weakest end, and the last one that stays may be shortened; the history
loses its oldest messages. What was cut is told with the prompt, and nothing is cut for a caller who
asked that it be not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import model_validator

from cluster.errors import ContextLengthExceeded, InvalidArgument
from cluster.generation.generator import ChatMessage, PromptTokenizer
from cluster.records import Record

_PASSAGE_TOKENS_MIN = 16
"""A passage cut shorter than this says nothing; it is left out."""
_USUAL = 4
"""Passages, or turns, that mostly fit: tried first."""


class PromptTemplate(Record):
    """The text of the prompt: how the passages and the question become messages."""

    # In this order, and this short, the starter model answers plain questions best. Asked to name
    # its passages, or with the instruction before them, it makes more mistakes.
    system: str = "You are a helpful assistant."
    """System message, before the system messages of a chat."""
    passage: str = "[{number}] {text}"
    """Line for one passage; `{number}` and `{text}` are filled in, the latter must stand in it."""
    user: str = (
        "{passages}\n\nUsing only the passages above, answer in one short sentence: {question}"
    )
    """Message of the user; `{passages}` and `{question}` are filled in, both must stand in it."""

    @model_validator(mode="after")
    def _check_placeholders(self) -> Self:
        try:
            self.passage.format(number=1, text="")
            self.user.format(passages="", question="")
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(f"not a template: {error!r} (a literal brace is doubled)") from error
        return self

    def missing(self) -> list[str]:
        """The placeholders without which the model would not read a passage or the question."""
        mark = "\u25a0"
        shown = {
            "{text} in `passage`": self.passage.format(number=1, text=mark),
            "{passages} in `user`": self.user.format(passages=mark, question=""),
            "{question} in `user`": self.user.format(passages="", question=mark),
        }
        return [placeholder for placeholder, made in shown.items() if mark not in made]


class Truncation(StrEnum):
    """The treatment of a prompt that does not fit, as OpenAI's Responses interface calls it."""

    AUTO = "auto"
    """The oldest messages of the history and the weakest passages are left out."""
    DISABLED = "disabled"
    """The request is refused."""


def truncation_of(asked: str) -> Truncation:
    """Raises InvalidArgument for an unknown word."""
    try:
        return Truncation(asked)
    except ValueError:
        raise InvalidArgument(f"must be one of {', '.join(Truncation)}", "truncation") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """The parts that a prompt lacks because they did not fit."""

    history_messages: int = 0
    """Messages of the history that were left out: the oldest ones."""
    passages: int = 0
    """Passages that were found and left out: the weakest ones."""
    passages_shortened: int = 0
    """1 where of the last passage in the prompt only the beginning stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBudget:
    """The division of a model's context between the prompt and the answer, in tokens."""

    context: int
    answer: int

    @classmethod
    def for_answer(cls, context: int, answer_wanted: int) -> TokenBudget:
        """At least half of the context is kept for the prompt, however long an answer is wanted."""
        return cls(context=context, answer=min(answer_wanted, context // 2))

    @property
    def prompt(self) -> int:
        return self.context - self.answer

    def beside(self, prompt_tokens: int, answer_wanted: int) -> int:
        """The most tokens of an answer: those wanted, or those that such a prompt leaves."""
        return max(self.answer, min(answer_wanted, self.context - prompt_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPrompt:
    messages: tuple[ChatMessage, ...]
    num_passages: int
    """Number of passages, from the best on, that stand in the prompt."""
    truncated: Truncated | None
    """What was cut; None where nothing was."""


def build_prompt(
    *,
    template: PromptTemplate,
    question: str,
    passages: Sequence[str],
    tokenizer: PromptTokenizer,
    budget: TokenBudget,
    history: Sequence[ChatMessage] = (),
    truncation: Truncation = Truncation.AUTO,
) -> BuiltPrompt:
    """Fits the question, the passages (best first) and the earlier messages into the budget.

    System messages of the history follow the template's own system text, in one message. Where
    there are passages, at least one stands in the prompt. Raises ContextLengthExceeded when the
    system text, the question and a piece of the best passage do not fit together, and for whatever
    does not fit where truncation is disabled.
    """
    system = "\n\n".join([template.system, *(m.content for m in history if m.role == "system")])
    turns = [message for message in history if message.role != "system"]
    field = "messages" if history else "question"

    def messages_for(kept: Sequence[ChatMessage], texts: Sequence[str]) -> tuple[ChatMessage, ...]:
        numbered = [template.passage.format(number=i, text=text) for i, text in enumerate(texts, 1)]
        user = template.user.format(passages="\n".join(numbered), question=question)
        opening = ChatMessage(role="system", content=system)
        return (opening, *kept, ChatMessage(role="user", content=user))

    # Where all passages and messages fit, which is usual, the same prompt is counted several times.
    count = functools.cache(tokenizer.count)

    def fitting(tokens_max: int, kept: Sequence[ChatMessage] = ()) -> list[str]:
        return _fitting_passages(
            passages, lambda some: count(messages_for(kept, some)) - tokens_max, tokenizer
        )

    bare = _checked_count(
        messages_for((), ()), tokenizer, budget, "the system text and the question", field
    )
    # What the history cannot take. Half of the room may be too little for a piece of a passage,
    # which then may have all of it.
    secured = fitting((bare + budget.prompt + 1) // 2) or fitting(budget.prompt)
    if passages and not secured:
        raise ContextLengthExceeded(
            f"the system text and the question take {bare} tokens, which leaves no room for a "
            f"passage: {_shared(budget)}",
            field,
        )
    kept = _newest(turns, lambda some: count(messages_for(some, secured)) <= budget.prompt)
    # At its seams a text may take more tokens than alone: what was secured stays even so.
    texts = max(fitting(budget.prompt, kept), secured, key=lambda some: sum(map(len, some)))
    truncated = Truncated(
        history_messages=len(turns) - len(kept),
        passages=len(passages) - len(texts),
        passages_shortened=sum(a != b for a, b in zip(texts, passages, strict=False)),
    )
    if truncated != Truncated() and truncation is Truncation.DISABLED:
        raise ContextLengthExceeded(
            f"the prompt does not fit without {_cut_notice(truncated)}: {_shared(budget)}", field
        )
    return BuiltPrompt(
        messages=messages_for(kept, texts),
        num_passages=len(texts),
        truncated=None if truncated == Truncated() else truncated,
    )


def fit_conversation(
    messages: Sequence[ChatMessage],
    tokenizer: PromptTokenizer,
    budget: TokenBudget,
    truncation: Truncation,
) -> BuiltPrompt:
    """The conversation, one message or more, for a generator without retrieval.

    The oldest messages may be left out, but neither a system message nor the last message. Raises
    ContextLengthExceeded when these do not fit, and when any does not where truncation is disabled.
    """
    *history, last = messages
    if truncation is Truncation.DISABLED:
        _checked_count(tuple(messages), tokenizer, budget, "the messages", "messages")
        return BuiltPrompt(messages=tuple(messages), num_passages=0, truncated=None)
    must_stay = tuple(m for m in history if m.role == "system")
    _checked_count(
        (*must_stay, last), tokenizer, budget, "the last message and the system text", "messages"
    )
    kept = _newest(history, lambda some: tokenizer.count((*some, last)) <= budget.prompt)
    left_out = len(history) - len(kept)
    return BuiltPrompt(
        messages=(*kept, last),
        num_passages=0,
        truncated=Truncated(history_messages=left_out) if left_out else None,
    )


def _checked_count(
    messages: tuple[ChatMessage, ...],
    tokenizer: PromptTokenizer,
    budget: TokenBudget,
    what: str,
    field: str,
) -> int:
    """The tokens of messages that must fit as they are. Raises ContextLengthExceeded when they do
    not: without counting, where they have more characters than so many tokens can stand for.
    """
    least = sum(len(message.content) for message in messages) // tokenizer.token_chars_max
    if least > budget.prompt:
        raise ContextLengthExceeded(
            f"{what} take at least {least} tokens: {_shared(budget)}", field
        )
    taken = tokenizer.count(messages)
    if taken > budget.prompt:
        raise ContextLengthExceeded(f"{what} take {taken} tokens: {_shared(budget)}", field)
    return taken


def _shared(budget: TokenBudget) -> str:
    # Clients know the error by these words of OpenAI's.
    return (
        f"this model's maximum context length is {budget.context} tokens, of which "
        f"{budget.answer} are kept for the answer (max_tokens) and {budget.prompt} are left for "
        "the prompt"
    )


def _cut_notice(truncated: Truncated) -> str:
    parts = {
        "messages of the history left out": truncated.history_messages,
        "passages left out": truncated.passages,
        "passages shortened": truncated.passages_shortened,
    }
    return " and ".join(f"{number} {what}" for what, number in parts.items() if number)


def _newest(
    history: Sequence[ChatMessage], fits: Callable[[tuple[ChatMessage, ...]], bool]
) -> tuple[ChatMessage, ...]:
    """The history without its oldest messages, as few as need be; system messages stay.

    Where some are left out, the rest begins with a message of the user: chat templates refuse a
    conversation that the assistant opens.
    """
    later = [i for i in range(1, len(history)) if history[i].role == "user"]
    starts = [len(history), *reversed(later), 0]

    def since(start: int) -> tuple[ChatMessage, ...]:
        return tuple(m for i, m in enumerate(history) if i >= start or m.role == "system")

    return since(starts[_most_that_fit(len(starts) - 1, lambda n: fits(since(starts[n])))])


def _fitting_passages(
    passages: Sequence[str],
    excess: Callable[[Sequence[str]], int],
    tokenizer: PromptTokenizer,
) -> list[str]:
    """The best passages with `excess(passages) <= 0`, the last one shortened where that helps."""
    kept = list(passages[: _most_that_fit(len(passages), lambda n: excess(passages[:n]) <= 0)])
    if len(kept) == len(passages) or excess((*kept, "")) > -_PASSAGE_TOKENS_MIN:
        return kept
    last = passages[len(kept)]
    shortened = _longest_fitting(last, lambda text: excess((*kept, text)), tokenizer)
    return [*kept, shortened] if shortened else kept


def _most_that_fit(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, if more never fit where less do not; else 0.

    What is looked at is at most twice what fits, a few times over, however much there is.
    """
    low, high = 0, min(_USUAL, most)
    while low < high and fits(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _longest_fitting(text: str, excess: Callable[[str], int], tokenizer: PromptTokenizer) -> str:
    """A beginning of `text` with `excess(beginning) <= 0`, about the longest; empty if there is
    none.
    """
    room = -excess("")
    while room > 0:
        shortened = tokenizer.truncate(text, room)
        # At its seams a text may take other tokens than it takes alone: try again with less.
        if (over := excess(shortened)) <= 0:
            return shortened
        room -= over
    return ""
