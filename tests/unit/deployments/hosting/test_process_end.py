"""A command ends as the interpreter would end it, with the status that it was given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
# What the interpreter waits for and runs at its end, and a destructor that would abort the process.
SCRIPT = """
import atexit, ctypes, sys, threading
from concurrent.futures import ThreadPoolExecutor
from deployments.hosting.interrupts import end_process

ending = threading.Event()

def late(text, begin):
    begin()
    print(text)

atexit.register(print, "at exit")
threading.Thread(target=late, args=("thread", threading.main_thread().join)).start()
ThreadPoolExecutor(1).submit(late, "pool", ending.wait)
# The interpreter calls it first, then waits for pools, and then for other threads.
threading._register_atexit(ending.set)
libc = ctypes.CDLL(None)
libc.__cxa_atexit(ctypes.cast(libc.abort, ctypes.c_void_p), None, None)
sys.stdout.write("no line break")
if sys.argv[1] == "by itself":
    sys.exit(3)
end_process(3)
"""


@pytest.mark.parametrize(("how", "status"), [("at once", 3), ("by itself", -6)])
def test_all_is_done_but_native_destructors(how: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status
    if how == "at once":
        assert done.stdout.split("\n") == ["no line breakpool", "thread", "at exit", ""]
