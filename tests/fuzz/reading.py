"""Damaged files read as an ingest reads them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from actors.documents.reader import GroupRead, ReadOptions, read_group
from actors.documents.source_files import SourceFile, find_source_files
from actors.documents.source_formats import OFFICE_FORMATS, format_of
from cluster.artifacts.artifacts import Artifacts
from cluster.errors import InvalidArgument
from cluster.store.object_store import open_store
from tests.fuzz.damage import SAMPLES, damaged


def read_damaged(kind: str, seeds: Iterable[int]) -> list[GroupRead]:
    """Reads a damaged file of the kind for each seed. Any error but InvalidArgument is raised, and
    for office files that one, too: with `skip_errors` such a file has to be left out.
    """
    sample = SAMPLES[kind]()
    with TemporaryDirectory() as folder:
        for seed in seeds:
            data = damaged(kind, sample, random.Random(seed))
            (Path(folder) / f"{seed}{kind}").write_bytes(data)
        files = find_source_files([folder]).files
        if format_of(f"file{kind}") in OFFICE_FORMATS:
            # One process reads all of them, for it takes longer to start than to read.
            return [_read(files, skip_errors=True)]
        found = []
        for file in files:
            for skip_errors in (False, True):
                with contextlib.suppress(InvalidArgument):
                    found.append(_read([file], skip_errors=skip_errors))
        return found


def _read(files: Iterable[SourceFile], *, skip_errors: bool) -> GroupRead:
    artifacts = Artifacts(open_store(f"memory://{uuid4().hex}"))
    return read_group(0, tuple(files), artifacts, ReadOptions(skip_errors=skip_errors))
