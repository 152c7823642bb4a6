"""Files that are one text: Markdown, plain text, HTML."""

from __future__ import annotations

from actors.documents.source_formats import SourceFormat
from actors.documents.texts.html_encoding import decode_html
from actors.documents.texts.html_text import html_text
from actors.documents.texts.markdown_title import markdown_title
from cluster.errors import InvalidArgument

ONE_TEXT_FORMATS = frozenset({SourceFormat.MARKDOWN, SourceFormat.TEXT, SourceFormat.HTML})


def decode(data: bytes, format: SourceFormat) -> str:
    """The bytes of a file as characters. Raises InvalidArgument where they are in another encoding
    than they should be.
    """
    if format is SourceFormat.HTML:
        return decode_html(data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"is not UTF-8 text (byte {error.start}); convert it to UTF-8", "text"
        ) from None


def text_and_title(decoded: str, format: SourceFormat) -> tuple[str, str | None]:
    """The text and the title, None without one. Raises InvalidArgument."""
    if format is SourceFormat.HTML:
        return html_text(decoded)
    if "\0" in decoded:
        raise InvalidArgument(
            "has NUL characters, as binary files and UTF-16 without a byte order mark have; "
            "convert it to UTF-8",
            "text",
        )
    return decoded, markdown_title(decoded) if format is SourceFormat.MARKDOWN else None
