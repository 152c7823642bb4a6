"""Model deltas: whatever changed, base and delta give the very bytes of the new file."""

from __future__ import annotations

import contextlib
import random
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifacts.weight_delta import apply_delta, write_delta
from cluster.errors import Corrupt
from tests.support.values.safetensors_files import Tensor, safetensors

DTYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "BOOL": 1, "U16": 2, "F8_E4M3": 1}
CHUNK = 64


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], bytes]:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    size = DTYPES[dtype] * int(np.prod(shape, dtype=int))
    return dtype, shape, random.Random(draw(st.integers(0, 9))).randbytes(size)


@st.composite
def changed(draw: st.DrawFn, tensor: Tensor) -> Tensor:
    """Some of its bytes flipped, or its shape, or all of it."""
    dtype, shape, content = tensor
    match draw(st.sampled_from(["same", "flips", "reshaped", "another"])):
        case "flips" if content:
            data = bytearray(content)
            for position in draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
                data[position] ^= draw(st.integers(1, 255))
            return dtype, shape, bytes(data)
        case "reshaped":
            return dtype, [*shape[::-1]], content
        case "another":
            return draw(tensors())
    return tensor


names = st.sampled_from(["a", "b", "layers.0.weight", "layers.1.weight", "é"])


@st.composite
def two_files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    base = draw(st.dictionaries(names, tensors(), max_size=5))
    kept = [name for name in base if draw(st.booleans())]
    new = {name: draw(changed(base[name])) for name in draw(st.permutations(kept))}
    new |= draw(st.dictionaries(names, tensors(), max_size=2))
    note, gap = draw(st.text(max_size=5)), draw(st.sampled_from([0, 0, 3]))
    return safetensors(base), safetensors(new, note, gap)


def rebuilt(base: bytes, full: bytes, chunk_bytes: int = CHUNK) -> tuple[bytes, int]:
    """What comes back, and the size of the delta."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base").write_bytes(base)
        (folder / "full").write_bytes(full)
        size = write_delta(
            folder / "base", folder / "full", folder / "delta", chunk_bytes=chunk_bytes
        )
        assert size == (folder / "delta").stat().st_size
        apply_delta(folder / "base", folder / "delta", folder / "rebuilt")
        return (folder / "rebuilt").read_bytes(), size


@given(two_files())
def test_any_change_of_tensors_comes_back(files: tuple[bytes, bytes]) -> None:
    base, full = files
    assert rebuilt(base, full)[0] == full


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_come_back_though_they_are_no_tensors(base: bytes, full: bytes) -> None:
    assert rebuilt(base, full)[0] == full


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-9, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["x", 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        b' "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}',
    ],
)
def test_strange_headers_do_no_harm(header: bytes) -> None:
    sound = safetensors({"a": ("F32", [4], bytes(range(16)))})
    strange = struct.pack("<Q", len(header)) + header + bytes(range(8))
    for base, full in [(sound, strange), (strange, sound), (strange, strange)]:
        assert rebuilt(base, full)[0] == full


def test_a_delta_is_as_small_as_the_change() -> None:
    rng = random.Random(1)
    base = {f"layers.{n}": ("F32", [50, 50], rng.randbytes(10_000)) for n in range(20)}
    full = safetensors({**base, "layers.7": ("F32", [50, 50], rng.randbytes(10_000))})
    content, size = rebuilt(safetensors(base), full)
    assert content == full
    # The header is small but is brought as it is.
    assert 10_000 < size < 10_000 + 200 * 50


def test_tensors_are_found_where_they_moved() -> None:
    rng = random.Random(1)
    base = {f"layers.{n}": ("F32", [50, 50], rng.randbytes(10_000)) for n in range(20)}
    added = {"embed": ("F32", [3, 3], rng.randbytes(36)), **dict(reversed(base.items()))}
    content, size = rebuilt(safetensors(base), safetensors(added))
    assert content == safetensors(added)
    assert size < 10_000


def test_small_changes_of_all_numbers_are_smaller_than_the_numbers() -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=40_000).astype(np.float32)
    tuned = (weights * (1 + rng.normal(size=40_000) * 1e-4)).astype(np.float32)
    base = safetensors({"w": ("F32", [200, 200], weights.tobytes())})
    full = safetensors({"w": ("F32", [200, 200], tuned.tobytes())})
    content, size = rebuilt(base, full, chunk_bytes=2**16)
    assert content == full
    assert size < 0.6 * len(full)


def delta_of(folder: Path) -> tuple[Path, Path]:
    rng = random.Random(1)
    tensors = {n: ("F32", [10, 10], rng.randbytes(400)) for n in "abc"}
    (folder / "base").write_bytes(safetensors(tensors))
    (folder / "full").write_bytes(safetensors({**tensors, "b": ("F32", [100], bytes(400))}))
    write_delta(folder / "base", folder / "full", folder / "delta", chunk_bytes=CHUNK)
    return folder / "base", folder / "delta"


@given(position=st.integers(0, 2**14), cut=st.booleans())
def test_a_damaged_delta_raises_nothing_but_corrupt(position: int, cut: bool) -> None:
    """Or it gives other bytes: who applies it compares the hash."""
    with tempfile.TemporaryDirectory() as name:
        base, delta = delta_of(Path(name))
        data = bytearray(delta.read_bytes())
        position %= len(data) * 8
        if cut:
            del data[position // 8 :]
        else:
            data[position // 8] ^= 1 << position % 8
        delta.write_bytes(data)
        with contextlib.suppress(Corrupt):
            apply_delta(base, delta, Path(name) / "rebuilt")


def test_a_delta_for_another_base_is_refused(tmp_path: Path) -> None:
    _, delta = delta_of(tmp_path)
    (tmp_path / "other").write_bytes(b"short")
    with pytest.raises(Corrupt, match="another base"):
        apply_delta(tmp_path / "other", delta, tmp_path / "rebuilt")
