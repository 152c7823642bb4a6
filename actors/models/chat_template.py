"""The chat template of a Hugging Face folder, rendered as Hugging Face defines it.

Some templates know no system message, or want users and assistants to take turns: they refuse other
conversations, or leave messages out without a word. For these the messages are joined first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage, Role

ChatTemplate = Callable[[tuple[ChatMessage, ...]], str]
"""Makes the text of a prompt, up to where the model's answer begins. Raises InvalidArgument for
messages that the template refuses.
"""
_PROBES = ("raygion-probe-1", "raygion-probe-2")
"""Texts that no template holds by itself."""


class _IgnoreGenerationMarks(Extension):
    """`{% generation %}` marks the assistant's words for training; here it stands for its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 types it as a set

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_chat_template(folder: Path, settings: Mapping[str, object]) -> ChatTemplate:
    """The template of a folder with these settings (its `tokenizer_config.json`). Raises
    InvalidArgument if there is no template, or no valid one.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_IgnoreGenerationMarks, LoopControls]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _format_now
    try:
        template = environment.from_string(_template_source(folder, settings))
    except TemplateError as error:
        raise InvalidArgument(
            f"the chat template of {folder.name} is not valid: {error}", field="generator"
        ) from error
    special = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in settings.items()
        if name.endswith("_token") and isinstance(value, str | dict)
    }

    def render(messages: tuple[ChatMessage, ...]) -> str:
        try:
            return template.render(
                messages=[{"role": m.role, "content": m.content} for m in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **special,
            )
        # A template is a program, which may fail in its own way.
        except Exception as error:
            raise InvalidArgument(
                f"the model's chat template refuses the messages: {error}", field="messages"
            ) from error

    takes_system = _takes(render, ("system", "user"))
    if takes_system and _takes(render, ("user", "user")):
        return render
    return lambda messages: render(_in_turns(messages, takes_system))


def _takes(render: ChatTemplate, roles: Sequence[Role]) -> bool:
    """True when messages of these roles all stand in the prompt."""
    asked = zip(roles, _PROBES, strict=True)
    try:
        prompt = render(tuple(ChatMessage(role=role, content=text) for role, text in asked))
    except InvalidArgument:
        return False
    return all(probe in prompt for probe in _PROBES)


def _in_turns(messages: Sequence[ChatMessage], takes_system: bool) -> tuple[ChatMessage, ...]:
    """The messages with those of one role in a row as one. A system text that may not stand at the
    beginning, or stands elsewhere, becomes a part of what the user says.
    """
    turns: list[ChatMessage] = []
    for message in messages:
        before = turns[-1] if turns else None
        role = message.role
        if role == "system" and not (takes_system and (before is None or before.role == "system")):
            role = "user"
        if before is not None and before.role == role:
            turns[-1] = ChatMessage(role=role, content=f"{before.content}\n\n{message.content}")
        else:
            turns.append(ChatMessage(role=role, content=message.content))
    return tuple(turns)


def _template_source(folder: Path, settings: Mapping[str, object]) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text()
    source = settings.get("chat_template")
    if isinstance(source, list):
        source = {named["name"]: named["template"] for named in source}.get("default")
    if not isinstance(source, str):
        raise InvalidArgument(f"{folder.name} has no chat template", field="generator")
    return source


def _to_json(value: object, indent: int | None = None) -> str:
    # Unlike Jinja's own filter, which escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _format_now(pattern: str) -> str:
    # The engine reads the machine's clock here too, so an injected one would count another prompt.
    return datetime.now().strftime(pattern)  # noqa: TID251
