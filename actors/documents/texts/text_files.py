"""Files that are one text: Markdown, plain text, HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from actors.documents.source_formats import SourceFormat
from actors.documents.texts.html_encoding import decode_html
from actors.documents.texts.html_text import html_text
from actors.documents.texts.markdown_title import markdown_title
from cluster.errors import InvalidArgument


def _read_markdown(data: bytes, name: str) -> tuple[str, str | None]:
    """The text and the title, as of all three kinds."""
    text = _decoded(data, name)
    return text, markdown_title(text)


def _read_text(data: bytes, name: str) -> tuple[str, str | None]:
    return _decoded(data, name), None


def _read_html(data: bytes, name: str) -> tuple[str, str | None]:
    try:
        return html_text(decode_html(data))
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error.message}", error.field) from None


def _decoded(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{name}: is not UTF-8 text (byte {error.start}); convert it to UTF-8", "text"
        ) from None
    if "\0" in text:
        raise InvalidArgument(
            f"{name}: has NUL characters, as binary files and UTF-16 without a byte order mark "
            "have; convert it to UTF-8",
            "text",
        )
    return text


TEXT_READERS: Mapping[SourceFormat, Callable[[bytes, str], tuple[str, str | None]]] = {
    SourceFormat.MARKDOWN: _read_markdown,
    SourceFormat.TEXT: _read_text,
    SourceFormat.HTML: _read_html,
}
"""Each gives the text and the title, None without one, of a file's bytes and its name for messages.
It raises InvalidArgument.
"""
