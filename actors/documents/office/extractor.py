"""Rows out of office files and e-mails, which a process of their own reads: whatever a file does to
its parser, only that process ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, BinaryIO

from actors.documents.office import worker
from actors.documents.office.worker import Limits
from actors.documents.source_formats import PAGED_FORMATS, SourceFormat
from actors.documents.source_rows import HOLDS_NO_TEXT, Row
from cluster.documents.documents import DocumentOrigin
from cluster.errors import InvalidArgument

_FILE_BYTES_MAX = 256 * 2**20
_LIMITS = Limits()
_SECTION = re.compile("(?:^|#)(attachment|chapter|message|page|part|sheet|slide)=")


class Extractor:
    """Reads office files one after the other, as a context; the process starts with the first."""

    def __init__(self, limits: Limits = _LIMITS) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Extractor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._ended(self._process)

    def rows(self, file: BinaryIO, format: SourceFormat, path: str, name: str) -> Iterator[Row]:
        """A row for each page, slide, sheet, chapter, message or attachment of an open file, or
        one for the file; of one that is left out, the reason.

        `name` names the file in errors, `path` is the beginning of the ids. Raises InvalidArgument,
        naming the file, where it cannot be read, or what reads it is not installed.
        """
        reads = PAGED_FORMATS.get(format)
        if reads is not None and importlib.util.find_spec(reads) is None:
            raise InvalidArgument(
                f"{name}: what reads {format} files is not installed: pip install 'raygion[office]'"
            )
        data = file.read(_FILE_BYTES_MAX + 1)
        if len(data) > _FILE_BYTES_MAX:
            raise InvalidArgument(f"{name}: has more than {_FILE_BYTES_MAX} bytes; divide it")
        reply = self._asked(format, data, name)
        if "error" in reply:
            raise InvalidArgument(f"{name}: {reply['error']}")
        for piece in reply["pieces"]:
            yield _row(piece, path, name)

    def _asked(self, format: SourceFormat, data: bytes, name: str) -> dict[str, Any]:
        process = self._process = self._process or _started(self._limits)
        assert process.stdin is not None
        assert process.stdout is not None
        request = json.dumps({"format": format, "size_bytes": len(data)})
        try:
            process.stdin.write(request.encode() + b"\n")
            process.stdin.write(data)
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            reply = b""
        if not reply.endswith(b"\n"):
            raise InvalidArgument(f"{name}: {self._why(self._ended(process), len(data))}")
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        """The exit status. The next file gets a new process."""
        self._process = None
        with process:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        return process.returncode

    def _why(self, exit_status: int, size_bytes: int) -> str:
        if exit_status == -signal.SIGXCPU:
            cpu_s = self._limits.cpu_s_for(size_bytes)
            return f"takes more than {cpu_s} s of processor time to be read"
        return (
            f"cannot be read: what reads it ended with status {exit_status}; it may take no more "
            f"than {self._limits.memory_bytes} bytes of memory"
        )


def _started(limits: Limits) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        # Without -P, modules in the folder that somebody works in would be taken for Python's own.
        [sys.executable, "-P", "-m", worker.__name__, json.dumps(asdict(limits))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # The threads of NumPy would take of the memory that the process may have.
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
    )


def _row(piece: Mapping[str, Any], path: str, name: str) -> Row:
    part = piece["name"]
    section = _SECTION.sub(r", \1 ", part).removeprefix(", ")
    origin = DocumentOrigin(source=name, section=section or None)
    if piece["error"] is not None:
        return InvalidArgument(f"{origin}: {piece['error']}"), origin
    if piece["left_out"] is not None:
        return piece["left_out"], origin
    if not piece["text"].strip():
        return HOLDS_NO_TEXT, origin
    metadata = {"source": path, "title": path.rpartition("/")[2], **piece["metadata"]}
    id = f"{path}#{part}" if part else path
    return {"id": id, "text": piece["text"], "metadata": metadata}, origin
