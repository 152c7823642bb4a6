"""Text files in the encodings that editors and spreadsheets write with a byte order mark."""

from __future__ import annotations

import codecs
import io
from typing import Any

from cluster.errors import InvalidArgument

_ENCODINGS = {
    # Before UTF-16, whose mark this one begins with.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MARK_BYTES_MAX = 4
_CHAR_BYTES_MAX = 4
"""Bytes of a character in UTF-8."""


def in_utf8(file: io.BufferedReader, name: str) -> io.BufferedReader:
    """The file, as UTF-8 if its byte order mark says that it is UTF-16 or UTF-32. Reading raises
    InvalidArgument where the mark is wrong.
    """
    head = file.peek(_MARK_BYTES_MAX)
    encoding = next((_ENCODINGS[mark] for mark in _ENCODINGS if head.startswith(mark)), None)
    return file if encoding is None else io.BufferedReader(_Recoded(file, encoding, name))


class _Recoded(io.RawIOBase):
    def __init__(self, file: io.BufferedReader, encoding: str, name: str) -> None:
        self._text = io.TextIOWrapper(file, encoding, newline="")
        self._encoding = encoding
        self._name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._text.read(len(buffer) // _CHAR_BYTES_MAX).encode()
        except UnicodeDecodeError:
            raise InvalidArgument(
                f"{self._name}: begins with the byte order mark of {self._encoding.upper()}, but "
                "is not text in that encoding; convert it to UTF-8"
            ) from None
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """To the start alone."""
        if (offset, whence) != (0, io.SEEK_SET):
            raise io.UnsupportedOperation("the text can be read from its start alone")
        return self._text.seek(0)

    def close(self) -> None:
        self._text.close()
        super().close()
