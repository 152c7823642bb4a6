"""This machine as one of the machines of a region: Ray on it, started, found again and ended.

`ray up` starts Ray on every machine with `raygion up -- ray start ...` or `raygion join -- ray
start ...`. Both leave a record in `RECORD`, so that every later command on the machine finds the
settings, the cluster and the secret, whatever folder it is called from. A keeper
(`deployments.nodes.machine_keeper`) holds Ray's processes together, and a mark in their environment
says which ones they are; so ending them touches no other Ray on the machine.
"""

from __future__ import annotations

import os
import resource
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from cluster.clock import wait_until
from cluster.errors import Conflict, InvalidArgument, Unavailable
from cluster.records import Record
from cluster.store.file_lock import locked
from deployments.nodes import machine_keeper
from deployments.nodes.detached import spawn_detached
from deployments.nodes.gcs_storage import check_redis, remove_cluster_state, storage_env
from deployments.nodes.haproxy import GatewaySlots
from deployments.nodes.marked_processes import (
    GRACE_S,
    MARKER_VARIABLE,
    end_marked_processes,
    is_marked,
    marked_processes,
)
from deployments.nodes.ports import check_http_port
from deployments.nodes.ray_starter import (
    auth_env,
    failure_report,
    machine_env,
    write_haproxy_wrapper,
)

RECORD = Path(".config/raygion/machine.json")
"""Path in the home folder."""
_LOCK = "start.lock"
"""Name of the lock file beside the record."""
_RAYLET = "raylet"
_STARTED = "Ray runtime started."
_START_TIMEOUT_S = 180.0
_END_TIMEOUT_S = 30.0
_GCS_TIMEOUT_S = 10.0
_JOIN_ATTEMPTS = 3
"""Ray's autoscaler never again asks a machine to join that has failed to do so once."""
_OPEN_FILES = 65_536
"""Each connection is one, and so is each file that is mapped."""


class Machine(Record):
    """The record of the Ray node that was started on this machine last."""

    config: Path
    """The settings file of the installation that started it."""
    region: str
    ray_address: str
    """Host and port of the cluster's control store."""
    token_path: Path
    """The file with the cluster's secret."""
    marker: str
    keeper_pid: int
    """0 while it is not known, and after `stop`."""
    is_head: bool
    gcs_redis: str | None = None
    """Host and port of the Redis that has the control store's state, if one has."""

    @property
    def was_stopped(self) -> bool:
        """True when the node ended because somebody wanted it so."""
        return self.keeper_pid == 0

    def is_alive(self) -> bool:
        return is_marked(self.keeper_pid, self.marker)

    def stop(self) -> list[int]:
        """Ends all processes of the node and returns their pids. Raises Unavailable when one
        outlives that.
        """
        if (recorded := find_machine()) is not None and recorded.marker == self.marker:
            # First of all: a watch would take the node for one that has died.
            record_machine(self.model_copy(update={"keeper_pid": 0}))
        # Agents that lost their raylet never end when they are asked.
        grace_s = GRACE_S if self.is_alive() else 0.0
        ended = end_marked_processes(self.marker, timeout_s=_END_TIMEOUT_S, grace_s=grace_s)
        if self.is_head and self.gcs_redis is not None:
            remove_cluster_state(self.gcs_redis, self.marker)
        return ended


def find_machine() -> Machine | None:
    """The record of this machine; None where Ray was never started in this way. Raises Corrupt."""
    path = Path.home() / RECORD
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return Machine.from_bytes(data, source=str(path))


def record_machine(machine: Machine) -> None:
    """Records the machine where `find_machine` finds it."""
    path = _record_folder() / RECORD.name
    draft = path.with_suffix(".new")
    draft.write_bytes(machine.to_bytes())
    draft.chmod(0o600)
    draft.replace(path)


def runs_as_head() -> bool:
    """True when this machine is the head of a region that runs. Raises Corrupt."""
    found = find_machine()
    return found is not None and found.is_head and found.is_alive()


@contextmanager
def _no_other_start() -> Iterator[None]:
    """Waits for a start that is under way on this machine, and lets no other one begin meanwhile:
    that would take what has been started so far for the rest of a dead node, and end it.
    """
    with locked(_record_folder() / _LOCK):
        yield


class NodeStarter:
    """Starts Ray on this machine with a given `ray start` command, or finds it running."""

    def __init__(
        self,
        *,
        config: Path,
        region: str,
        run_folder: Path,
        slots: GatewaySlots,
        http_port: int,
        gcs_redis: str | None,
        command: Sequence[str],
    ) -> None:
        """`run_folder` takes HAProxy's program and the log. Raises InvalidArgument when the
        command is not `ray start ...`, or the environment does not name the cluster's secret.
        """
        if list(command[:2]) != ["ray", "start"]:
            raise InvalidArgument("must be `ray start` with its options, after `--`", "command")
        if "--block" in command:
            raise InvalidArgument("leave --block out: Raygion itself keeps watch", "command")
        self._config = config
        self._region = region
        self._run_folder = run_folder
        self._slots = slots
        self._http_port = http_port
        self._gcs_redis = gcs_redis
        self._command = command
        self._token_path = _token_path()

    @_no_other_start()
    def start_head(self) -> tuple[Machine, bool]:
        """The node, and whether it was started by this call.

        Raises Conflict when the machine serves another region, InvalidArgument when the port of the
        HTTP endpoint is taken, Unavailable when Ray does not start; nothing of it is left running
        then.
        """
        found = self._found()
        if found is not None and found.is_head and found.is_alive():
            return found, False
        if found is not None:
            found.stop()
        check_http_port(self._http_port)
        if self._gcs_redis is not None:
            check_redis(self._gcs_redis)
        return self._start(), True

    @_no_other_start()
    def start_worker(self) -> tuple[Machine, bool]:
        """Same as `start_head`, for a worker. A node that the cluster has given up is ended and
        started anew.
        """
        found = self._found()
        if found is not None and found.is_alive():
            if found.is_head:
                raise Conflict(f"this machine is the head of region {found.region!r}")
            if _is_member(found):
                return found, False
        for attempt in range(1, _JOIN_ATTEMPTS + 1):
            if found is not None:
                found.stop()
            try:
                return self._start(), True
            except Unavailable:
                if attempt == _JOIN_ATTEMPTS:
                    raise
            found = find_machine()
        raise AssertionError("the loop returns or raises")

    def _found(self) -> Machine | None:
        """The record of this machine. Raises Conflict when it serves another region."""
        found = find_machine()
        if found is None or (found.config, found.region) == (self._config, self._region):
            return found
        if found.is_alive():
            raise Conflict(
                f"this machine serves region {found.region!r} of {found.config}; "
                "end that region with `raygion down` first"
            )
        return found

    def _start(self) -> Machine:
        logs = self._run_folder / "logs"
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_haproxy_wrapper(self._run_folder, self._slots, self._http_port)
        _allow_many_files()
        machine = Machine(
            config=self._config,
            region=self._region,
            ray_address="",
            token_path=self._token_path,
            marker=secrets.token_hex(16),
            keeper_pid=0,
            is_head="--head" in self._command,
            gcs_redis=self._gcs_redis,
        )
        # The record comes before the first process, so that a start that is cut off can be ended.
        record_machine(machine)
        log = logs / "ray-start.log"
        command = [*machine_keeper.COMMAND, *self._command]
        env = self._environment(machine)
        keeper = spawn_detached(command, env=env, cwd=Path.home(), log=log)
        machine = machine.model_copy(update={"keeper_pid": keeper})
        record_machine(machine)
        try:
            _wait_for_start(machine, log)
            started = _raylet_options(machine)
        except BaseException:
            machine.stop()
            raise
        machine = machine.model_copy(update={"ray_address": started["gcs-address"]})
        record_machine(machine)
        return machine

    def _environment(self, machine: Machine) -> dict[str, str]:
        return {
            **machine_env(self._run_folder),
            # What the launcher says of the machine, and whatever the user has set, goes over that.
            **os.environ,
            # The launcher would have Ray report to its makers, wherever the laptop has not refused.
            "RAY_USAGE_STATS_ENABLED": "0",
            **auth_env(machine.token_path),
            **(storage_env(machine.gcs_redis, machine.marker) if machine.is_head else {}),
            MARKER_VARIABLE: machine.marker,
            # Titles like `ray::IDLE` may otherwise be written over the environment, and the mark.
            "SPT_NOENV": "1",
        }


def _record_folder() -> Path:
    folder = (Path.home() / RECORD).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _token_path() -> Path:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if not named:
        raise InvalidArgument(
            "set it to the file with the cluster's secret, which all machines share",
            "RAY_AUTH_TOKEN_PATH",
        )
    path = Path(named).expanduser().absolute()
    if not path.is_file():
        raise InvalidArgument(f"there is no file {path}", "RAY_AUTH_TOKEN_PATH")
    return path


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _wait_for_start(machine: Machine, log: Path) -> None:
    def has_started() -> bool:
        return _STARTED in log.read_text(errors="replace")

    if not wait_until(
        lambda: has_started() or not machine.is_alive(), _START_TIMEOUT_S, poll_s=0.1
    ):
        problem = f"is not up after {_START_TIMEOUT_S:g} s"
    elif not has_started():
        problem = "did not start"
    else:
        return
    report = failure_report(log=log, ray_logs=Path("/tmp/ray/session_latest/logs"))
    raise Unavailable(f"Ray {problem} on {socket.gethostname()}, see {log}\n{report}")


def _raylet_options(machine: Machine) -> Mapping[str, str]:
    """The options of the node's raylet, which say where it and the cluster are.

    Raises Unavailable when the raylet has just died.
    """
    for process in marked_processes(machine.marker):
        try:
            if process.name() == _RAYLET:
                pairs = (option.lstrip("-").split("=", 1) for option in process.cmdline()[1:])
                return {pair[0].replace("_", "-"): pair[1] for pair in pairs if len(pair) == 2}
        except psutil.Error:
            continue
    raise Unavailable("Ray has ended right after its start; see its logs in /tmp/ray")


def _is_member(machine: Machine) -> bool:
    """True when the cluster counts the node that runs on this machine among those alive."""
    from ray.exceptions import RpcError

    from actors.runtime.cluster_join import prepare_to_join
    from actors.runtime.ray_private import GcsClient

    try:
        prepare_to_join(machine.ray_address, machine.token_path)
        own = _raylet_options(machine)["node-id"]
        nodes = GcsClient(address=machine.ray_address).get_all_node_info(timeout=_GCS_TIMEOUT_S)
    except (Unavailable, InvalidArgument, KeyError, RpcError):
        return False
    return any(node.node_id.hex() == own and node.state == _ALIVE for node in nodes.values())


_ALIVE = 0
"""State of a node that is alive, as Ray's protocol numbers it."""
