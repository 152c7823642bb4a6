"""The tokenizer of an embedder that is in the store."""

from __future__ import annotations

from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.manifests import ModelManifest
from cluster.embedding.tokenizer import TOKENIZER_FILES, EmbedderTokenizer


def stored_tokenizer(artifacts: Artifacts, embedder: ModelManifest) -> EmbedderTokenizer:
    """The tokenizer of an embedder; no other files of it are fetched.

    Raises InvalidArgument as `EmbedderTokenizer.of_files` does; failures are those of the store.
    """
    files = {
        file.path: artifacts.read_bytes(file)
        for file in embedder.files
        if file.path in TOKENIZER_FILES
    }
    return EmbedderTokenizer.of_files(files, embedder.name)
