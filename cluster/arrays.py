"""The types of NumPy arrays, by what they hold. Shapes are given where the types are used."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int64Array: TypeAlias = npt.NDArray[np.int64]
BytesArray: TypeAlias = npt.NDArray[np.bytes_]
Mask: TypeAlias = npt.NDArray[np.bool_]
"""True for each row that is meant."""
