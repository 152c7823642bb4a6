"""What keeps a process out of a cluster is told at once, and by its name."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.runtime import cluster_join
from actors.runtime.cluster_join import not_joined, prepare_to_join
from cluster.errors import InvalidArgument, Unavailable


@pytest.fixture(autouse=True)
def _outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has no secret of any cluster, in a process that Ray's core does not hear of."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(cluster_join, "reread_environment", lambda: None)


@pytest.fixture
def address() -> Iterator[str]:
    """Where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_that_does_not_run_is_named(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(Unavailable, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        prepare_to_join(f"127.0.0.1:{port}", None)


@pytest.mark.parametrize("where", ["address", "auto"])
def test_without_a_secret_it_is_said_how_to_give_it(address: str, where: str) -> None:
    with pytest.raises(InvalidArgument, match=r"RAY_AUTH_TOKEN_PATH: .*no file .*auth_token"):
        prepare_to_join(address if where == "address" else where, None)


def test_the_secret_is_taken_from_the_file_that_is_named(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    with pytest.raises(InvalidArgument, match=r"no file .*secret"):
        prepare_to_join(address, file)
    file.write_text("0" * 64)
    prepare_to_join(address, file)
    # An inherited secret of another cluster would win over it.
    assert cluster_join.os.environ["RAY_AUTH_TOKEN"] == ""
    assert cluster_join.os.environ["RAY_AUTH_TOKEN_PATH"] == str(file)
    assert cluster_join.os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("named", ["RAY_AUTH_TOKEN", "~/.ray/auth_token"])
def test_one_that_ray_itself_would_take_raises_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    if named == "RAY_AUTH_TOKEN":
        monkeypatch.setenv(named, "0" * 64)
    else:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    prepare_to_join(address, None)


def test_a_secret_that_is_refused_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/of/mine")
    error = not_joined("10.0.0.1:6379", ConnectionError("Failed to connect"))
    assert "Failed to connect" in str(error)
    assert "is the secret in /of/mine the cluster's?" in str(error)
