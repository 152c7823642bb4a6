"""The process that reads office files, and what it reads as documents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.documents.office.extractor import Extractor
from tests.support.values.extracted import Read, extracted


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    with Extractor() as extractor:
        yield extractor


@pytest.fixture(scope="module")
def read(extractor: Extractor) -> Read:
    """Documents of the bytes of a file at a path."""
    return lambda data, path: extracted(extractor, data, path)[0]
