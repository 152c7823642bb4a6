"""The readable text of an HTML page, and its title."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lxml import etree

from cluster.documents.documents import TEXT_BYTES_MAX
from cluster.errors import InvalidArgument

DEPTH_MAX = 512
"""Chrome's, too. The time to find what an end tag ends grows with the depth."""
_FEED_CHARS = 65_536

# Elements whose content is not read by people.
_UNREAD = frozenset(
    {"head", "iframe", "math", "noembed", "noframes", "noscript", "object", "script", "style"}
    | {"svg", "template", "title"}
)
_SECTIONS = frozenset({"article", "aside", "main", "section"})
"""A footer in one of these is its own, and not that of every page of the site:
https://www.w3.org/TR/html-aam-1.0/#el-footer
"""
_AROUND = frozenset({"nav", "footer", "dialog"})
_NOT_SHOWN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details"}
    | {"dialog", "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "legend", "li", "main"}
    | {"menu", "nav", "ol", "optgroup", "option", "p", "pre", "search", "section", "select"}
    | {"summary", "table", "textarea", "tr", "ul"}
)
_CELLS = frozenset({"td", "th"})
_BOXES = frozenset({"audio", "button", "input", "label", "meter", "output", "progress", "rt"})
"""Words in neighbouring ones of these are apart, though they may share a line."""
_PREFORMATTED = frozenset({"listing", "plaintext", "pre", "textarea", "xmp"})
_END = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(?P<raw>plaintext|script|style|textarea|title|xmp)(?=[\s/>]).*?(?:</(?P=raw)|\Z)"
    r"|</(?P<tag>br|h[1-6]|p)(?=[\s/>])",
    re.IGNORECASE | re.DOTALL,
)
"""An end tag that browsers read otherwise than libxml2, unless it stands where no tags are read."""
_DRAWINGS = frozenset({"svg", "math"})
_DRAWING_ENDS = _BLOCKS | frozenset(
    {"b", "big", "br", "code", "em", "embed", "i", "img", "meta", "nobr", "ruby", "s", "small"}
    | {"span", "strike", "strong", "sub", "sup", "tt", "u", "var"}
)
"""One of these inside of a drawing ends the drawing, as browsers have it:
https://html.spec.whatwg.org/multipage/parsing.html#parsing-main-inforeign
"""


def html_text(page: str) -> tuple[str, str | None]:
    """The text with a blank line between blocks, and the title (else the first h1, else None).

    Scripts, styles and comments are left out; and so are navigation, the page's footer and what
    browsers hide, unless these are the larger part. Broken markup is read as far as browsers do.
    Takes time in proportion to the page's length. Raises InvalidArgument for a page with more text
    than TEXT_BYTES_MAX, or with elements nested deeper than DEPTH_MAX.
    """
    page = _END.sub(_as_browsers_read_it, page)
    found = _extracted(page, is_whole=False)
    text = found.text.joined()
    if found.num_chars_around > len(text):
        # Scripts show what is hidden, and libxml2 lets the rest of a page lie in a navigation that
        # has an open block in it.
        found = _extracted(page, is_whole=True)
        text = found.text.joined()
    return text, found.title()


def _extracted(page: str, *, is_whole: bool) -> _Extraction:
    target = _Extraction(is_whole=is_whole)
    # Bytes of a known encoding, so that what the page says of its encoding does not count any more.
    # A target takes the parser's events, so that no tree is made of them.
    parser = etree.HTMLParser(target=target, encoding="utf-8", huge_tree=True)
    for start in range(0, len(page), _FEED_CHARS):
        parser.feed(page[start : start + _FEED_CHARS].encode())
    if page:
        parser.close()
    return target


def _as_browsers_read_it(found: re.Match[str]) -> str:
    """The end tag as browsers read it: `</br>` is a break, `</p>` without a paragraph is one, and
    `</h2>` ends an `<h1>`. libxml2 passes them over, so an empty paragraph goes before the latter
    two.
    """
    if found["tag"] is None:
        return found[0]
    return "<br" if found["tag"].lower() == "br" else f"<p></p>{found[0]}"


class _Extraction:
    """Takes the events of a parser, which has put broken nesting in order: elements end in the
    reverse order of their beginnings.
    """

    def __init__(self, *, is_whole: bool) -> None:
        self.text = _Text()
        self.num_chars_around = 0
        """Number of characters that are left out in navigation and hidden elements."""
        self._is_whole = is_whole
        self._depth = 0
        self._num_sections = 0
        self._unread: list[tuple[str, int]] = []
        """Open elements that are not read, with their depths."""
        self._titles: dict[str, str] = {}
        self._title: str | None = None
        """The element that the characters to come are the title of the page by."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise InvalidArgument(f"has elements nested deeper than {DEPTH_MAX}", "text")
        if tag in _DRAWING_ENDS and self._unread and self._unread[0][0] in _DRAWINGS:
            self._unread.clear()
        is_title = tag in ("title", "h1") and tag not in self._titles
        if is_title and [unread for unread, _ in self._unread] in ([], ["head"]):
            self._titles[tag], self._title = "", tag
        self._boundary(tag, is_start=True)
        if self._is_unread(tag, attributes):
            self._unread.append((tag, self._depth))
        self._num_sections += tag in _SECTIONS

    def end(self, tag: str) -> None:
        if self._unread and self._unread[-1][1] == self._depth:
            self._unread.pop()
        self._depth -= 1
        self._num_sections -= tag in _SECTIONS
        if tag == self._title:
            self._title = None
        self._boundary(tag, is_start=False)

    def _is_unread(self, tag: str, attributes: Mapping[str, str]) -> bool:
        if tag in _UNREAD or self._is_whole:
            return tag in _UNREAD
        if tag in _AROUND:
            return not (self._num_sections if tag == "footer" else "open" in attributes)
        # What is hidden until it is found or chosen is there to be read.
        if attributes.get("role") == "tabpanel" or attributes.get("hidden") == "until-found":
            return False
        return "hidden" in attributes or bool(_NOT_SHOWN.search(attributes.get("style", "")))

    def _boundary(self, tag: str, *, is_start: bool) -> None:
        if self._title is not None and (tag in _BLOCKS or tag == "br"):
            self._titles[self._title] += " "
        if not self._unread:
            self.text.boundary(tag, is_start=is_start)

    def data(self, characters: str) -> None:
        if self._title is not None:
            self._titles[self._title] += characters
        if not self._unread:
            self.text.add(characters)
        elif self._unread[0][0] not in _UNREAD:
            self.num_chars_around += len(characters.strip())

    def close(self) -> None:
        """A target must have it."""

    def title(self) -> str | None:
        for tag in ("title", "h1"):
            if title := re.sub(r"\s+", " ", self._titles.get(tag, "")).strip():
                return title
        return None


class _Text:
    """Lays characters out: white space as browsers show it, and blank lines between blocks."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._num_chars = 0
        # White space between the last piece and the next one, if there is a next one.
        self._line_ends = 0
        self._space = False
        self._box = False
        self._preformatted: list[str] | None = None
        self._preformatted_depth = 0

    def boundary(self, tag: str, *, is_start: bool) -> None:
        """An element begins or ends."""
        if tag in _PREFORMATTED:
            self._preformatted_boundary(is_start)
        elif self._preformatted is not None:
            is_break = tag == "br" and is_start
            at_line_start = not self._preformatted or self._preformatted[-1].endswith("\n")
            if is_break or (tag in _BLOCKS and not at_line_start):
                self._preformatted.append("\n")
        elif tag in _BLOCKS:
            self._line_ends = 2
        elif tag == "br":
            self._line_ends = min(2, self._line_ends + is_start)
        elif tag in _CELLS:
            self._space = True
        elif tag in _BOXES:
            self._box = True

    def add(self, characters: str) -> None:
        if self._preformatted is not None:
            self._preformatted.append(characters)
            return
        # A line break in the source is a space on the page.
        words = re.sub(r"\s+", " ", characters)
        self._space = self._space or words.startswith(" ")
        if words.strip():
            self._put(words.strip())
            self._space = words.endswith(" ")

    def joined(self) -> str:
        if self._preformatted is not None:
            self._preformatted_depth = 1
            self._preformatted_boundary(is_start=False)
        return "".join(self._pieces)

    def _preformatted_boundary(self, is_start: bool) -> None:
        self._preformatted_depth += 1 if is_start else -1
        if is_start and self._preformatted is None:
            self._line_ends = 2
            self._preformatted = []
        elif self._preformatted_depth == 0 and self._preformatted is not None:
            lines = "".join(self._preformatted).replace("\r\n", "\n").strip("\n").rstrip()
            self._preformatted = None
            if lines:
                self._put(lines)
            self._line_ends = 2

    def _put(self, piece: str) -> None:
        self._num_chars += len(piece)
        if self._num_chars > TEXT_BYTES_MAX:
            raise InvalidArgument(
                f"has more than {TEXT_BYTES_MAX} bytes; divide it into several documents", "text"
            )
        if self._pieces:
            last = self._pieces[-1][-1]
            are_words = last.isalnum() and piece[0].isalnum()
            if self._line_ends:
                self._pieces.append("\n" * self._line_ends)
            elif self._space or (self._box and are_words):
                self._pieces.append(" ")
        self._pieces.append(piece)
        self._line_ends, self._space, self._box = 0, False, False
