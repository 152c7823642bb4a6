"""The process in which office files are read, a request for each file:

    {"format": "PDF", "size_bytes": 1234}, a line end, 1234 bytes
    -> {"pieces": [...]} or {"error": "..."}, a line end

It reads what strangers made, with parsers that others wrote, so it has limits of its own for memory
and processor time. Where one is passed, the process ends; whoever asked starts another one.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from actors.documents.office.pieces import Piece
from actors.documents.office.readers import Reader, reader_of
from actors.documents.source_formats import SourceFormat
from cluster.errors import InvalidArgument

_FILE_TEXT_BYTES_MAX = 64 * 2**20
"""Bytes of text of all pieces of a file."""
_CHARS_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    cpu_s: int = 120
    """Seconds of processor time for a file, beside a second for each MiB of it."""
    memory_bytes: int = 2 * 2**30

    def cpu_s_for(self, size_bytes: int) -> int:
        """Seconds of processor time for a file of that size."""
        return self.cpu_s + size_bytes // 2**20


def main(limits: Limits) -> None:
    # Parsers that print must not write into the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while header := sys.stdin.buffer.readline():
        request = json.loads(header)
        data = sys.stdin.buffer.read(request["size_bytes"])
        _allow_cpu_s(limits.cpu_s_for(len(data)))
        replies.write(json.dumps(_reply(SourceFormat(request["format"]), data)).encode() + b"\n")
        replies.flush()


def _allow_cpu_s(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds, hard))


def _reply(format: SourceFormat, data: bytes) -> dict[str, Any]:
    try:
        return {"pieces": [asdict(piece) for piece in _bounded(_reader(format)(data))]}
    except InvalidArgument as error:
        return {"error": error.message}
    except MemoryError:
        return {"error": "needs too much memory to be read"}
    except RecursionError:
        return {"error": "is nested too deeply"}
    except Exception as error:
        # The parsers raise what they like for a damaged file.
        return {"error": f"is not a readable {format} file: {error!r}"[:_CHARS_SHOWN]}


def _bounded(pieces: Iterator[Piece]) -> Iterator[Piece]:
    num_bytes = 0
    for piece in pieces:
        num_bytes += len(piece.text.encode())
        if num_bytes > _FILE_TEXT_BYTES_MAX:
            raise InvalidArgument(f"has more than {_FILE_TEXT_BYTES_MAX} bytes of text; divide it")
        yield piece


def _reader(format: SourceFormat) -> Reader:
    if format not in (SourceFormat.EML, SourceFormat.MBOX):
        return reader_of(format)
    # It takes its time to be imported.
    from actors.documents.office.mail_texts import mail_texts, mailbox_texts

    return mail_texts if format is SourceFormat.EML else mailbox_texts


if __name__ == "__main__":
    main(Limits(**json.loads(sys.argv[1])))
