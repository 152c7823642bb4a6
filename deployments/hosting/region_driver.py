"""The Ray driver of one region as a process of its own.

Ray allows a process one cluster, and what Ray Serve reads from the environment it reads once. So
whoever handles several regions on one machine stays out of all clusters and lets a driver process
act in each: the demo of several regions, their tests and their benchmark.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from cluster.errors import Unavailable
from cluster.progress import Note
from deployments.installation import Installation
from deployments.nodes.local_cluster import LocalCluster, find_local_cluster

T = TypeVar("T")

_NOTE, _DONE, _FAILED = range(3)
_END_S = 5.0


class RegionDriver:
    """A region on this machine and the process that acts in its cluster.

    Calls come from any thread and are made one at a time. The process dies with this one; the
    region's cluster does not, so `stop` it.
    """

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._turn = threading.Lock()
        # Spawned, since Ray does not survive a fork.
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs,), name=f"driver of {installation.region}", daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def region(self) -> str:
        return self.installation.region

    @property
    def cluster(self) -> LocalCluster | None:
        """The region's cluster, if it was started here and not stopped since."""
        return find_local_cluster(self.installation.run_folder)

    def run(
        self,
        function: Callable[..., T],
        *args: object,
        note: Note | None = None,
        timeout_s: float = 900.0,
    ) -> T:
        """Calls `function(installation, note, *args)` in the driver process.

        The function must be one of a module's. Raises what it raises; Unavailable when the process
        is gone, or not done in time: then it is ended.
        """
        with self._turn:
            try:
                self._pipe.send((function, self.installation, args))
                while self._pipe.poll(timeout_s):
                    kind, value = self._pipe.recv()
                    if kind == _DONE:
                        return cast(T, value)
                    if kind == _FAILED:
                        raise value
                    if note is not None:
                        note(value)
            except (EOFError, OSError) as error:
                raise Unavailable(f"the driver of region {self.region} has ended") from error
            self.end()
            raise Unavailable(f"the driver of region {self.region} took over {timeout_s:.0f} s")

    def coordinator(self, method: str, *args: object) -> Any:
        """Calls a method of the `CoordinatorClient`; raises what it raises."""
        return self.run(_call_coordinator, method, args)

    def pids(self, title: str = "") -> list[int]:
        """The processes of the region whose title begins so, such as `ray::Coordinator`."""
        cluster = self.cluster
        return [] if cluster is None else cluster.pids(title)

    def kill(self) -> int:
        """Kills the driver and every process of the region at once, as a lost site would; returns
        how many. What the cluster left on the disk stays until `stop`.
        """
        self.end()
        killed: set[int] = set()
        # Some are just being started by others.
        while pids := [pid for pid in self.pids() if pid not in killed]:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        return len(killed)

    def end(self) -> None:
        """Ends the driver process, whatever it does; the region goes on without it."""
        self._process.terminate()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_END_S)

    def stop(self) -> None:
        """Ends the driver process and the region's cluster."""
        self.end()
        if (cluster := self.cluster) is not None:
            cluster.stop()


def run_in_each(
    drivers: Sequence[RegionDriver],
    function: Callable[..., T],
    *args: object,
    note: Note | None = None,
) -> list[T]:
    """Calls `function(installation, note, *args)` in each region side by side; the results in the
    order of the drivers. Raises the first failure.
    """

    def labelled(driver: RegionDriver) -> Note | None:
        return None if note is None else lambda text: note(f"{driver.region}: {text}")

    with ThreadPoolExecutor(len(drivers)) as threads:
        futures = [threads.submit(d.run, function, *args, note=labelled(d)) for d in drivers]
        try:
            return [future.result() for future in futures]
        except BaseException:
            # The others are not worth waiting for: interrupted, or one region failed.
            for driver in drivers:
                driver.end()
            raise


# The part that runs in the driver's process.


def _work(pipe: Connection) -> None:
    # Ctrl-C in a terminal reaches every process of it; when to end is the parent's decision. Not
    # SIG_IGN, which the processes started from here would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    while True:
        try:
            function, installation, args = pipe.recv()
        except EOFError:
            return
        try:
            result = function(installation, lambda text: pipe.send((_NOTE, text)), *args)
            pipe.send((_DONE, result))
        except Exception as error:
            pipe.send((_FAILED, _portable(error)))


def _portable(error: Exception) -> Exception:
    """The error itself where it survives the way to another process, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error


def _call_coordinator(
    installation: Installation,
    note: Note,
    method: str,
    args: Sequence[object],
) -> object:
    from actors.coordinator.client import CoordinatorClient

    return getattr(CoordinatorClient(), method)(*args)


def join_new_cluster(installation: Installation, note: Note) -> None:
    """Starts the region's cluster, or finds it running, and makes the process its driver."""
    from deployments.hosting import region_host

    region_host.start_cluster(installation)
    region_host.join(installation)


def start_services(installation: Installation, note: Note) -> None:
    """Coordinator and HTTP endpoint on the joined cluster."""
    from deployments.hosting import region_host

    region_host.start_services(installation, note)
