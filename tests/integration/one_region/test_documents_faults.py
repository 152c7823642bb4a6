"""The documents actor is killed while documents are written: each acknowledged write is in the log
once.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.fold import DocumentFold
from cluster.mutations.mutation import Mutation
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from tests.support.environment import environment_restored
from tests.support.live.documents_load import documents_status, write_keyed
from tests.support.regions.search_region import CORPUS, REGION, SearchRegion, search_region
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
ACTOR = "ray::Documents"
KILLS = 12
WRITERS = 8


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchRegion]:
    with environment_restored(), search_region(tmp_path_factory.mktemp("documents")) as found:
        yield found


def test_no_acknowledged_write_is_lost_or_doubled(region: SearchRegion, tmp_path: Path) -> None:
    assert region.run(documents_status)[CORPUS].position.watermark == Watermark()
    log = StoreMutationLog(region.installation.store, CORPUS)
    rng, over = random.Random(7), tmp_path / "over"
    writing = region.submit(write_keyed, WRITERS, over)
    for _ in range(KILLS):
        before = log.head()[REGION]
        wait_until(lambda b=before: log.head()[REGION] > b + 5, "an incarnation that appends")
        time.sleep(rng.uniform(0.0, 0.1))
        region.kill(ACTOR)
    before = log.head()[REGION]
    wait_until(lambda: log.head()[REGION] > before + 5, "the last incarnation")
    over.touch()
    acknowledged = writing.result(60.0)
    mutations = mutations_of(region)
    times = Counter(mutation.key for mutation in mutations)
    lost = [one for one in acknowledged if not times[one.key]]
    doubled = [key for key, number in times.items() if number > 1]
    again = sum(one.attempts > 1 for one in acknowledged)
    repeated = sum(one.is_repeated for one in acknowledged)
    print(
        f"\n{KILLS} kills, {len(acknowledged)} writes acknowledged, {again} asked again, "
        f"{repeated} found in the log: {len(lost)} lost, {len(doubled)} doubled"
    )
    assert (lost, doubled) == ([], [])
    versions = {mutation.key: str(mutation.time) for mutation in mutations}
    assert all(versions[one.key] == one.version for one in acknowledged)
    fold = folded(region)
    wait_until(
        lambda: region.run(documents_status)[CORPUS].position.watermark == fold.watermark,
        "the last incarnation reading all of the log",
    )
    assert region.run(documents_status)[CORPUS].digest == fold.digest


def mutations_of(region: SearchRegion) -> list[Mutation]:
    """Of all objects of the log, one by one: blocks so large have no spans."""
    log = StoreMutationLog(region.installation.store, CORPUS, fanout=10**6)
    found: list[Mutation] = []
    for position in range(log.head()[REGION]):
        reading = log.read_after(Watermark.of({REGION: position}), objects_max=1)
        found += [mutation for batch in reading.batches for mutation in batch.mutations]
    return found


def folded(region: SearchRegion) -> DocumentFold:
    log = StoreMutationLog(region.installation.store, CORPUS)
    fold = DocumentFold(ConflictPolicy.LAST_WRITER)
    while batches := log.read_after(fold.watermark).batches:
        assert all(fold.apply(batch) for batch in batches)
    return fold
