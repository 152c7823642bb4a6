"""The encoding of an HTML page, as browsers find it: https://encoding.spec.whatwg.org and
https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import webencodings

from cluster.errors import InvalidArgument

_PRESCAN_BYTES = 65_536
"""Browsers look at 1024 bytes before they parse, and take a declaration that they parse later."""
_MARKUP = re.compile(
    rb"<!--.*?(?:-->|\Z)|<(script|style)(?=[\s/>]).*?(?:</\1|\Z)"
    rb"|<(?P<tag>meta(?=[\s/])|/?[a-z][^\s>]*)|<[!/?][^>]*",
    re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTE = re.compile(
    rb"[\s/]*(?P<name>[^\s/>][^\s/>=]*)"
    rb"(?:\s*=\s*(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s>]*)))?"
)
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s\"';]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([^\"'>]+)")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_CODECS = {
    # Browsers read the supersets that Microsoft made of these, and Python has them by other names.
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    # A page whose declaration could be read as ASCII is not UTF-16.
    "utf-16be": "utf-8",
    "utf-16le": "utf-8",
    "x-user-defined": "windows-1252",
}
_ASCII = ("ascii", "us-ascii")
"""Programs that know no better write so."""
_WINDOWS_31J = "windows-31j"
"""Name of the handler of decoding errors."""


def decode_html(data: bytes) -> str:
    """The text of a page in the encoding of its byte order mark, else of a `meta` tag, else of its
    XML declaration, else (also where browsers do not know what these say) in UTF-8.

    Raises InvalidArgument where the page is not in that encoding.
    """
    data, marked = _without_mark(data)
    encoding = marked or _declared(data[:_PRESCAN_BYTES])
    try:
        return data.decode(encoding, _WINDOWS_31J if encoding == "euc_jp" else "strict")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"is not {encoding} text (byte {error.start}), which it claims to be or which "
            "a page without a claim is; convert it to UTF-8",
            "text",
        ) from None


def decode_labelled(data: bytes, label: str | None) -> str:
    """The text in the encoding of its byte order mark, else in the one that a label names, as
    browsers know labels; where the label is missing, unknown or ASCII, in UTF-8, else Windows-1252.

    Bytes that are not in that encoding become U+FFFD.
    """
    data, marked = _without_mark(data)
    if marked is not None:
        return data.decode(marked, "replace")
    known = webencodings.lookup(label or "")
    if known is None or (label or "").strip().lower() in _ASCII:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.decode("cp1252", "replace")
    return data.decode(_CODECS.get(known.name, str(known.codec_info.name)), "replace")


def _without_mark(data: bytes) -> tuple[bytes, str | None]:
    """The data after its byte order mark, and the encoding that the mark names, else None."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return data.removeprefix(mark), encoding
    return data, None


def _read_as_windows_31j(error: UnicodeError) -> tuple[str, int]:
    """Reads two bytes of EUC-JP that Python does not know: to browsers they are those characters of
    NEC and IBM, such as ①, that Windows-31J (cp932) has in the same row and cell.
    """
    assert isinstance(error, UnicodeDecodeError)
    end = error.start + 2
    pair = error.object[error.start : end]
    if len(pair) < 2 or not all(0xA1 <= byte <= 0xFE for byte in pair):
        raise error
    row, cell = (byte - 0xA1 for byte in pair)
    lead = row // 2 + (0x81 if row < 62 else 0xC1)
    trail = cell + (0x9F if row % 2 else 0x40 if cell < 63 else 0x41)
    try:
        return bytes([lead, trail]).decode("cp932"), end
    except UnicodeDecodeError:
        raise error from None


codecs.register_error(_WINDOWS_31J, _read_as_windows_31j)


def _declared(head: bytes) -> str:
    labels = (label.decode("latin-1") for label in _labels(head))
    known = next(filter(None, map(webencodings.lookup, labels)), None)
    if known is None:
        return "utf-8"
    if known.name == "replacement":
        raise InvalidArgument("is in an encoding that browsers refuse; convert it to UTF-8", "text")
    return _CODECS.get(known.name, str(known.codec_info.name))


def _labels(head: bytes) -> Iterator[bytes]:
    """The encodings that the page names, the more important ones first."""
    at = 0
    while markup := _MARKUP.search(head, at):
        at = markup.end()
        attributes: dict[bytes, bytes] = {}
        while markup["tag"] and (found := _ATTRIBUTE.match(head, at)):
            at = found.end()
            value = found["double"] or found["single"] or found["bare"] or b""
            attributes.setdefault(found["name"].lower(), value)
        if (markup["tag"] or b"").lower() == b"meta":
            if charset := attributes.get(b"charset"):
                yield charset
            elif attributes.get(b"http-equiv", b"").strip().lower() == b"content-type":
                yield from _CHARSET.findall(attributes.get(b"content", b""))[:1]
    if declaration := _XML_ENCODING.match(head):
        yield declaration[1]
