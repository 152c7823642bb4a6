"""A store that accepts connections and never answers, or hardly, is given up within seconds."""

from __future__ import annotations

import hashlib
import math
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import OutcomeUnknown, Unavailable
from cluster.store.fsspec_store import FsspecStore, TransferLimits
from cluster.store.object_store import ObjectStore, open_store
from tests.support.waiting import wait_until

WAIT_S = 60.0
IMPATIENT = TransferLimits(answer_timeout_s=0.3, bytes_per_s_min=2**40, part_bytes=5 * 2**20)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
TRICKLE = b"HTTP/1.1 200 OK\r\nX-Padding: "


class HangingServer:
    """Reads what it is sent. Over the connections that hang it answers nothing, or begins a header
    that never ends; over all others it has nothing of what it is asked for.
    """

    def __init__(self) -> None:
        self.hanging = math.inf
        """So many connections hang, the first ones."""
        self.accepted = 0
        self.trickles = False
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def options(self) -> dict[str, object]:
        port = self._listener.getsockname()[1]
        return {"endpoint_url": f"http://127.0.0.1:{port}", "key": "k", "secret": "s"}

    def stop(self) -> None:
        self._ended.set()
        for connection in [self._listener, *self._open]:
            connection.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.append(connection)
            serve = self._hang if self.accepted <= self.hanging else self._answer
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(NOT_FOUND)
        connection.close()

    def _hang(self, connection: socket.socket) -> None:
        try:
            while connection.recv(65_536) and not self.trickles:
                pass
            connection.sendall(TRICKLE)
            while not self._ended.wait(0.05):
                connection.sendall(b"x")
        except OSError:
            return


@pytest.fixture
def server() -> Iterator[HangingServer]:
    server = HangingServer()
    yield server
    server.stop()


def loaded(
    server: HangingServer, options: Mapping[str, object], limits: TransferLimits
) -> FsspecStore:
    """A store whose client is loaded, which takes longer than these limits: all stores with the
    same options share it.
    """
    server.hanging = 0
    patient = TransferLimits(answer_timeout_s=WAIT_S, part_bytes=limits.part_bytes)
    assert not FsspecStore("s3://bucket/folder", options, patient).exists("a/b")
    server.hanging, server.accepted = math.inf, 0
    return FsspecStore("s3://bucket/folder", options, limits)


@pytest.fixture
def store(server: HangingServer) -> FsspecStore:
    return loaded(server, server.options, IMPATIENT)


def within(call: Callable[[], object]) -> None:
    """Lets `call` raise; fails when it has not ended in a minute."""
    caller = ThreadPoolExecutor(1)
    try:
        caller.submit(call).result(timeout=WAIT_S)
    finally:
        caller.shutdown(wait=False)


READS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.get("a/b"),
    "read_range": lambda store: store.read_range("a/b", 0, 10),
    "exists": lambda store: store.exists("a/b"),
    "size": lambda store: store.size("a/b"),
    "list_names": lambda store: store.list_names("a"),
    "list_objects": lambda store: store.list_objects("a"),
    "list_folders": lambda store: store.list_folders("a"),
    "remove": lambda store: store.remove("a/b"),
}


@pytest.mark.parametrize("trickles", [False, True])
@pytest.mark.parametrize("read", READS)
def test_reads_are_given_up(
    server: HangingServer, store: FsspecStore, read: str, trickles: bool
) -> None:
    server.trickles = trickles
    with pytest.raises(Unavailable, match=r"cannot read a.*: no answer within"):
        within(lambda: READS[read](store))


@pytest.mark.parametrize("size_bytes", [10, IMPATIENT.part_bytes + 1])
def test_of_a_write_that_is_given_up_the_outcome_is_unknown(
    store: FsspecStore, tmp_path: Path, size_bytes: int
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(size_bytes))
    for write in (
        lambda: store.put_if_absent("a/b", b"x"),
        lambda: store.put("a/b", b"x"),
        lambda: store.upload_if_absent("a/b", file, hashlib.sha256(file.read_bytes()).hexdigest()),
    ):
        with pytest.raises(OutcomeUnknown, match="a/b may or may not have been written"):
            within(write)


def test_a_store_that_hangs_is_not_opened(server: HangingServer) -> None:
    """By the real limits."""
    with pytest.raises(Unavailable, match=r"does not answer.*: no answer within 10 s"):
        within(lambda: open_store("s3://bucket/folder", server.options))


def tries_again(server: HangingServer, store: FsspecStore) -> bool:
    """Whether another connection is made when the first one hangs."""
    server.hanging = 1
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(store.exists, "a/b")
        wait_until(lambda: server.accepted > 1 or asked.done(), "another connection, or the end")
    return server.accepted > 1


def test_another_try_in_time_goes_over_a_connection_of_its_own(server: HangingServer) -> None:
    """By the real limits: a connection that a firewall forgot hangs, and the next one does not."""
    assert tries_again(server, loaded(server, server.options, TransferLimits()))


def test_limits_of_ones_own_count(server: HangingServer) -> None:
    options = {**server.options, "config_kwargs": {"read_timeout": 0.2}}
    # Less than the time limit of an attempt that is there without them.
    limits = TransferLimits(answer_timeout_s=3.5)
    assert tries_again(server, loaded(server, options, limits))
