"""The tokenizer of a sentence encoder: what its model reads of a text, and how long a text is to
it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from cluster.errors import InvalidArgument

_TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILES = ("sentence_bert_config.json", "tokenizer_config.json", "config.json")
# Each of them may limit how many tokens the model reads; the least limit holds.
_LIMITS = ("max_seq_length", "model_max_length", "max_position_embeddings")
TOKENIZER_FILES = frozenset({_TOKENIZER_FILE, *_CONFIG_FILES})
"""The files of a model's folder that are looked at, all of them small."""
_UNLIMITED = 10**9
"""Tokenizers without a limit of their own write a number beyond this."""
_OVERLAP_SHARE = 0.125
"""Share of a window that also belongs to the window before it, so that no phrase is cut in both."""


class EmbedderTokenizer:
    """Texts into the tokens that a sentence encoder reads.

    A word of more characters than a WordPiece vocabulary takes in at once (100) is read in pieces;
    without that all of it would be the one token for what is unknown.
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_length: int) -> None:
        """`max_seq_length` counts the special tokens too, as in the model's own files."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if isinstance(tokenizer.model, models.WordPiece):
            pieces: Any = pre_tokenizers.FixedLength(tokenizer.model.max_input_chars_per_word)
            before = [] if tokenizer.pre_tokenizer is None else [tokenizer.pre_tokenizer]
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, pieces])
        self.max_seq_length = max_seq_length
        self.tokens_max = max_seq_length - tokenizer.num_special_tokens_to_add(is_pair=False)
        """Tokens of a text that the model reads at once, without the special ones."""
        if self.tokens_max < 1:
            raise InvalidArgument(f"reads no more than {max_seq_length} tokens", "embedder")
        self.vocabulary_size = tokenizer.get_vocab_size()
        self._counting = tokenizer
        self._cutting = Tokenizer.from_str(tokenizer.to_str())
        self._cutting.enable_truncation(
            max_seq_length, stride=int(self.tokens_max * _OVERLAP_SHARE)
        )

    @classmethod
    def of_folder(cls, folder: Path) -> EmbedderTokenizer:
        """The tokenizer of a model's folder; see `of_files`."""
        names = (name for name in TOKENIZER_FILES if (folder / name).is_file())
        return cls.of_files({name: (folder / name).read_bytes() for name in names}, str(folder))

    @classmethod
    def of_files(cls, files: Mapping[str, bytes], model: str) -> EmbedderTokenizer:
        """The tokenizer from those of a model's `TOKENIZER_FILES` that there are, by name.

        Raises InvalidArgument, naming `model`, where there is no tokenizer or no limit.
        """
        if _TOKENIZER_FILE not in files:
            raise InvalidArgument(
                f"{model} is no sentence encoder with a {_TOKENIZER_FILE}; "
                "`AutoTokenizer.from_pretrained(...).save_pretrained(...)` writes one",
                "embedder",
            )
        try:
            tokenizer = Tokenizer.from_str(files[_TOKENIZER_FILE].decode())
        except Exception as error:
            # The library raises bare exceptions for what it cannot parse.
            raise InvalidArgument(
                f"the {_TOKENIZER_FILE} of {model} cannot be read: {error}", "embedder"
            ) from error
        return cls(tokenizer, _max_seq_length(files, model))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, without special tokens."""
        found = self._counting.encode_batch(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in found]

    def windows(self, texts: Sequence[str]) -> list[list[list[int]]]:
        """The token ids of each text as the model takes them: in one window where it fits, else in
        several that overlap, each with the special tokens.
        """
        found = self._cutting.encode_batch(list(texts))
        return [[encoding.ids, *(rest.ids for rest in encoding.overflowing)] for encoding in found]


def _max_seq_length(files: Mapping[str, bytes], model: str) -> int:
    limits: list[int] = []
    for name in _CONFIG_FILES:
        try:
            settings = json.loads(files.get(name, b"{}"))
        except ValueError as error:
            raise InvalidArgument(
                f"the {name} of {model} is not JSON: {error}", "embedder"
            ) from error
        found = (settings.get(key) for key in _LIMITS)
        limits += [n for n in found if isinstance(n, int) and n < _UNLIMITED]
    if not limits:
        raise InvalidArgument(
            f"{model} says nowhere how many tokens it reads; "
            f'put {{"max_seq_length": ...}} into its {_CONFIG_FILES[0]}',
            "embedder",
        )
    return min(limits)
