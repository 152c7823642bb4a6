"""The readable text of an HTML page, and its title."""

from __future__ import annotations

import re
from html.parser import HTMLParser

# What stands inside these is not read by people.
_UNREAD = frozenset({"script", "style", "template", "noscript", "svg", "iframe", "head"})
_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "body", "dd", "div", "dl", "dt", "fieldset"}
    | {"figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header"}
    | {"hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "tr", "ul"}
)
_CELLS = frozenset({"td", "th"})


def html_text(page: str) -> tuple[str, str | None]:
    """The text with a blank line between blocks, and the title (else the first h1, else None).

    Scripts, styles and comments are left out. Broken markup is read as far as browsers do: no page
    is refused.
    """
    parser = _TextParser()
    parser.feed(page)
    parser.close()
    return parser.text(), parser.title()


class _TextParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._titles: dict[str, str] = {}
        self._inside: str | None = None
        self._unread: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS and self._unread == ["head"]:
            # A page may leave out the end of its head.
            self._unread.clear()
        if tag in ("title", "h1") and tag not in self._titles:
            self._titles[tag], self._inside = "", tag
        if tag in _UNREAD:
            self._unread.append(tag)
        elif tag in _BLOCKS:
            self._pieces.append("\n\n")
        elif tag == "br":
            self._pieces.append("\n")
        elif tag in _CELLS:
            self._pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None
        if tag in self._unread:
            # Whatever was opened inside and never closed ends with it.
            del self._unread[self._unread.index(tag) :]
        elif tag in _BLOCKS:
            self._pieces.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self._titles[self._inside] += data
        if not self._unread and self._inside != "title":
            # A line break in the source is a space on the page.
            self._pieces.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        lines = (line.strip() for line in re.sub(r" +", " ", "".join(self._pieces)).split("\n"))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

    def title(self) -> str | None:
        for tag in ("title", "h1"):
            if title := re.sub(r"\s+", " ", self._titles.get(tag, "")).strip():
                return title
        return None
