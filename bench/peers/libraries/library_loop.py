"""The child process of a system without a server: opens it, asks it from threads in closed loops.

    python -m bench.peers.libraries.library_loop MODULE DATA_FOLDER OWN_FOLDER

Takes a command a line on standard input, gives a reply a line on standard output, both JSON; arrays
pass through files in its own folder. Imports no more than NumPy, since it runs in either virtual
environment.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bench.load.machine import machine_cpu_s

_BATCH = 64

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Library(Protocol):
    """A library, as `open_library(data, own)` of a module `bench.peers.libraries.<name>_library`
    returns it.
    """

    index: str
    is_tuned: bool
    build_s: float

    def search(self, vectors: Vectors, ef_search: int) -> Rows:
        """int64 [n, 10], padded with -1. Any thread may call it."""


def closed_loops(
    library: Library, inputs: list[Vectors], effort: int, clients: int, window_s: float
) -> tuple[list[float], float]:
    """Latencies, and how long the window was."""
    stops = threading.Event()
    latencies: list[list[float]] = [[] for _ in range(clients)]
    failures: list[BaseException] = []

    def client(number: int) -> None:
        mine, turn = latencies[number], number
        try:
            while not stops.is_set():
                given = inputs[turn % len(inputs)]
                started_s = time.perf_counter()
                library.search(given, effort)
                mine.append(time.perf_counter() - started_s)
                turn += clients
        except Exception as error:  # reported by the caller: the numbers would mean nothing
            failures.append(error)
            stops.set()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    stops.wait(window_s)
    stops.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    took_s = time.perf_counter() - started_s
    return [one for of_client in latencies for one in of_client], took_s


class _Loop:
    def __init__(self, module: str, data: Path, own: Path) -> None:
        self._own = own
        self._queries: Vectors = np.load(data / "queries.npy")
        self._library: Library = importlib.import_module(module).open_library(data, own)

    def facts(self) -> dict[str, Any]:
        library = self._library
        return {
            "index": library.index,
            "is_tuned": library.is_tuned,
            "build_s": library.build_s,
        }

    def rows(self, effort: int) -> dict[str, Any]:
        found = [
            self._library.search(self._queries[start : start + _BATCH], effort)
            for start in range(0, len(self._queries), _BATCH)
        ]
        np.save(self._own / "rows.npy", np.concatenate(found))
        return {}

    def run(
        self, clients: int, batch: int, effort: int, warm_up_s: float, window_s: float
    ) -> dict[str, Any]:
        ends = range(batch, len(self._queries) + 1, batch)
        inputs = [np.ascontiguousarray(self._queries[end - batch : end]) for end in ends]
        closed_loops(self._library, inputs, effort, clients, warm_up_s)
        all_s, cpu_s = machine_cpu_s(), time.process_time()
        latencies, took_s = closed_loops(self._library, inputs, effort, clients, window_s)
        all_s, cpu_s = machine_cpu_s() - all_s, time.process_time() - cpu_s
        np.save(self._own / "latencies.npy", np.array(latencies))
        return {"window_s": took_s, "cpu_s": cpu_s, "machine_cpu_s": all_s}


def main() -> None:
    module, data, own = sys.argv[1:]
    # Libraries print; replies must stay alone on what was standard output.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    loop = _Loop(module, Path(data), Path(own))
    print(json.dumps(loop.facts()), file=replies)
    for line in sys.stdin:
        command = json.loads(line)
        reply = getattr(loop, command.pop("do"))(**command)
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()
