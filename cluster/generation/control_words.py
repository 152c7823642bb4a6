"""Keeps the control words of a chat model apart from the same words in somebody's text.

A tokenizer turns a word such as `<|im_end|>` into the one token that ends a turn, wherever the word
stands. A text that holds the word would thereby speak for somebody else. Therefore the tokenizer is
renamed: it knows marks in place of the words, and no text can hold a mark.

    text ──shielded──► chat template ──► rendered ──marked──► prompt ──► renamed tokenizer
           no control word begins        control words become          a mark is a control token,
           or ends in the text           marks, texts are restored     a control word is text

Marks and shields are made of U+FDD0 to U+FDEF, noncharacters that Unicode reserves for the use
inside of a program. In a text they are replaced by U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_MARK, _SHIELD = "\ufdd0", "\ufdd1"
_DIGITS = tuple(map(chr, range(0xFDE0, 0xFDF0)))
_NUM_DIGITS = 5
_NONCHARACTERS = str.maketrans(dict.fromkeys(map(chr, range(0xFDD0, 0xFDF0)), "\ufffd"))


class ControlWords:
    """The control words of one tokenizer, given by the content of its `tokenizer.json`.

    Control words are the tokens that were added to the vocabulary as special ones, and all other
    added tokens that are more than letters, digits and white space, such as `<tool_call>`.
    """

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        words = [token["content"] for token in tokenizer["added_tokens"] if _is_control(token)]
        ends = sorted({word[0] for word in words} | {word[-1] for word in words})
        self._tokenizer = tokenizer
        self._marks = {word: _code(_MARK, number) for number, word in enumerate(words)}
        self._shields = {end: _code(_SHIELD, number) for number, end in enumerate(ends)}
        self._shielding = str.maketrans(self._shields)
        longest_first = sorted(map(re.escape, words), key=len, reverse=True)
        # Without any word, a pattern that matches nowhere.
        self._pattern = re.compile("|".join(longest_first) or r"(?!)")

    def cleaned(self, text: str) -> str:
        """The text as the renamed tokenizer may read it: of the same length, without a mark."""
        return text.translate(_NONCHARACTERS)

    def shielded(self, text: str) -> str:
        """The text as a chat template may take it in: no control word begins or ends in it, also
        not together with what the template puts beside it.
        """
        return self.cleaned(text).translate(self._shielding)

    def marked(self, rendered: str) -> str:
        """The output of a chat template for shielded texts, with its own control words as marks and
        the texts as they were.
        """
        prompt = self._pattern.sub(lambda found: self._marks[found.group()], rendered)
        for end, shield in self._shields.items():
            prompt = prompt.replace(shield, end)
        return prompt

    def renamed(self) -> dict[str, Any]:
        """The content of a `tokenizer.json` that has the marks in place of the control words, each
        with the same id.

        The words leave the vocabulary, too: a vocabulary may hold them, and a model that picks the
        likeliest pieces of a text could find them there.
        """
        added = [
            {**token, "content": self._marks[token["content"]], "normalized": False}
            if token["content"] in self._marks
            else token
            for token in self._tokenizer["added_tokens"]
        ]
        return {
            **self._tokenizer,
            "added_tokens": added,
            "model": self._renamed_model(self._tokenizer["model"]),
        }

    def _renamed_model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        marks, vocab = self._marks, model["vocab"]
        renamed = dict(model)
        if isinstance(vocab, Mapping):
            renamed["vocab"] = {marks.get(piece, piece): id for piece, id in vocab.items()}
        else:
            renamed["vocab"] = [[marks.get(piece, piece), score] for piece, score in vocab]
        if "merges" in model:
            renamed["merges"] = [merge for merge in model["merges"] if self._is_of_text(merge)]
        if model.get("unk_token") in marks:
            renamed["unk_token"] = marks[model["unk_token"]]
        return renamed

    def _is_of_text(self, merge: str | list[str]) -> bool:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        return self._marks.keys().isdisjoint((left, right, left + right))


def _is_control(token: Mapping[str, Any]) -> bool:
    content: str = token["content"]
    if not content:
        return False
    return bool(token["special"]) or not all(char.isalnum() or char.isspace() for char in content)


def _code(kind: str, number: int) -> str:
    """`number` in noncharacters, always of the same length."""
    digits: Iterable[str] = (
        _DIGITS[number >> 4 * digit & 15] for digit in reversed(range(_NUM_DIGITS))
    )
    return kind + "".join(digits)
