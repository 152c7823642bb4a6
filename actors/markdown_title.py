"""The title of a Markdown text."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FRONT_TITLE = re.compile(r"title:[ \t]+(\S.*)")
_UNDERLINE = re.compile(r" {0,3}=+[ \t]*")


def markdown_title(text: str) -> str | None:
    """The `title` of the front matter (YAML between lines of `---`), else the first heading, None
    without either. Comments of the front matter and of code blocks are no headings.
    """
    lines = iter(text.splitlines())
    first = next(lines, "")
    if first.rstrip() != "---":
        return _first_heading(iter([first, *lines]))
    title = None
    for line in lines:
        if line.rstrip() in ("---", "..."):
            return title or _first_heading(lines)
        if title is None and (found := _FRONT_TITLE.fullmatch(line.rstrip())):
            title = found.group(1).strip("\"' \t")
    # It was not front matter but a line across the page, and all of the text stands below it.
    return _first_heading(iter(text.splitlines()))


def _first_heading(lines: Iterator[str]) -> str | None:
    fence = ""
    before = ""
    for line in lines:
        mark = _FENCE.match(line)
        if fence:
            is_end = mark and mark.group(1).startswith(fence) and not line.strip().strip(fence[0])
            fence = "" if is_end else fence
        elif mark:
            fence = mark.group(1)
        elif (heading := _heading(line)) is not None:
            return heading
        elif before and _UNDERLINE.fullmatch(line):
            return before
        before = "" if fence else line.strip()
    return None


def _heading(line: str) -> str | None:
    """`## Two words ##` is `Two words`; `# About C#` keeps its last character."""
    content = line.strip()
    level = len(content) - len(content.lstrip("#"))
    if not 1 <= level <= 6 or content[level : level + 1] not in (" ", "\t"):
        return None
    title = content[level:].strip()
    without_marks = title.rstrip("#")
    if not without_marks or without_marks[-1].isspace():
        title = without_marks.rstrip()
    return title or None
