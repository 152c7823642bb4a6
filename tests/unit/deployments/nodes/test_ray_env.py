"""What `raygion ray-env` prints is what `ray start` needs, and what it names is there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import Unavailable
from deployments.nodes import ray_starter

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
SETTINGS = """
regions:
  here: {http: {port: 8123, in_flight_max: 77, answers_in_flight_max: 5}}
generator: {source: null}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # A folder that a shell would take for two.
    made = tmp_path / "of mine"
    made.mkdir()
    (made / "regions.yaml").write_text(SETTINGS)
    return made


def raygion(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "deployments.cli.main", *arguments]
    root = Path(__file__).resolve().parents[4]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)}
    return subprocess.run(
        command, cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout


def test_a_shell_reads_it_as_it_is_meant(folder: Path) -> None:
    meant: dict[str, str] = json.loads(raygion(folder, "ray-env", "--json"))
    (folder / "ray.env").write_text(raygion(folder, "ray-env"))
    show = f"import json, os; print(json.dumps({{k: os.environ[k] for k in {list(meant)!r}}}))"
    script = '. ./ray.env && exec "$0" -c "$1"'
    read = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, show],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert json.loads(read) == meant
    assert meant["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert meant[CALLBACK].startswith("deployments.")


def test_the_program_that_it_names_is_haproxy_with_the_bounds_of_the_region(folder: Path) -> None:
    meant: dict[str, str] = json.loads(raygion(folder, "ray-env", "--json"))
    program = Path(meant["RAY_SERVE_HAPROXY_BINARY_PATH"])
    version = subprocess.run([program, "-v"], check=True, capture_output=True, text=True).stdout
    assert version.startswith("HAProxy version")
    changes = (program.parent / "haproxy.sed").read_text()
    assert "nbsrv,mul(77)" in changes
    assert "nbsrv,mul(5)" in changes
    assert ":8123$" in changes


def test_others_on_the_machine_do_not_reach_haproxys_files(folder: Path) -> None:
    meant: dict[str, str] = json.loads(raygion(folder, "ray-env", "--json"))
    named = [
        Path(meant[f"RAY_SERVE_HAPROXY_{name}"])
        for name in ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_FILE", "METRICS_SOCKET_PATH")
    ]
    (private,) = {path.parent for path in named}
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    # Serve adds the node's id, and HAProxy for a while a process id, to the name of a socket.
    longest = private / ("0" * 56) / f"{named[1].name}.4194304.tmp"
    assert len(bytes(longest)) <= 107


def test_a_folder_that_is_not_the_users_alone_is_refused(tmp_path: Path) -> None:
    ray_starter.machine_env(tmp_path, short_parent=tmp_path)
    (tmp_path / f"raygion-{os.getuid()}").chmod(0o750)
    with pytest.raises(Unavailable, match="not a folder of this user alone"):
        ray_starter.machine_env(tmp_path, short_parent=tmp_path)
