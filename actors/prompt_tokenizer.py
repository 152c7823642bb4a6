"""Counts and cuts prompts by the tokens of a generator, from its Hugging Face folder.

It needs only the folder's `tokenizer.json` and chat template: loading transformers for this would
cost each gateway process some 400 MB and five seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from cluster.errors import InvalidArgument
from cluster.generation import ChatMessage


class FolderTokenizer:
    """Implements `cluster.generation.PromptTokenizer` for one model folder.

    Guarantee: `count` equals the prompt tokens that the engine reports for the same messages.
    Raises InvalidArgument when the folder has no fast tokenizer or no chat template, and when the
    template refuses the messages.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise InvalidArgument(f"{folder.name} has no tokenizer.json", field="generator")
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._token_chars_max = max(map(len, self._tokenizer.get_vocab()))
        self._render = _compile_chat_template(folder)

    def count(self, messages: tuple[ChatMessage, ...]) -> int:
        """Tokens of the prompt that the chat template makes, opening of the answer included."""
        prompt = self._render(messages)
        return len(self._tokenizer.encode(prompt, add_special_tokens=False).ids)

    def truncate(self, text: str, tokens_max: int) -> str:
        """A beginning of `text` of at most `tokens_max` tokens, and within one token of the
        longest.
        """
        if tokens_max <= 0:
            return ""
        # No token spans more characters than the longest in the vocabulary, so a huge text is
        # never tokenized as a whole.
        kept = text[: (tokens_max + 1) * self._token_chars_max]
        while True:
            tokens = self._tokenizer.encode(kept, add_special_tokens=False)
            if len(tokens.ids) <= tokens_max:
                return kept
            # Cutting at a token's first character can change how the rest is split, so the cut is
            # counted again; each round drops a character or more.
            end = tokens.offsets[tokens_max][0]
            kept = kept[: min(end, len(kept) - 1)]


class _IgnoreGenerationMarks(Extension):
    """`{% generation %}` marks the assistant's words for training; here it stands for its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 types it as a set

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile_chat_template(folder: Path) -> Callable[[tuple[ChatMessage, ...]], str]:
    """The folder's template, rendered in the environment that Hugging Face defines for it."""
    settings: dict[str, object] = {}
    if (folder / "tokenizer_config.json").is_file():
        settings = json.loads((folder / "tokenizer_config.json").read_text())
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


def _template_source(folder: Path, settings: dict[str, object]) -> str:
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
