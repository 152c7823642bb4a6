"""Server-sent events, read as they arrive."""

from __future__ import annotations

from cluster.errors import Unavailable

EVENT_BYTES_MAX = 16 * 1024 * 1024


class EventParser:
    """Cuts the bytes of a stream into its events. Lines end with a line feed, as Raygion's do.

    The parser works on bytes, since the lines of a text would also end at separators that JSON
    leaves as they are.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[tuple[str, bytes]]:
        """The events that are now complete, as (name, data); comments are left out. Raises
        Unavailable when one grows beyond EVENT_BYTES_MAX.
        """
        # The end of an event may have begun in what came before.
        looked_at = max(0, len(self._rest) - 1)
        self._rest += chunk
        end = self._rest.rfind(b"\n\n", looked_at)
        if end < 0:
            if len(self._rest) > EVENT_BYTES_MAX:
                raise Unavailable("a stream sent an event without an end")
            return []
        blocks = bytes(self._rest[:end]).split(b"\n\n")
        del self._rest[: end + 2]
        return [event for block in blocks if (event := _event(block)) is not None]


def _event(block: bytes) -> tuple[str, bytes] | None:
    name, data = "message", None
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data = value if data is None else data + b"\n" + value
    return None if data is None else (name, data)
