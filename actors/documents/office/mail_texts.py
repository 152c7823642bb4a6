"""E-mails, alone (`.eml`) and in mailboxes (`.mbox`), with the files that are attached to them."""

from __future__ import annotations

import contextlib
import email
import email.policy
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from email.message import EmailMessage, MIMEPart
from email.utils import parsedate_to_datetime

from actors.documents.office.pieces import Piece, Properties, check_count, clean, one_line
from actors.documents.office.readers import reader_of
from actors.documents.source_formats import FORMATS, PAGED_FORMATS, SourceFormat, suffix_of
from actors.documents.texts.html_encoding import decode_html, decode_labelled
from actors.documents.texts.html_text import html_text
from actors.documents.texts.text_files import ONE_TEXT_FORMATS, text_and_title
from cluster.errors import InvalidArgument
from cluster.metadata import MetadataValue

_HEADERS = ("from", "to", "subject", "date", "message-id", "received")
_MESSAGE_START = re.compile(rb"^From [^\n]*\n(?=[!-9;-~]+:|>From )", re.MULTILINE)
"""A line of a text may begin with `From `, too, but a header follows on none of these."""
_QUOTED_START = re.compile(rb"^>(>*From )", re.MULTILINE)
_BEFORE_HEADERS = b"\xef\xbb\xbf\r\n"
_MESSAGE = "message/rfc822"
_OF_MAIL = ("author", "subject", "date")
"""What a mail has in common with what is attached to it."""
_DEPTH_MAX = 4
"""E-mails that are attached to each other."""


def mail_texts(data: bytes) -> Iterator[Piece]:
    """The message, and what is attached to it."""
    yield from _pieces(_parsed(data), depth=0)


def mailbox_texts(data: bytes) -> Iterator[Piece]:
    """The messages of a mailbox, which `From ` at the start of a line begins: RFC 4155."""
    data = data.lstrip(_BEFORE_HEADERS)
    starts = [found.span() for found in _MESSAGE_START.finditer(data)]
    if not starts or starts[0][0] != 0:
        raise InvalidArgument("is no mailbox: it does not begin with a line `From ` and a header")
    check_count(len(starts), "messages")
    ends = [start for start, _ in starts[1:]] + [len(data)]
    for number, ((_, start), end) in enumerate(zip(starts, ends, strict=True), start=1):
        try:
            message = _parsed(_QUOTED_START.sub(rb"\1", data[start:end]))
            for piece in _pieces(message, depth=0):
                metadata = {**piece.metadata, "message": number}
                yield replace(piece, name=f"message={number}{_inside(piece)}", metadata=metadata)
        except InvalidArgument as error:
            yield Piece(name=f"message={number}", text="", metadata={}, error=error.message)


def _parsed(data: bytes) -> EmailMessage:
    message = email.message_from_bytes(data.lstrip(_BEFORE_HEADERS), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    if not any(header in message for header in _HEADERS):
        raise InvalidArgument(f"is no e-mail: it has none of the headers {', '.join(_HEADERS)}")
    return message


def _pieces(message: EmailMessage, *, depth: int) -> Iterator[Piece]:
    texts, attached = _parts(message)
    subject = _header(message, "subject")
    properties = Properties(
        title=subject,
        subject=subject,
        author=_header(message, "from"),
        attachments=", ".join(name for name, _ in attached),
        changed_at=_date(message),
    ).metadata()
    body = "\n\n".join(map(_text, texts))
    yield Piece(text=clean(f"{subject}\n\n{body}").strip(), metadata=properties)
    of_mail = {key: value for key, value in properties.items() if key in _OF_MAIL}
    for number, (name, part) in enumerate(attached, start=1):
        for piece in _attached(name, part, depth):
            metadata: dict[str, MetadataValue] = {"title": name, "attachment": name}
            metadata |= {**of_mail, **piece.metadata}
            if _format_of(name, part) is not SourceFormat.EML:
                metadata |= of_mail  # what a file says of its author is seldom kept up
            yield replace(piece, name=f"attachment={number}{_inside(piece)}", metadata=metadata)


def _inside(piece: Piece) -> str:
    return f"#{piece.name}" if piece.name else ""


def _parts(message: MIMEPart) -> tuple[list[MIMEPart], list[tuple[str, MIMEPart]]]:
    """The parts that are the text of the message, and those that are attached, with their names."""
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None and body.get_content_subtype() == "plain" and not _text(body).strip():
        body = message.get_body(preferencelist=("html",)) or body
    texts = [] if body is None else [body]
    attached = []
    for part, around in _leaves(message):
        is_text = part.get_content_type() in ("text/plain", "text/html")
        is_of_body = "alternative" in around if is_text else "related" in around
        if part is body or (is_of_body and not part.is_attachment()):
            continue  # another version of the text, or a picture in it
        if name := _file_name(part):
            attached.append((name, part))
        elif is_text and not part.is_attachment():
            texts.append(part)
    return texts, attached


def _leaves(part: MIMEPart, *around: str) -> Iterator[tuple[MIMEPart, tuple[str, ...]]]:
    """The parts that hold no others, each with the kinds of those around it; of a message that is
    attached, the message.
    """
    if part.get_content_maintype() != "multipart":
        yield part, around
        return
    for inner in part.iter_parts():
        yield from _leaves(inner, *around, part.get_content_subtype())


def _text(part: MIMEPart) -> str:
    is_page = part.get_content_subtype() == "html"
    text = _decoded(part, is_page=is_page)
    return html_text(text)[0] if is_page else text


def _decoded(part: MIMEPart, *, is_page: bool) -> str:
    charset = part.get_content_charset()
    if charset is None and is_page:
        with contextlib.suppress(InvalidArgument):
            return decode_html(_content(part))
    return decode_labelled(_content(part), charset)


def _content(part: MIMEPart) -> bytes:
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def _attached(name: str, part: MIMEPart, depth: int) -> Iterator[Piece]:
    """The documents in an attachment; in place of those that cannot be read, why."""
    try:
        for piece in _pieces_of_file(name, part, depth):
            yield piece if piece.error is None else _left_out(piece.error)
    except ImportError:
        yield _left_out("what reads it is not installed (pip install 'raygion[office]')")
    except InvalidArgument as error:
        yield _left_out(error.message)
    except Exception as error:
        # The parsers raise what they like for a damaged file.
        yield _left_out(f"cannot be read: {type(error).__name__}")


def _left_out(why: str) -> Piece:
    return Piece(text="", metadata={}, left_out=f"is attached, and {why}")


def _pieces_of_file(name: str, part: MIMEPart, depth: int) -> Iterator[Piece]:
    format = _format_of(name, part)
    if format is SourceFormat.EML:
        if depth == _DEPTH_MAX:
            raise InvalidArgument(f"lies in more than {_DEPTH_MAX} e-mails, one in the other")
        yield from _pieces(_message_of(part), depth=depth + 1)
    elif format is not None and format in PAGED_FORMATS:
        yield from reader_of(format)(_content(part))
    elif format is not None and format in ONE_TEXT_FORMATS:
        decoded = _decoded(part, is_page=format is SourceFormat.HTML)
        text, title = text_and_title(decoded, format)
        yield Piece(text=text, metadata=Properties(title=title).metadata())
    else:
        raise InvalidArgument(
            f"is of a kind that is not read ({suffix_of(name) or 'no extension'})"
        )


def _format_of(name: str, part: MIMEPart) -> SourceFormat | None:
    is_message = part.get_content_type() == _MESSAGE
    return SourceFormat.EML if is_message else FORMATS.get(suffix_of(name))


def _message_of(part: MIMEPart) -> EmailMessage:
    for inner in part.iter_parts() if part.is_multipart() else ():
        assert isinstance(inner, EmailMessage)
        return inner
    return _parsed(_content(part))


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message.get(name, "")).split())
    except Exception:
        # The standard library raises many kinds of errors for headers that are damaged.
        return ""


def _file_name(part: MIMEPart) -> str:
    try:
        name = part.get_filename() or ""
    except Exception:
        name = ""
    return one_line(name) or ("message.eml" if part.get_content_type() == _MESSAGE else "")


def _date(message: EmailMessage) -> datetime | None:
    try:
        return parsedate_to_datetime(_header(message, "date"))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
