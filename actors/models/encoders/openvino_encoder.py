"""A sentence encoder on OpenVINO: the graph is made of the PyTorch model once, when that is stored.

It computes without PyTorch. As far as was tried, a row of its products depends neither on the other
rows nor on the number of streams (docs/decisions/0021-runtimes-of-embedders.md).
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from cluster.arrays import Float32Array, Int64Array
from cluster.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from actors.models.encoders.torch_encoder import SentenceModel

GRAPH = "encoder.openvino.xml"
WEIGHTS = "encoder.openvino.bin"
_EXAMPLE_SHAPE = (2, 16)


class OpenvinoEncoder:
    """Implements `Encoder` by the graph in a model's folder, in float32 whatever the processor
    offers besides. Computes as many batches at once as it has streams, by one thread each.
    """

    padding_step = 4
    """A text of 25 tokens takes 8.4 ms with 28 and 9.1 with 32, and a batch gains nearly all that
    it can with four texts (AMD EPYC).
    """

    def __init__(self, folder: Path, num_streams: int) -> None:
        """Raises Unavailable where OpenVINO is not installed, InvalidArgument for a folder without
        a graph that it reads.
        """
        core = imported_openvino().Core()
        try:
            graph = core.read_model(folder / GRAPH)
        except RuntimeError as error:
            raise InvalidArgument(f"{folder} has no graph for OpenVINO: {error}", "embedder") from (
                error
            )
        compiled = core.compile_model(
            graph,
            "CPU",
            {
                # It takes bfloat16 where the processor has it, unless it is told otherwise.
                "INFERENCE_PRECISION_HINT": "f32",
                "NUM_STREAMS": num_streams,
                "INFERENCE_NUM_THREADS": num_streams,
                # Pinned threads of two processes would share the first cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self.dimension = int(compiled.output(0).partial_shape[1].get_length())
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(num_streams):
            self._free.put(compiled.create_infer_request())

    def encode(self, ids: Int64Array, mask: Int64Array) -> Float32Array:
        request = self._free.get()
        try:
            # The request's own memory, which its next call writes to.
            vectors: Float32Array = request.infer([ids, mask], share_inputs=True)[0].copy()
            return vectors
        finally:
            self._free.put(request)


def write_graph(model: SentenceModel, folder: Path) -> None:
    """Writes `GRAPH` and `WEIGHTS` for a model, to a folder that is there.

    Raises Unavailable where OpenVINO is not installed, and InvalidArgument for a model that it
    cannot take over.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    openvino = imported_openvino()
    example = torch.ones(_EXAMPLE_SHAPE, dtype=torch.long)
    any_shape = openvino.PartialShape([-1, -1])
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # Of tracing, on branches that a batch and its length do not take.
            warnings.simplefilter("ignore")
            graph = openvino.convert_model(
                model,
                example_input={"input_ids": example, "attention_mask": example},
                input=[any_shape, any_shape],
            )
    except Exception as error:
        # Tracing runs the model's own code, which may raise anything.
        raise InvalidArgument(f"OpenVINO cannot take the model over: {error}", "embedder") from (
            error
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    openvino.save_model(graph, folder / GRAPH, compress_to_fp16=False)


def imported_openvino() -> Any:
    """The library, kept from sending anything to its makers: with the package openvino-telemetry it
    does so whenever it is imported. Raises Unavailable where it is not installed.
    """
    # None makes an import of that package fail, as if it were not installed.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise Unavailable(
            "this embedder computes with OpenVINO: pip install openvino, or store the model with "
            "embedder.runtime: torch, which is another model version"
        ) from error
    return openvino
