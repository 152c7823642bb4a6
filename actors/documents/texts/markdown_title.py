"""The title of a Markdown text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from actors.documents.texts.front_matter import FrontMatter

_FENCE = re.compile(r" {0,3}(?P<mark>`{3,}+(?!.*`)|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(\S.*)")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)[ \t]*")
_NO_PARAGRAPH = re.compile(r" {4}| {0,3}(?:\t|[-*+][ \t]|[0-9]+[.)][ \t]|[>|])")
"""Begins code, a list, a quotation or a table, in which a line of `---` underlines nothing."""

IsEnd = Callable[[str], bool]


def markdown_title(text: str) -> str | None:
    """The `title` of the front matter, else the first heading, None without either. Comments and
    code have no headings.
    """
    lines = text.splitlines()
    front = FrontMatter.of(lines)
    return _one_line(front.value("title")) or _first_heading(lines[front.num_lines :])


def _one_line(value: object) -> str | None:
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _first_heading(lines: Iterable[str]) -> str | None:
    is_end: IsEnd | None = None
    # Lines that the next one may underline, None in a block where it cannot.
    paragraph: list[str] | None = []
    for line in lines:
        if is_end is not None:
            is_end = None if is_end(line) else is_end
        elif (is_end := _end_of_block(line)) is not None:
            paragraph = []
        elif (heading := _HEADING.fullmatch(line)) and (title := _without_marks(heading[1])):
            return title
        elif paragraph and _UNDERLINE.fullmatch(line):
            return " ".join(paragraph)
        elif heading or not line.strip(" \t*_=-"):
            paragraph = []
        elif paragraph == [] and _NO_PARAGRAPH.match(line):
            paragraph = None
        elif paragraph is not None:
            paragraph.append(line.strip())
    return None


def _end_of_block(line: str) -> IsEnd | None:
    """The test for the end of the fenced code or the comment that this line begins; None if it
    begins none.
    """
    if fence := _FENCE.match(line):
        mark = fence["mark"]
        return lambda end: end.strip().startswith(mark) and not end.strip().strip(mark[0])
    if line.lstrip().startswith("<!--") and "-->" not in line:
        return lambda end: "-->" in end
    return None


def _without_marks(content: str) -> str:
    """`Two words ##` is `Two words`; `About C#` keeps its last character."""
    title = content.strip()
    without = title.rstrip("#")
    return without.rstrip() if not without or without[-1].isspace() else title
