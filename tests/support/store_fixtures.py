"""Stores for tests: one of each kind, an S3 endpoint on loopback, a store behind a door,
one that loses replies, and one that counts requests.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from cluster.errors import OutcomeUnknown, Unavailable
from cluster.store.object_store import ObjectStore, open_store
from cluster.store.stored_object import StoredObject

_HELD_MAX_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """What `open_store` takes, so that a test can open the same store in another process."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def open(self) -> ObjectStore:
        return open_store(self.url, self.options)


class S3Endpoint:
    """A WSGI application around moto's S3.

    moto looks whether a key exists and then writes, so requests are served one at a time. Of the
    next `replies_to_lose` writes the effect stays and the reply becomes an error 500. The next
    `requests_to_fail` have no effect and get an error 503.
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.replies_to_lose = self.requests_to_fail = 0

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        with self._lock:
            if self.requests_to_fail:
                self.requests_to_fail -= 1
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
            if environ["REQUEST_METHOD"] == "PUT" and self.replies_to_lose:
                self.replies_to_lose -= 1
                list(self._app(environ, lambda status, headers, exc_info=None: None))
                start_response("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
            return list(self._app(environ, start_response))


class _SilentHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Requests are not worth a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    endpoint: S3Endpoint
    options: dict[str, Any]
    bucket: str

    def address(self) -> StoreAddress:
        return StoreAddress(url=f"s3://{self.bucket}/{uuid4().hex}", options=self.options)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    endpoint = S3Endpoint()
    server = make_server("127.0.0.1", 0, endpoint, threaded=True, request_handler=_SilentHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    options: dict[str, Any] = {
        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
        "key": "test",
        "secret": "test",
        "client_kwargs": {"region_name": "eu-west-1"},
    }
    # moto's state is the process's, so each server has a bucket of its own.
    bucket = f"test-{uuid4().hex}"
    fsspec.filesystem("s3", **options).mkdir(bucket)
    yield S3Server(endpoint=endpoint, options=options, bucket=bucket)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["memory", "local", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> StoreAddress:
    """The address of an empty store of each kind."""
    match request.param:
        case "memory":
            return StoreAddress(url=f"memory://{uuid4().hex}")
        case "local":
            return StoreAddress(url=(tmp_path / "store").as_uri())
        case _:
            server: S3Server = request.getfixturevalue("s3_server")
            return server.address()


@pytest.fixture
def store(address: StoreAddress) -> ObjectStore:
    """An empty store of each kind."""
    return address.open()


@pytest.fixture
def memory_store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


class Door:
    """The store, which may be shut (it fails), or held (it does not answer)."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.shut = False
        self.open = threading.Event()
        self.open.set()
        self.knocked = threading.Event()
        """Whether somebody waits before a held door."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        operation = getattr(self._store, name)

        def through(*args: object, **options: object) -> object:
            if not self.open.is_set():
                self.knocked.set()
            assert self.open.wait(_HELD_MAX_S)
            if self.shut:
                raise Unavailable("the door is shut")
            return operation(*args, **options)

        return through


class LossyStore:
    """A store whose creates lose their reply, whether the write takes effect or not.

    `faults` is asked before each create: "" lets it pass, "after" loses the reply, "before" the
    request, "late" lets the write take effect only after the next read.
    """

    def __init__(self, inner: ObjectStore, faults: Callable[[], str]) -> None:
        self._inner = inner
        self._faults = faults
        self._late: list[tuple[str, bytes]] = []

    def put_if_absent(self, path: str, data: bytes) -> None:
        fault = self._faults()
        if fault == "late":
            self._late.append((path, data))
        elif fault != "before":
            self._inner.put_if_absent(path, data)
        if fault:
            raise OutcomeUnknown(f"the reply for {path} is lost ({fault})")

    def get(self, path: str) -> bytes:
        try:
            return self._inner.get(path)
        finally:
            while self._late:
                self._inner.put_if_absent(*self._late.pop())

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self._inner.read_range(path, start, length)

    def upload_if_absent(self, path: str, source: Path, sha256: str) -> None:
        self.put_if_absent(path, source.read_bytes())

    def put(self, path: str, data: bytes) -> None:
        self._inner.put(path, data)

    def exists(self, path: str) -> bool:
        return self._inner.exists(path)

    def size(self, path: str) -> int:
        return self._inner.size(path)

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        return self._inner.list_names(folder, start_after)

    def list_objects(self, folder: str) -> list[StoredObject]:
        return self._inner.list_objects(folder)

    def list_folders(self, folder: str) -> list[str]:
        return self._inner.list_folders(folder)

    def remove(self, path: str) -> None:
        self._inner.remove(path)


class CountingStore(LossyStore):
    """Loses nothing, and counts the requests by what they ask."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner, scripted())
        self.calls: Counter[str] = Counter()

    def get(self, path: str) -> bytes:
        self.calls["get"] += 1
        return super().get(path)

    def exists(self, path: str) -> bool:
        self.calls["exists"] += 1
        return super().exists(path)

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        self.calls["list_names"] += 1
        return super().list_names(folder, start_after)


def scripted(*faults: str) -> Callable[[], str]:
    """These faults in order, and none after them."""
    left = list(faults)
    return lambda: left.pop(0) if left else ""


def random_faults(seed: int, share: float) -> Callable[[], str]:
    """Each create fails with probability `share`, in one of the ways."""
    rng = random.Random(seed)
    return lambda: rng.choice(["after", "before"]) if rng.random() < share else ""
