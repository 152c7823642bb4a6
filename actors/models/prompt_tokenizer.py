"""Makes and measures prompts by the tokens of a generator, from its Hugging Face folder.

It needs only the folder's `tokenizer.json` and chat template: loading transformers for this would
cost each gateway process some 400 MB and five seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer

from actors.models.chat_template import compile_chat_template
from cluster.errors import InvalidArgument
from cluster.generation.control_words import ControlWords
from cluster.generation.generator import ChatMessage


class FolderTokenizer:
    """Implements `cluster.generation.generator.PromptTokenizer` for one model folder.

    Guarantees: a message's text never becomes a control token, whatever it holds; other texts
    become the tokens that the folder's own tokenizer makes of them. The engine reads what `encode`
    gives, so `count` equals the prompt tokens that the engine reports. For several threads at once;
    while it tokenizes, other threads run. Raises InvalidArgument when the folder has no fast
    tokenizer or no chat template, and when the template refuses the messages.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise InvalidArgument(f"{folder.name} has no tokenizer.json", field="generator")
        settings = _settings(folder)
        described = _with_added_tokens(orjson.loads(file.read_bytes()), settings)
        self._words = ControlWords(described)
        renamed = self._words.renamed()
        self._tokenizer = Tokenizer.from_buffer(orjson.dumps(renamed))
        for token in renamed["added_tokens"]:
            if self._tokenizer.token_to_id(token["content"]) != token["id"]:
                raise InvalidArgument(
                    f"{folder.name} has an added token whose id {token['id']} does not follow from "
                    "its tokenizer.json",
                    field="generator",
                )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.token_chars_max = max(map(len, self._tokenizer.get_vocab()))
        self._render = compile_chat_template(folder, settings)

    def encode(self, messages: tuple[ChatMessage, ...], begun: str = "") -> list[int]:
        """The tokens of the prompt that the chat template makes of the messages, the opening of the
        answer included, and of the answer's beginning where it is `begun`.
        """
        shielded = tuple(
            ChatMessage(role=message.role, content=self._words.shielded(message.content))
            for message in messages
        )
        prompt = self._words.marked(self._render(shielded)) + self._words.cleaned(begun)
        # A batch of one, because `encode` would keep the interpreter's lock.
        (encoding,) = self._tokenizer.encode_batch_fast([prompt], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def count(self, messages: tuple[ChatMessage, ...]) -> int:
        """Number of tokens that `encode` gives."""
        return len(self.encode(messages))

    def truncate(self, text: str, tokens_max: int) -> str:
        """A beginning of `text` of at most `tokens_max` tokens, and within one token of the
        longest.
        """
        if tokens_max <= 0:
            return ""
        # No token spans more characters than the longest in the vocabulary, so a huge text is
        # never tokenized as a whole.
        kept = text[: (tokens_max + 1) * self.token_chars_max]
        while True:
            cleaned = self._words.cleaned(kept)
            (tokens,) = self._tokenizer.encode_batch([cleaned], add_special_tokens=False)
            if len(tokens.ids) <= tokens_max:
                return kept
            # Cutting at a token's first character can change how the rest is split, so the cut is
            # counted again; each round drops a character or more.
            end = tokens.offsets[tokens_max][0]
            kept = kept[: min(end, len(kept) - 1)]


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    settings: dict[str, Any] = orjson.loads(file.read_bytes()) if file.is_file() else {}
    return settings


def _with_added_tokens(described: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer with the tokens that its settings alone say were added."""
    known = {token["content"] for token in described["added_tokens"]}
    added = sorted(
        (int(id), token) for id, token in settings.get("added_tokens_decoder", {}).items()
    )
    others = [{"id": id, **token} for id, token in added if token["content"] not in known]
    return {**described, "added_tokens": [*described["added_tokens"], *others]}
