"""A file of model weights as its differences from another one.

    magic | what each op brings, one after the other | ops, as JSON | length | magic

An op gives the next bytes of the file: `copy` takes them from the base as they are, `bytes` brings
them compressed, `xor` brings the compressed difference to bytes of the base. A file of safetensors
is compared tensor by tensor, wherever the tensor lies in it, in chunks; other files, and tensors
that the base does not have, are brought whole. To rebuild the file needs no knowledge of formats.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from cluster.errors import Corrupt

CHUNK_BYTES = 256 * 1024
_MAGIC = b"RGDELTA1"
_LENGTH = struct.Struct("<Q")
_CODEC: Literal["zstd"] = "zstd"
_HEADER_BYTES_MAX = 100_000_000
"""Longest header of a safetensors file, by the definition of the format."""
_OP_BYTES_MAX = 2**30
_ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2,
}  # fmt: skip

Bytes = npt.NDArray[np.uint8]
_Op = tuple[Literal["copy", "bytes", "xor"], int, int, int, int]
"""Operation, offset in the base, number of bytes, number of packed bytes, bytes of a number."""
_OPS: TypeAdapter[list[_Op]] = TypeAdapter(list[_Op])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset in the file."""
    end: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive bytes of a file, and where the base may have much the same ones."""

    start: int
    end: int
    base_start: int | None
    item_bytes: int


def write_delta(base: Path, full: Path, target: Path, *, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Writes to `target` what makes `full` out of `base`; gives its size in bytes.

    Where nothing of the base is of use, that is about as much as the full file compressed.
    """
    ops: list[_Op] = []
    old, new = _mapped(base), _mapped(full)
    with target.open("wb") as out:
        out.write(_MAGIC)
        for piece in _pieces(old, new):
            for start in range(piece.start, piece.end, chunk_bytes):
                chunk = new[start : min(start + chunk_bytes, piece.end)]
                offset = (
                    None if piece.base_start is None else piece.base_start + start - piece.start
                )
                _add(ops, _op(chunk, old, offset, piece.item_bytes, out))
        footer = _packed(orjson.dumps(ops))
        out.write(footer)
        out.write(_LENGTH.pack(len(footer)))
        out.write(_MAGIC)
        return out.tell()


def apply_delta(base: Path, delta: Path, target: Path) -> None:
    """Writes to `target` the file that the delta makes of the base.

    The caller compares the hash. Raises Corrupt for a file that is no delta, or a delta of another
    base.
    """
    old, source = _mapped(base), _mapped(delta)
    with target.open("wb") as out:
        at = len(_MAGIC)
        for what, offset, length, packed, item_bytes in _read_ops(source):
            if length < 0 or (what != "bytes" and not 0 <= offset <= len(old) - length):
                raise Corrupt(f"{delta} was made for another base than {base}")
            if what == "copy":
                out.write(old[offset : offset + length].data)
                continue
            if length > _OP_BYTES_MAX:
                raise Corrupt(f"{delta} brings {length} bytes in one piece")
            data = _unpacked(source[at : at + packed], length, delta)
            at += packed
            if what == "xor":
                data = _joined(data, item_bytes) ^ old[offset : offset + length]
            out.write(data.data)


def _op(chunk: Bytes, old: Bytes, offset: int | None, item_bytes: int, out: BinaryIO) -> _Op:
    """The operation that gives the chunk; its bytes are written to `out`."""
    length = len(chunk)
    plain = None
    if offset is not None:
        before = old[offset : offset + length]
        if np.array_equal(before, chunk):
            return ("copy", offset, length, 0, 1)
        difference = _packed(_split(before ^ chunk, item_bytes).tobytes())
        plain = _packed(chunk.tobytes())
        if len(difference) < len(plain):
            out.write(difference)
            return ("xor", offset, length, len(difference), item_bytes)
    plain = plain if plain is not None else _packed(chunk.tobytes())
    out.write(plain)
    return ("bytes", 0, length, len(plain), 1)


def _add(ops: list[_Op], op: _Op) -> None:
    """Copies that follow each other become one."""
    if ops and op[0] == "copy" == ops[-1][0] and op[1] == ops[-1][1] + ops[-1][2]:
        ops[-1] = ("copy", ops[-1][1], ops[-1][2] + op[2], 0, 1)
    else:
        ops.append(op)


def _pieces(old: Bytes, new: Bytes) -> Iterator[_Piece]:
    """The new file from its first byte to its last."""
    tensors, known = _tensors(new), _tensors(old)
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start < at:
            continue  # shares its bytes with the one before
        if tensor.start > at:
            yield _Piece(at, tensor.start, None, 1)
        before = known.get(name)
        is_alike = before is not None and (before.dtype, before.shape) == (
            tensor.dtype,
            tensor.shape,
        )
        start = before.start if before is not None and is_alike else None
        yield _Piece(tensor.start, tensor.end, start, _ITEM_BYTES.get(tensor.dtype, 1))
        at = tensor.end
    if at < len(new):
        yield _Piece(at, len(new), None, 1)


def _tensors(file: Bytes) -> dict[str, _Tensor]:
    """The tensors of a file of safetensors; none when it is not one."""
    if len(file) < _LENGTH.size:
        return {}
    (length,) = _LENGTH.unpack(file[: _LENGTH.size].tobytes())
    data = _LENGTH.size + length
    if length > _HEADER_BYTES_MAX or data > len(file):
        return {}
    try:
        header = orjson.loads(file[_LENGTH.size : data].tobytes())
        tensors = {
            name: _Tensor(
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                start=data + entry["data_offsets"][0],
                end=data + entry["data_offsets"][1],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, IndexError):
        return {}
    is_sound = all(data <= t.start <= t.end <= len(file) for t in tensors.values())
    return tensors if is_sound else {}


def _split(data: Bytes, item_bytes: int) -> Bytes:
    """All first bytes of numbers, then all second ones: those that hardly differ come together."""
    if item_bytes == 1 or len(data) % item_bytes:
        return data
    return np.ascontiguousarray(data.reshape(-1, item_bytes).T).reshape(-1)


def _joined(data: Bytes, item_bytes: int) -> Bytes:
    if item_bytes <= 1 or len(data) % item_bytes:
        return data
    return np.ascontiguousarray(data.reshape(item_bytes, -1).T).reshape(-1)


def _packed(data: bytes) -> bytes:
    packed: bytes = pa.Codec(_CODEC).compress(data, asbytes=True)
    return packed


def _unpacked(packed: Bytes, length: int, delta: Path) -> Bytes:
    try:
        data = pa.Codec(_CODEC).decompress(packed.tobytes(), length, asbytes=True)
    except (OSError, ValueError) as error:
        raise Corrupt(f"{delta} cannot be unpacked: {error}") from error
    if len(data) != length:
        raise Corrupt(f"{delta} brings {len(data)} bytes in place of {length}")
    return np.frombuffer(data, np.uint8)


def _read_ops(source: Bytes) -> list[_Op]:
    end = len(source) - len(_MAGIC) - _LENGTH.size
    is_delta = end >= len(_MAGIC) and all(
        part.tobytes() == _MAGIC for part in (source[: len(_MAGIC)], source[-len(_MAGIC) :])
    )
    if not is_delta:
        raise Corrupt("this is no delta of a model")
    (length,) = _LENGTH.unpack(source[end : end + _LENGTH.size].tobytes())
    if length > end - len(_MAGIC):
        raise Corrupt("this delta of a model is cut off")
    packed = source[end - length : end].tobytes()
    try:
        with pa.input_stream(io.BytesIO(packed), compression=_CODEC) as stream:
            return _OPS.validate_json(stream.read())
    except (OSError, ValueError, ValidationError) as error:
        raise Corrupt(f"this delta of a model cannot be read: {error}") from error


def _mapped(path: Path) -> Bytes:
    """The bytes of a file, read as they are looked at."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
