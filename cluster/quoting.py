"""Texts of users as they go into messages."""

from __future__ import annotations

_LENGTH_MAX = 64


def printable(text: str) -> str:
    """The text itself, or with escapes where it would not be printed as it is: the name of a file
    may hold any character, a terminal's commands among them.
    """
    return text if text.isprintable() else ascii(text)[1:-1]


def quoted(text: str) -> str:
    """The text, printable and bounded."""
    shown = printable(text)
    return shown if len(shown) <= _LENGTH_MAX else shown[: _LENGTH_MAX - 3] + "..."
