from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.config import Settings
from cluster.errors import InvalidArgument
from cluster.regions.settings import RegionSettings, StoreSettings
from deployments.demo.live_note import LiveNote
from deployments.demo.regions import run_regions_demo
from deployments.demo.report import Cut, Findings, Killed, ObservedSwitch, report
from deployments.installation import Installation
from deployments.terminal import Steps

HITS = [{"id": "td/government/1", "score": 0.58}]


def installation(folder: Path, **changes: object) -> Installation:
    store = StoreSettings(url=str(folder / "store"))
    settings = Settings(store=store, state_folder=folder).model_copy(update=changes)
    return Installation(settings, "local")


def findings() -> Findings:
    return Findings(
        question="What?",
        hits={"frankfurt": {"release": 1, "hits": HITS}, "virginia": {"release": 1, "hits": HITS}},
        same_hits=True,
        note=LiveNote(
            region="frankfurt",
            written_ms=9.0,
            found_ms={"frankfurt": 12.0, "virginia": None},
            deleted_ms=30.0,
            found_after_delete=(),
        ),
        switches=[
            ObservedSwitch(
                what="release 2",
                at_ms=1_000,
                first_reply_ms={"frankfurt": 1_020.0, "virginia": 1_050.5},
                queries=10,
                failed=0,
            )
        ],
        cut=Cut(
            region="virginia",
            release_meanwhile=1,
            release_of_others=2,
            staleness_ms={"frankfurt": [300.0, 300.0, 300.0], "virginia": [300.0, 1300.0, 2300.0]},
            bounded_served_by="frankfurt",
            caught_up_s=0.5,
            queries=10,
            failed=0,
        ),
        killed=Killed(
            region="virginia",
            processes=16,
            served_by="frankfurt",
            moved_s=0.2,
            queries=10,
            failed=0,
        ),
        answer=None,
    )


@pytest.mark.parametrize("regions", [0, 2, 6])
def test_it_takes_three_to_five_regions(tmp_path: Path, regions: int) -> None:
    with pytest.raises(InvalidArgument, match="regions: must be 1, or 3 to 5"):
        run_regions_demo(installation(tmp_path), regions=regions, stay=False, as_json=True)


def test_it_needs_a_store_in_a_folder_and_clusters_of_its_own(tmp_path: Path) -> None:
    away = installation(tmp_path, store=StoreSettings(url="s3://bucket/store"))
    with pytest.raises(InvalidArgument, match="must be a folder"):
        run_regions_demo(away, regions=3, stay=False, as_json=True)
    running = installation(tmp_path, regions={"local": RegionSettings(ray_address="auto")})
    with pytest.raises(InvalidArgument, match="ray_address"):
        run_regions_demo(running, regions=3, stay=False, as_json=True)


def test_the_report_is_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(findings(), Steps(quiet=True), [installation(tmp_path)], 12.0, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["regions"] == {"local": "http://127.0.0.1:8000"}
    assert told["switches"][0]["skew_ms"] == 30.5
    assert told["cut"]["staleness_ms"]["virginia"] == [300.0, 1300.0, 2300.0]
    assert told["killed"]["served_by"] == "frankfurt"
    assert told["seconds"]["all"] == 12.0


def test_the_report_names_the_moment_in_each_region(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(regions={"frankfurt": RegionSettings(), "virginia": RegionSettings()})
    regions = [Installation(settings, name) for name in settings.regions]
    report(findings(), Steps(quiet=True), regions, 12.0, as_json=False)
    told = capsys.readouterr().out
    assert "the same in every region" in told
    assert "+20" in told
    assert "+50" in told
    assert "0 of 10" in told
    assert "served by frankfurt after 0.2 s" in told
