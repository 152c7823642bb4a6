"""The chat template of a Hugging Face folder, rendered as Hugging Face defines it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
from cluster.generation import ChatMessage

ChatTemplate = Callable[[tuple[ChatMessage, ...]], str]
"""Makes the text of a prompt, up to where the model's answer begins. Raises InvalidArgument for
messages that the template refuses.
"""


class _IgnoreGenerationMarks(Extension):
    """`{% generation %}` marks the assistant's words for training; here it stands for its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 types it as a set

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_chat_template(folder: Path, settings: Mapping[str, object]) -> ChatTemplate:
    """The template of a folder with these settings (its `tokenizer_config.json`). Raises
    InvalidArgument where there is none, or none that is valid.
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
        except TemplateError as error:
            raise InvalidArgument(
                f"the model's chat template refuses the messages: {error}", field="messages"
            ) from error

    return render


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
