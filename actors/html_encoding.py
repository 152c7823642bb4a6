"""The encoding of an HTML page, as browsers find it: https://encoding.spec.whatwg.org and
https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding
"""

from __future__ import annotations

import codecs
import re

import webencodings

from cluster.errors import InvalidArgument

_PRESCAN_BYTES = 1024
_COMMENT = re.compile(rb"<!--.*?(-->|$)", re.DOTALL)
_META_CHARSET = re.compile(rb"<meta[\s/][^>]*?charset\s*=\s*[\"']?\s*([^\s\"'/>;]+)", re.IGNORECASE)
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


def decode_html(data: bytes) -> str:
    """The text of a page in the encoding of its byte order mark, else of its `meta` tag, else (also
    where browsers do not know what the tag says) in UTF-8.

    Raises InvalidArgument where the page is not in that encoding.
    """
    encoding = _declared(data)
    for mark, marked in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            data, encoding = data.removeprefix(mark), marked
            break
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"is not {encoding} text (byte {error.start}), which it claims to be or which "
            "a page without a claim is; convert it to UTF-8",
            "text",
        ) from None


def _declared(data: bytes) -> str:
    found = _META_CHARSET.search(_COMMENT.sub(b"", data[:_PRESCAN_BYTES]))
    known = webencodings.lookup(found.group(1).decode("latin-1")) if found else None
    if known is None:
        return "utf-8"
    if known.name == "replacement":
        raise InvalidArgument("is in an encoding that browsers refuse; convert it to UTF-8", "text")
    return _CODECS.get(known.name, str(known.codec_info.name))
