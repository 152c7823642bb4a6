"""The directory in which a region finds the generators of its releases."""

from __future__ import annotations

from typing import Protocol

from cluster.generation.generator import Generator, PromptTokenizer
from cluster.serving.view import GeneratorView, RegionView, ReleaseView


class GeneratorDirectory(Protocol):
    """Finds what a release's generator needs on this side."""

    def generator(self, release: ReleaseView, corpus: str | None) -> Generator:
        """The generator of a release that has one, here or in another region that may have the
        corpus whose passages stand in the prompt (None: there are no passages). Raises
        InvalidArgument and Unavailable if there is none.
        """
        ...

    async def tokenizer(self, view: GeneratorView) -> PromptTokenizer: ...

    def follow(self, view: RegionView) -> None:
        """Forgets what no release of the view uses; call it with each new view."""
        ...
