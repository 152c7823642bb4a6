"""What the local store promises beyond the contract: killed and failing writers leave nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.clock import SYSTEM_CLOCK, Backoff, Deadline
from cluster.errors import OutcomeUnknown, Unavailable
from cluster.store import local_store
from cluster.store.local_store import LocalStore
from cluster.store.numbered_log import put_or_get
from cluster.store.paths import TEMP_FOLDER
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[4]

UPLOAD = """
import sys
from pathlib import Path
from cluster.store.local_store import LocalStore
LocalStore(Path(sys.argv[1])).upload_if_absent("folder/file", Path(sys.argv[2]), "0" * 64)
"""


def test_a_writer_killed_halfway_leaves_nothing_to_see(tmp_path: Path) -> None:
    root, pipe = tmp_path / "store", tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", UPLOAD, str(root), str(pipe)]
    writer = subprocess.Popen(command, cwd=ROOT)
    with pipe.open("wb") as source:
        source.write(b"x" * (2 * local_store.CHUNK_BYTES))
        source.flush()
        temp_folder = root / TEMP_FOLDER
        wait_until(lambda: sum(file.stat().st_size for file in temp_folder.iterdir()) > 0)
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=10)
    store = LocalStore(root)
    assert not store.exists("folder/file")
    assert store.list_names("folder") == []

    (leftover,) = temp_folder.iterdir()
    store.sweep_temp_files(SYSTEM_CLOCK.wall_ms())
    assert leftover.exists(), "it might belong to a living writer"
    store.sweep_temp_files(SYSTEM_CLOCK.wall_ms() + local_store.TEMP_AGE_MAX_MS + 1000)
    assert not leftover.exists()
    store.put_if_absent("folder/file", b"whole")
    assert store.get("folder/file") == b"whole"


def test_a_failing_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space"):
        store.put_if_absent("folder/file", b"data")
    monkeypatch.undo()
    assert not store.exists("folder/file")
    assert list((tmp_path / TEMP_FOLDER).iterdir()) == []


def test_a_write_whose_name_may_not_last_is_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is there already when its folder cannot be synced."""
    store, real = LocalStore(tmp_path), os.fsync

    def full(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and (folder / "file").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    folder = tmp_path / "folder"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutcomeUnknown, match="folder/file"):
        store.put_if_absent("folder/file", b"data")
    with pytest.raises(OutcomeUnknown):
        # What is there is read back, and is no proof as long as the folder is not synced.
        put_or_get(
            store,
            "folder/file",
            b"data",
            deadline=Deadline.after(20.0),
            backoff=Backoff(),
            rng=random.Random(0),
            sleep=lambda _: None,
        )
    monkeypatch.undo()
    assert store.get("folder/file") == b"data"


def test_errors_of_the_system_have_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.put_if_absent("folder/file", b"data")
    real = os.stat

    def stale(path: object, *args: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path}/"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(cast(str, path), *args, **options)

    monkeypatch.setattr(os, "stat", stale)
    asked: list[Callable[[], object]] = [
        lambda: store.put_if_absent("folder/file", b"other"),
        lambda: store.put_if_absent("folder/other", b"other"),
        lambda: store.exists("folder/file"),
        lambda: store.get("folder/none"),
        lambda: store.list_names("none"),
    ]
    for ask in asked:
        with pytest.raises(Unavailable, match="Stale"):
            ask()


def test_a_listing_that_breaks_off_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        path = name = "file"

        def is_file(self) -> bool:
            raise OSError(errno.EIO, "Input/output error")

        is_dir = is_file

    store = LocalStore(tmp_path)
    monkeypatch.setattr(os, "scandir", lambda folder: contextlib.nullcontext([Broken()]))
    for ask in (store.list_names, store.list_objects, store.list_folders):
        with pytest.raises(Unavailable, match="Input/output"):
            ask("folder")


def test_a_temporary_file_of_somebody_else_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    leftover = tmp_path / TEMP_FOLDER / "leftover"
    leftover.parent.mkdir()
    leftover.touch()

    def refuse(path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    store.sweep_temp_files(SYSTEM_CLOCK.wall_ms() + local_store.TEMP_AGE_MAX_MS + 1000)
    assert leftover.exists()


def test_a_store_that_is_gone_is_neither_empty_nor_made_anew(tmp_path: Path) -> None:
    root, away = tmp_path / "share", tmp_path / "away"
    opened = LocalStore(root)
    opened.put_if_absent("releases/1", b"one")
    store: LocalStore = pickle.loads(pickle.dumps(opened))
    root.rename(away)
    root.mkdir()  # what is left of a mount
    asked: list[Callable[[], object]] = [
        lambda: store.exists("releases/2"),
        lambda: store.get("releases/1"),
        lambda: store.list_names("releases"),
        lambda: store.put_if_absent("releases/1", b"another"),
        lambda: store.put("regions/a", b"here"),
    ]
    for ask in asked:
        with pytest.raises(Unavailable, match="is the share mounted"):
            ask()
    assert list(root.iterdir()) == []
    root.rmdir()
    away.rename(root)
    assert store.list_names("releases") == ["1"]
    assert not store.exists("releases/2")
