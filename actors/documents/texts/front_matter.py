"""The front matter of a Markdown text: YAML between lines of `---`, TOML between lines of `+++`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Self

import yaml

_ENDS = {"---": ("---", "..."), "+++": ("+++",)}
_ENTRY_LINES_MAX = 20
_YAML_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """Its entries are read one by one, for many a front matter is not valid as a whole."""

    mark: str
    """The line that begins it; empty where there is none."""
    lines: Sequence[str]
    num_lines: int
    """Lines of the text that it takes, those of its marks included."""

    @classmethod
    def of(cls, lines: Sequence[str]) -> Self:
        """That of a text with these lines."""
        mark = lines[0].rstrip() if lines else ""
        ends = _ENDS.get(mark, ())
        end = next((n for n, line in enumerate(lines) if n and line.rstrip() in ends), 0)
        # Without an end it is a line across the page.
        return cls(mark, lines[1:end], end + 1) if end else cls("", (), 0)

    def value(self, key: str) -> object:
        """The value of an entry at the top, None without one. In YAML, what is neither a list nor
        an object is a string.
        """
        return self._yaml_value(key) if self.mark == "---" else self._toml_value(key)

    def _yaml_value(self, key: str) -> object:
        is_entry = re.compile(rf"{re.escape(key)}:(?:[ \t].*)?").fullmatch
        start = next((n for n, line in enumerate(self.lines) if is_entry(line.rstrip())), None)
        if start is None:
            return None
        rest = self.lines[start + 1 : start + _ENTRY_LINES_MAX]
        more = takewhile(lambda line: line[:1].isspace(), rest)
        try:
            # It makes strings of everything.
            value = yaml.load("\n".join([self.lines[start], *more]), Loader=yaml.BaseLoader)[key]
        except (yaml.YAMLError, RecursionError):
            # Such as `title: Raygion: a guide`, which many write.
            value = self.lines[start].partition(":")[2].strip()
        return None if value in _YAML_NULLS else value

    def _toml_value(self, key: str) -> object:
        is_entry = re.compile(rf"{re.escape(key)}[ \t]*=.*").fullmatch
        top = takewhile(lambda line: not line.startswith("["), self.lines)
        try:
            return tomllib.loads(next(filter(is_entry, top), "")).get(key)
        except tomllib.TOMLDecodeError:
            return None
