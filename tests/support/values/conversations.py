"""Messages, tokenizers and room for prompts, one by one and as strategies of hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from cluster.generation.generator import ChatMessage, Role
from cluster.generation.prompt import TokenBudget
from tests.support.fakes import FakeTokenizer


class SeamTokenizer(FakeTokenizer):
    """Counts two more tokens for a text than it has alone, as real ones may at seams."""

    def count(self, messages: tuple[ChatMessage, ...]) -> int:
        return super().count(messages) + 2 * sum(bool(m.content) for m in messages)


class CountingTokenizer(FakeTokenizer):
    """Adds up what it has counted."""

    counted = 0

    def count(self, messages: tuple[ChatMessage, ...]) -> int:
        tokens = super().count(messages)
        self.counted += tokens
        return tokens


def said(role: Role, content: str) -> ChatMessage:
    return ChatMessage(role=role, content=content)


def turn(content: str) -> ChatMessage:
    return said("user", content)


def room_for(prompt_tokens: int) -> TokenBudget:
    return TokenBudget(context=prompt_tokens + 10, answer=10)


texts = st.text(max_size=80)
roles: st.SearchStrategy[Role] = st.sampled_from(["user", "assistant", "user", "system"])
messages = st.builds(said, roles, texts)
tokenizers = st.builds(
    FakeTokenizer, chars_per_token=st.integers(1, 6), overhead=st.integers(0, 9)
) | st.builds(SeamTokenizer)
