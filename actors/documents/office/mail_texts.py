"""E-mails, alone (`.eml`) and in mailboxes (`.mbox`)."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

from actors.documents.html_text import html_text
from actors.documents.office.pieces import Piece, Properties, check_count, clean
from cluster.errors import InvalidArgument

_HEADERS = ("from", "to", "subject", "date", "message-id", "received")
_MESSAGE_START = re.compile(rb"^From [^\n]*\n", re.MULTILINE)
_QUOTED_START = re.compile(rb"^>(>*From )", re.MULTILINE)


def mail_text(data: bytes) -> Iterator[Piece]:
    yield _piece(data)


def mailbox_texts(data: bytes) -> Iterator[Piece]:
    """The messages of a mailbox, which `From ` at the start of a line begins: RFC 4155."""
    starts = [found.span() for found in _MESSAGE_START.finditer(data)]
    if not starts or starts[0][0] != 0:
        raise InvalidArgument("is no mailbox: it does not begin with a line `From `")
    check_count(len(starts), "messages")
    ends = [start for start, _ in starts[1:]] + [len(data)]
    for number, ((_, start), end) in enumerate(zip(starts, ends, strict=True), start=1):
        message = _QUOTED_START.sub(rb"\1", data[start:end])
        name = f"message={number}"
        try:
            piece = _piece(message)
            yield replace(piece, name=name, metadata={**piece.metadata, "message": number})
        except InvalidArgument as error:
            yield Piece(name=name, text="", metadata={}, error=error.message)


def _piece(data: bytes) -> Piece:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    if not any(header in message for header in _HEADERS):
        raise InvalidArgument(f"is no e-mail: it has none of the headers {', '.join(_HEADERS)}")
    subject = _header(message, "subject")
    properties = Properties(
        title=subject,
        subject=subject,
        author=_header(message, "from"),
        attachments=", ".join(filter(None, map(_file_name, message.iter_attachments()))),
        changed_at=_date(message),
    )
    text = clean(f"{subject}\n\n{_body(message)}").strip()
    return Piece(text=text, metadata=properties.metadata())


def _body(message: EmailMessage) -> str:
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    try:
        content = str(part.get_content())
    except LookupError:
        # A character set that nobody knows.
        payload = part.get_payload(decode=True)
        content = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
    return html_text(content)[0] if part.get_content_subtype() == "html" else content


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message.get(name, "")).split())
    except Exception:
        # The standard library raises many kinds of errors for headers that are damaged.
        return ""


def _file_name(part: EmailMessage) -> str:
    try:
        return part.get_filename() or ""
    except Exception:
        return ""


def _date(message: EmailMessage) -> datetime | None:
    try:
        return parsedate_to_datetime(_header(message, "date"))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
