"""Three Ray clusters, one store: a region whose files rot after they were verified answers
otherwise than the others, and all of them raise the alarm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.arrays import Float32Array
from cluster.config import DivergenceSettings
from cluster.regions.endpoint import RegionEndpoint
from cluster.store.object_store import open_store
from cluster.vectors.checks import normalized
from tests.support.regions.regions_fixture import REGIONS, ThreeRegions, regions_settings, running
from tests.support.regions.search_region import CORPUS
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

EVERY_S = 2.0


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeRegions]:
    folder = tmp_path_factory.mktemp("regions")
    (folder / "store").mkdir()
    url = str(folder / "store")
    settings = {
        region: given.model_copy(update={"divergence": DivergenceSettings(every_s=EVERY_S)})
        for region, given in regions_settings(folder, dict.fromkeys(REGIONS, url)).items()
    }
    with running(folder, settings, {}, open_store(url), ("a-flat",)) as regions:
        yield regions


def divergence(regions: ThreeRegions, region: str) -> dict[str, Any]:
    told: dict[str, Any] = regions.status(region).get("divergence") or {}
    return told


def gauge(regions: ThreeRegions, region: str) -> float:
    endpoint = RegionEndpoint.of(region, regions.drivers[region].installation.region_settings)
    text = httpx.get(f"{endpoint.url}/metrics", trust_env=False).text
    (value,) = re.findall(rf'^raygion_divergence{{corpus="{CORPUS}"}} (\S+)$', text, re.MULTILINE)
    return float(value)


def rot(cache: Path, vectors: Float32Array) -> int:
    """Changes the last bit of the first number of each of the vectors, in every file of the cache
    that holds it, in place: who has the file mapped sees it. Returns how many were changed.
    """
    changed = 0
    for path in (p for p in cache.rglob("*") if p.is_file()):
        data = path.read_bytes()
        found = [data.find(vector.tobytes()) for vector in vectors]
        places = [place for place in found if place >= 0]
        if not places:
            continue
        os.chmod(path, 0o644)
        with path.open("r+b") as file:
            for place in places:
                file.seek(place)
                file.write(bytes([data[place] ^ 1]))
        changed += len(places)
    return changed


def compared(told: dict[str, Any]) -> list[str]:
    return [name for line in told.get("corpora", []) for name in line["regions"]]


def test_a_region_that_answers_otherwise_is_found(regions: ThreeRegions) -> None:
    took_s = wait_until(
        lambda: all(compared(divergence(regions, r)) == sorted(REGIONS) for r in REGIONS),
        "all regions to be compared",
    )
    print(f"\nall compared after {took_s:.1f} s")
    assert not any(divergence(regions, region)["differs"] for region in REGIONS)
    assert [gauge(regions, region) for region in REGIONS] == [0.0, 0.0, 0.0]

    bad = REGIONS[1]
    changed = rot(regions.folder / bad / "cache", normalized(regions.vectors["a"].documents))
    print(f"{changed} numbers changed in their last bit")
    assert changed
    took_s = wait_until(
        lambda: all(divergence(regions, region)["differs"] for region in REGIONS),
        "the difference to be found",
    )
    print(f"found by all regions after {took_s:.1f} s")
    assert [gauge(regions, region) for region in REGIONS] == [1.0, 1.0, 1.0]
    for region in REGIONS:
        for difference in divergence(regions, region)["differences"]:
            assert [bad] in difference["answers"].values()
