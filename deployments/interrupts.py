"""Ctrl-C and a polite kill: both end a command in good order, and neither its clearing away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_BOTH = (signal.SIGINT, signal.SIGTERM)


def end_alike() -> None:
    """From now on SIGTERM raises KeyboardInterrupt in the main thread, as Ctrl-C does, which a
    program that a script started in the background would ignore.
    """
    for number in _BOTH:
        signal.signal(number, signal.default_int_handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Nothing interrupts the block: an impatient second Ctrl-C must not leave half of it undone.

    For the main thread only.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _BOTH}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
