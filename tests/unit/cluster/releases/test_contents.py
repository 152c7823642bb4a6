"""The manifests of a release fit together: its indexes and its embedder."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from cluster.catalog.manifests import IndexManifest, ModelKind, ModelManifest
from cluster.errors import InvalidArgument
from cluster.releases.contents import ReleaseManifests
from tests.support.values.manifests import index_manifest

ONE, OTHER = "a" * 64, "b" * 64


def index(corpus: str, fingerprint: str | None) -> IndexManifest:
    return index_manifest(corpus=corpus, embedder_fingerprint=fingerprint)


def embedder(fingerprint: str) -> ModelManifest:
    return ModelManifest(
        kind=ModelKind.EMBEDDER,
        name="small",
        version="0123456789abcdef",
        fingerprint=fingerprint,
        files=(),
    )


@pytest.mark.parametrize(
    ("built_with", "named", "fits"),
    [
        ((None,), None, True),
        ((None,), ONE, True),
        ((ONE, None, ONE), ONE, True),
        ((ONE,), None, False),
        ((ONE,), OTHER, False),
        ((ONE, OTHER), ONE, False),
    ],
)
def test_every_index_was_built_with_the_embedder_or_brings_its_own_vectors(
    built_with: tuple[str | None, ...], named: str | None, fits: bool
) -> None:
    manifests = ReleaseManifests(
        indexes={f"c{n}": index(f"c{n}", made_by) for n, made_by in enumerate(built_with)},
        embedder=None if named is None else embedder(named),
        generator=None,
    )
    refused = pytest.raises(InvalidArgument, match="built with another embedder")
    with nullcontext() if fits else refused:
        manifests.check_embedder()
