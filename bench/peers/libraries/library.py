"""Systems without a server: a child process opens the library and asks it from threads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.load.client import LoadReport
from bench.load.processes import pss_bytes
from bench.peers.children import PEERS_PYTHON, check_alive, child
from bench.peers.contract import SERVER_CASES, Case, NotMeasured, System
from bench.peers.vector_sets import VectorSet
from cluster.arrays import Float32Array, Int64Array


class LibrarySystem:
    """The loop's CPU time is the system's: they are one process."""

    def __init__(
        self,
        title: str,
        process: subprocess.Popen[bytes],
        folder: Path,
        log: Path,
        cases: Sequence[Case],
    ) -> None:
        self._process = process
        self._folder = folder
        self._log = log
        self._effort = 0
        self.title = title
        self.forms: Sequence[str] = ("calls",)
        self.cases = cases
        facts = self._reply()
        self.index: str = facts["index"]
        self.is_tuned: bool = facts["is_tuned"]
        self.build_s: float = facts["build_s"]

    def set_effort(self, ef_search: int) -> None:
        self._effort = ef_search

    def rows(self, form: str, queries: Float32Array) -> Int64Array:
        """The rows found for the set's own queries, which the child has."""
        self._ask(do="rows", effort=self._effort)
        found: Int64Array = np.load(self._folder / "rows.npy")
        return found

    def run(
        self, form: str, case: Case, queries: Float32Array, warm_up_s: float, window_s: float
    ) -> LoadReport:
        reply = self._ask(
            do="run",
            clients=case.clients,
            batch=case.batch,
            effort=self._effort,
            warm_up_s=warm_up_s,
            window_s=window_s,
        )
        latencies = np.load(self._folder / "latencies.npy")
        return LoadReport(
            latencies_s=sorted(latencies.tolist()),
            window_s=reply["window_s"],
            client_cpu_s=0.0,
            server_cpu_s=reply["cpu_s"],
            machine_cpu_s=reply["machine_cpu_s"],
            server_pss_bytes=pss_bytes([self._process.pid]),
        )

    def _ask(self, **command: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            check_alive(self._process, self._log)
        reply: dict[str, Any] = json.loads(line)
        return reply


@contextmanager
def library_system(
    title: str,
    module: str,
    data: VectorSet,
    folder: Path,
    *,
    cases: Sequence[Case] = SERVER_CASES,
    in_peers_environment: bool = True,
) -> Iterator[System]:
    """Raises NotMeasured when the library is not installed or fails."""
    python = PEERS_PYTHON if in_peers_environment else Path(sys.executable)
    if not python.exists():
        raise NotMeasured("it is not installed: make bench-peers")
    log = folder / "library.log"
    loop: list[str | Path] = [
        python,
        "-m",
        "bench.peers.libraries.library_loop",
        module,
        data.folder,
        folder,
    ]
    with child(loop, log=log, piped=True) as process:
        yield LibrarySystem(title, process, folder, log, cases)
