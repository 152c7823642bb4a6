"""Clients that write documents, ask again after doubt, and look for what they wrote."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from cluster.errors import RaygionError
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import IfVersion, Write
from tests.simulation.clocks.sim_time import Process
from tests.simulation.documents.history import Asked, Read
from tests.simulation.documents.processes import WriterProcess
from tests.support.values.mutations import text_content

if TYPE_CHECKING:
    from tests.simulation.documents.world import DocumentWorld

DOCUMENTS = ("w", "x", "y", "z")
PATIENCE_S = 6.0
LOOKS_S = 0.1
_WORTH_ASKING_AGAIN = ("Unavailable", "Overloaded", "DeadlineExceeded", "ClockAhead")


class DocumentClient(Process):
    """Writes to one region, and reads from all."""

    def __init__(self, world: DocumentWorld, name: str, home: str) -> None:
        super().__init__(world.scheduler, name)
        self._world = world
        self._home = home
        self._rng = random.Random(f"{world.seed}/{name}")

    def body(self) -> None:
        while self._world.noisy:
            self.sleep(self._rng.choice([0.0, self._rng.uniform(0.1, 1.2)]))
            self.write()

    def write(self, *, is_plain: bool = False) -> Asked:
        """A plain write demands nothing, and can be asked for again."""
        asked = self._draw()
        if is_plain:
            asked.key, asked.demands = f"key {asked.number}", None
        for _ in range(1 if asked.key is None else 4):
            self._ask(asked)
            if asked.told_s is not None and asked.outcome not in _WORTH_ASKING_AGAIN:
                break
            if asked.key is not None:
                asked.told_s, asked.outcome = None, "unknown"
        if asked.outcome == "written":
            self._look_for(asked)
        return asked

    def _draw(self) -> Asked:
        rng, history = self._rng, self._world.history
        document, number = rng.choice(DOCUMENTS), len(history.asked) + 1
        demands = self._known_version(document) if rng.random() < 0.4 else None
        asked = Asked(
            number,
            self.scheduler.now_s,
            self._home,
            document,
            None if rng.random() < 0.25 else f"text {number}",
            f"key {number}" if rng.random() < 0.8 else None,
            demands,
        )
        history.asked.append(asked)
        return asked

    def _known_version(self, document: str) -> str:
        """What the region's reader has, by which the document is then replaced."""
        reader = self._world.regions[self._home].reader
        versions = () if reader is None else reader.fold.versions(document)
        is_there = bool(versions) and versions[-1].content is not None
        return str(versions[-1].time) if is_there else IfVersion.ABSENT.value

    def _ask(self, asked: Asked) -> None:
        """By whichever writer takes it: mostly the one that is meant to be there."""
        until_s = self.scheduler.now_s + PATIENCE_S
        while (writer := self._writer()) is None and self.scheduler.now_s < until_s:
            self.sleep(LOOKS_S)
        if writer is None:
            return
        asked.attempts += 1
        try:
            writer.submit(asked, _write_of(asked))
        except RaygionError as error:
            asked.told_s, asked.outcome = self.scheduler.now_s, type(error).__name__
            return
        while asked.told_s is None and self.scheduler.now_s < until_s and not writer.ended:
            self.sleep(LOOKS_S)

    def _writer(self) -> WriterProcess | None:
        writers = self._world.regions[self._home].writers
        living = [w for w in writers if not w.killed and not w.ended]
        if not living:
            return None
        return self._rng.choice(living) if self._rng.random() < 0.3 else living[-1]

    def _look_for(self, asked: Asked) -> None:
        region = self._rng.choice(list(self._world.regions.values()))
        until_s = self.scheduler.now_s + PATIENCE_S
        while self.scheduler.now_s < until_s:
            reader = region.reader
            if reader is not None and not reader.killed:
                fold = reader.fold
                origin = HybridTime.parse(asked.version, "version").region
                if fold.position(origin) >= asked.position:
                    found = fold.versions(asked.document)
                    version = str(found[-1].time) if found else None
                    is_live = bool(found) and found[-1].content is not None
                    self._world.history.reads.append(
                        Read(
                            self.scheduler.now_s,
                            region.name,
                            asked,
                            fold.watermark.as_dict(),
                            version if is_live else None,
                            None if is_live else version,
                        )
                    )
                    return
            self.sleep(LOOKS_S)


def _write_of(asked: Asked) -> Write:
    demands: HybridTime | IfVersion | None = None
    if asked.demands == IfVersion.ABSENT.value:
        demands = IfVersion.ABSENT
    elif asked.demands is not None:
        demands = HybridTime.parse(asked.demands, "if_version")
    return Write(
        document=asked.document,
        content=None if asked.text is None else text_content(asked.text),
        key=asked.key,
        if_version=demands,
    )
