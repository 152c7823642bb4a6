"""Files of safetensors, written by hand: with gaps, and of any bytes."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import orjson

Tensor = tuple[str, list[int], bytes]


def safetensors(tensors: Mapping[str, Tensor], note: str = "", gap: int = 0) -> bytes:
    """A file of safetensors; `gap` bytes of filling lie between its tensors."""
    header: dict[str, object] = {"__metadata__": {"note": note}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content + b"\0" * gap
    encoded = orjson.dumps(header)
    return struct.pack("<Q", len(encoded)) + encoded + data
