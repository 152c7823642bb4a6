"""Writers of documents that ask again, by the same key, until they are told that it is written."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.runtime import names
from actors.runtime.calls import NamedActor
from cluster.arrays import Float32Array
from cluster.errors import RaygionError, Unavailable
from cluster.mutations.region_writer import Outcome, Written
from cluster.mutations.requests import CorpusDocuments, DocumentWrite
from tests.support.regions.search_region import CORPUS, DIMENSION

_PAUSE_S = 0.05
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A write that is told to be in the log."""

    key: str
    document: str
    version: str
    attempts: int
    is_repeated: bool


def write_keyed(num_writers: int, over: Path) -> list[Acknowledged]:
    """Each writer writes one document after the other until the file `over` is there. For the
    driver's process.
    """

    async def all_writers() -> list[list[Acknowledged]]:
        documents = NamedActor(names.DOCUMENTS)
        writers = (_writer(documents, number, over) for number in range(num_writers))
        return await asyncio.gather(*writers)

    return [one for of_writer in asyncio.run(all_writers()) for one in of_writer]


def documents_status() -> dict[str, CorpusDocuments]:
    """For the driver's process."""

    async def ask() -> dict[str, CorpusDocuments]:
        found: dict[str, CorpusDocuments] = await NamedActor(names.DOCUMENTS).call("status")
        return found

    return asyncio.run(ask())


async def _writer(documents: NamedActor, number: int, over: Path) -> list[Acknowledged]:
    rng = random.Random(number)
    acknowledged: list[Acknowledged] = []
    while not await asyncio.to_thread(over.exists):
        write = len(acknowledged)
        # Writers contend for documents, and some are deleted again.
        document = f"d{rng.randrange(40)}"
        text = None if rng.random() < 0.2 else f"text {number}.{write}"
        key = f"key {number}.{write}"
        vector = None if text is None else _vector(rng)
        asked = DocumentWrite(id=document, text=text, metadata={}, vector=vector, key=key)
        attempts = 0
        while True:
            attempts += 1
            outcome = await _asked(documents, asked)
            if isinstance(outcome, Written):
                break
            await asyncio.sleep(_PAUSE_S)
        acknowledged.append(
            Acknowledged(key, document, str(outcome.version), attempts, outcome.is_repeated)
        )
    return acknowledged


async def _asked(documents: NamedActor, write: DocumentWrite) -> Outcome:
    try:
        async with asyncio.timeout(2 * _TIMEOUT_S):
            (outcome,) = await documents.call("write", CORPUS, (write,), _TIMEOUT_S)
    except RaygionError as error:
        return error
    except TimeoutError:
        return Unavailable("the actor did not answer in time")
    assert isinstance(outcome, Written | RaygionError)
    return outcome


def _vector(rng: random.Random) -> Float32Array:
    return np.array([rng.gauss(0.0, 1.0) for _ in range(DIMENSION)], dtype=np.float32)
