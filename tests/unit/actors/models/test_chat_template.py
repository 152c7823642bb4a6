"""Chat templates as other models bring them: each shows the model all that was said."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.models.chat_template import ChatTemplate, compile_chat_template
from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage, Role

ANY_ROLE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}"
    "{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + ALTERNATING
)
SYSTEM_FIRST = (
    "{% if messages[0].role == 'system' %}<system>{{ messages[0].content }}"
    "{% set messages = messages[1:] %}{% endif %}" + ALTERNATING
)
SILENT = (
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}"
    "{% endfor %}"
)
SYSTEM_AND_QUESTION: tuple[tuple[Role, str], ...] = (("system", "Be brief."), ("user", "Why?"))
CONVERSATION: tuple[tuple[Role, str], ...] = (
    ("system", "Be brief."),
    ("system", "Be kind."),
    ("user", "A"),
    ("user", "B"),
    ("assistant", "C"),
    ("system", "Be exact."),
    ("user", "D"),
)


def compiled(source: str) -> ChatTemplate:
    return compile_chat_template(Path("model"), {"chat_template": source})


def messages(*said: tuple[Role, str]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role=role, content=content) for role, content in said)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (ANY_ROLE, "<system>Be brief.<user>Why?"),
        (SYSTEM_FIRST, "<system>Be brief.<user>Why?"),
        (ALTERNATING, "<user>Be brief.\n\nWhy?"),
        (NO_SYSTEM, "<user>Be brief.\n\nWhy?"),
        (SILENT, "<user>Be brief.\n\nWhy?"),
    ],
)
def test_every_model_reads_the_system_text(template: str, prompt: str) -> None:
    assert compiled(template)(messages(*SYSTEM_AND_QUESTION)) == prompt


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (
            ANY_ROLE,
            "<system>Be brief.<system>Be kind.<user>A<user>B<assistant>C<system>Be exact.<user>D",
        ),
        (
            SYSTEM_FIRST,
            "<system>Be brief.\n\nBe kind.<user>A\n\nB<assistant>C<user>Be exact.\n\nD",
        ),
        (NO_SYSTEM, "<user>Be brief.\n\nBe kind.\n\nA\n\nB<assistant>C<user>Be exact.\n\nD"),
    ],
)
def test_a_conversation_is_brought_into_turns_where_the_template_wants_them(
    template: str, prompt: str
) -> None:
    assert compiled(template)(messages(*CONVERSATION)) == prompt


def test_what_cannot_be_brought_into_turns_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidArgument, match="roles must alternate"):
        compiled(NO_SYSTEM)(messages(("assistant", "Hello"), ("user", "Why?")))


def test_a_template_that_fails_in_its_own_way_refuses_too() -> None:
    with pytest.raises(InvalidArgument, match="division by zero"):
        compiled("{{ 1 / 0 }}")(messages(("user", "Why?")))
