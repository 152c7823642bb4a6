"""Lets Ctrl-C and SIGTERM end a command in good order, but not interrupt its clearing away."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

_BOTH = (signal.SIGINT, signal.SIGTERM)


def end_alike() -> None:
    """From now on SIGTERM raises KeyboardInterrupt in the main thread, as Ctrl-C does, which a
    program that a script started in the background would ignore.
    """
    for number in _BOTH:
        signal.signal(number, signal.default_int_handler)


def end_process(status: int) -> NoReturn:
    """Ends the process as the interpreter does, but for the destructors of native libraries.

    On a busy machine those ended 3 of 400 processes with "terminate called without an active
    exception" and status 134, after all went well. Whose it was is not known: no thread of Python's
    ran any more, and Arrow was among the libraries.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


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
