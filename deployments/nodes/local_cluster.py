"""One region's own Ray cluster on this machine: started, found again, and ended.

Guarantees: it listens on the loopback interface only (see `deployments.nodes.loopback`); whoever
connects needs its token; it gets along with other clusters on the machine; it lives on when its
starter is gone; and `stop` ends exactly the processes that it started, from any process, however it
died.

    start_local_cluster -> run_dir/cluster.json    everything that is needed to find and stop it
                           run_dir/auth_token      its secret, new at each start
                           run_dir/logs/           what `ray start` wrote
                           /tmp/rg-XXXXXXXX/       Ray's files, short since they hold Unix sockets
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cluster.clock import wait_until
from cluster.errors import Conflict, Corrupt, Unavailable
from cluster.store.file_lock import try_lock
from deployments.nodes import machine_keeper
from deployments.nodes.detached import spawn_detached
from deployments.nodes.gcs_storage import check_redis, remove_cluster_state, storage_env
from deployments.nodes.haproxy import GatewaySlots
from deployments.nodes.marked_processes import (
    GRACE_S,
    end_marked_processes,
    is_marked,
    marked_processes,
    title_of,
)
from deployments.nodes.ports import (
    LOOPBACK,
    PortBlock,
    check_http_port,
    find_port_block,
    is_answered,
)
from deployments.nodes.ray_starter import (
    cluster_env,
    driver_env,
    failure_report,
    head_command,
    write_haproxy_wrapper,
)

_RECORD = "cluster.json"
_MARKER_FILE = "marker"
_STARTED = "Ray runtime started."
# The longest path that Ray or HAProxy makes in the temporary folder is about 90 bytes long; a Unix
# socket's may have 107.
_TEMP_PARENT_BYTES_MAX = 16
_START_ATTEMPTS_MAX = 3
_SLOTS = GatewaySlots()


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCluster:
    """A cluster on this machine, as recorded in `<run_dir>/cluster.json`.

    `head_pid` is the process that holds the head node together: when it dies, the node dies with
    it. It is 0 in the record of a start that was cut off, and of a cluster that is being ended.
    """

    name: str
    run_dir: Path
    temp_dir: Path
    port_base: int
    http_port: int
    marker: str
    head_pid: int = 0
    gcs_redis: str | None = None
    """Host and port of the Redis that has the control store's state, if one has."""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def ports(self) -> PortBlock:
        return PortBlock(base=self.port_base)

    @property
    def ray_address(self) -> str:
        return f"{LOOPBACK}:{self.ports.gcs}"

    @property
    def token_path(self) -> Path:
        return self.run_dir / "auth_token"

    def driver_env(self) -> dict[str, str]:
        """The environment that a driver needs before it imports ray."""
        return driver_env(
            ray_address=self.ray_address, token_path=self.token_path, cluster_env=self.env
        )

    def prepare_driver(self) -> None:
        """Turns this process into one whose `ray.init()` connects to this cluster.

        Also when ray was imported before, for another cluster or for none. What `ray.serve` read
        from the environment at import stays, so import that later.
        """
        os.environ.update(self.driver_env())
        if "ray" in sys.modules:
            from actors.runtime.ray_environment import reread_environment

            reread_environment()

    @property
    def was_stopped(self) -> bool:
        """True when the cluster ends because somebody wants it so."""
        return self.head_pid == 0

    def is_alive(self) -> bool:
        """True when the head node runs."""
        return is_marked(self.head_pid, self.marker)

    def pids(self, title: str = "") -> list[int]:
        """The processes of the cluster that run now, those of added nodes included: all, or those
        whose title begins so, such as `ray::Coordinator`.
        """
        running = marked_processes(self.marker)
        return [process.pid for process in running if title_of(process).startswith(title)]

    def stop(self, *, timeout_s: float = 20) -> list[int]:
        """Ends every process of the cluster, removes its files except the logs, returns the pids.

        Works from any process of the user, repeatedly, and on a cluster whose head died. Raises
        Unavailable when a process outlives the time; the record then stays for another attempt.
        """
        if self._is_recorded():
            # First of all: a watch would take the cluster for one that has died.
            record_local_cluster(replace(self, head_pid=0))
        # Agents that lost their raylet never end when they are asked.
        grace_s = GRACE_S if self.is_alive() else 0.0
        ended = end_marked_processes(self.marker, timeout_s=timeout_s, grace_s=grace_s)
        if self.gcs_redis is not None:
            remove_cluster_state(self.gcs_redis, self.marker)
        # A record that was tampered with must not lead to a foreign folder.
        if _read_text(self.temp_dir / _MARKER_FILE) == self.marker:
            with suppress(FileNotFoundError):  # somebody else stops it at the same time
                shutil.rmtree(self.temp_dir)
        if self._is_recorded():
            self.token_path.unlink(missing_ok=True)
            (self.run_dir / _RECORD).unlink(missing_ok=True)
        return ended

    def _is_recorded(self) -> bool:
        recorded = find_local_cluster(self.run_dir)
        return recorded is not None and recorded.marker == self.marker


def start_local_cluster(
    *,
    name: str,
    run_dir: Path,
    http_port: int,
    slots: GatewaySlots = _SLOTS,
    num_cpus: int | None = None,
    object_store_memory_bytes: int = 300_000_000,
    gcs_redis: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60,
) -> LocalCluster:
    """Starts a cluster and returns when drivers can connect.

    `http_port` is for Serve; 0 takes a free one. `slots` are those of one gateway behind it.
    `num_cpus` is what Ray may plan with, by default the cores of the machine. `gcs_redis` is the
    host and port of a Redis: the cluster then outlives its control store. `env` is added to the
    environment of all its processes; what keeps the cluster safe or apart from others cannot be
    overridden. What a cluster that died left behind in `run_dir` is cleared away first.

    Raises InvalidArgument when the port is taken or `gcs_redis` is no Redis, Conflict when
    `run_dir` has a running cluster, Unavailable when Ray does not come up; in each case nothing is
    left running.
    """
    run_dir = run_dir.absolute()
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (run_dir / "logs").mkdir(exist_ok=True)
    with _start_lock(run_dir):
        _end_remains(run_dir)
        if http_port:
            check_http_port(http_port)
        if gcs_redis is not None:
            check_redis(gcs_redis)
        for attempt in range(1, _START_ATTEMPTS_MAX + 1):
            ports = find_port_block(avoid=[http_port])
            cluster = LocalCluster(
                name=name,
                run_dir=run_dir,
                temp_dir=_make_temp_dir(),
                port_base=ports.base,
                http_port=http_port or ports.http,
                marker=secrets.token_hex(16),
                gcs_redis=gcs_redis,
                env=dict(env or {}),
            )
            try:
                return _start_head(
                    cluster,
                    slots=slots,
                    num_cpus=num_cpus,
                    object_store_memory_bytes=object_store_memory_bytes,
                    timeout_s=timeout_s,
                )
            except BaseException as error:
                cluster.stop()
                # Another cluster may have taken the block between the look and the start.
                lost_race = isinstance(error, Unavailable) and is_answered(ports.gcs)
                if not lost_race or attempt == _START_ATTEMPTS_MAX:
                    raise
    raise AssertionError("the loop returns or raises")


def clear_away(run_dir: Path) -> None:
    """Ends what a cluster that died left running, such as its HAProxy, which outlives it.

    Raises Conflict when the cluster in `run_dir` runs, or is just being started.
    """
    if run_dir.is_dir():
        with _start_lock(run_dir):
            _end_remains(run_dir)


def find_local_cluster(run_dir: Path) -> LocalCluster | None:
    """The cluster that was started from `run_dir` and not stopped since; ask it `is_alive`.

    Raises Corrupt when its record cannot be read.
    """
    path = run_dir.absolute() / _RECORD
    text = _read_text(path)
    if text is None:
        return None
    try:
        fields = json.loads(text)
        fields |= {key: Path(fields[key]) for key in ("run_dir", "temp_dir")}
        return LocalCluster(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Corrupt(f"{path} is not the record of a cluster: {error!r}") from error


def record_local_cluster(cluster: LocalCluster) -> None:
    """Records the cluster where `find_local_cluster` finds it."""
    draft = cluster.run_dir / f"{_RECORD}.new"
    _write_secret(draft, json.dumps(asdict(cluster), default=str, indent=2))
    draft.replace(cluster.run_dir / _RECORD)


def _end_remains(run_dir: Path) -> None:
    if previous := find_local_cluster(run_dir):
        if previous.is_alive():
            raise Conflict(f"cluster {previous.name} already runs from {run_dir}; end it first")
        previous.stop()


def _start_head(
    cluster: LocalCluster,
    *,
    slots: GatewaySlots,
    num_cpus: int | None,
    object_store_memory_bytes: int,
    timeout_s: float,
) -> LocalCluster:
    # The record comes before the first process, so that a start that is cut off can be cleaned up.
    (cluster.temp_dir / _MARKER_FILE).write_text(cluster.marker)
    _write_secret(cluster.token_path, secrets.token_hex(32))
    record_local_cluster(cluster)
    write_haproxy_wrapper(cluster.temp_dir, slots, cluster.http_port)
    command = head_command(
        temp_dir=cluster.temp_dir,
        ports=cluster.ports,
        num_cpus=num_cpus,
        object_store_memory_bytes=object_store_memory_bytes,
    )
    held = (
        [*command, "--block"] if cluster.gcs_redis is None else [*machine_keeper.COMMAND, *command]
    )
    env = cluster_env(
        marker=cluster.marker,
        temp_dir=cluster.temp_dir,
        token_path=cluster.token_path,
        ports=cluster.ports,
        added=cluster.env,
    )
    env |= storage_env(cluster.gcs_redis, cluster.marker)
    log = cluster.run_dir / "logs" / "ray-start.log"
    pid = spawn_detached(held, env=env, cwd=cluster.temp_dir, log=log)
    cluster = replace(cluster, head_pid=pid)
    record_local_cluster(cluster)
    _wait_for_start(cluster, log, timeout_s=timeout_s)
    return cluster


def _wait_for_start(cluster: LocalCluster, log: Path, *, timeout_s: float) -> None:
    def has_started() -> bool:
        return _STARTED in (_read_text(log) or "")

    if not wait_until(lambda: has_started() or not cluster.is_alive(), timeout_s, poll_s=0.05):
        problem = f"is not up after {timeout_s:g} s"
    elif not has_started() or not cluster.is_alive():
        problem = "ended while starting"
    else:
        return
    raise Unavailable(
        f"cluster {cluster.name}: Ray {problem}, see {log}\n"
        + failure_report(log=log, ray_logs=cluster.temp_dir / "r" / "session_latest" / "logs")
    )


def _make_temp_dir() -> Path:
    """A folder that only this user may enter: Ray opens its own sockets and logs to everybody."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _TEMP_PARENT_BYTES_MAX:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="rg-", dir=parent))


@contextmanager
def _start_lock(run_dir: Path) -> Iterator[None]:
    with (run_dir / "start.lock").open("wb") as file:
        if not try_lock(file):
            raise Conflict(f"another process is starting the cluster in {run_dir}")
        yield


def _write_secret(path: Path, text: str) -> None:
    """Writes a file that only this user may read, also when an older one was open to others."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
