"""`raygion status` over several regions, and the regions that commands name: no cluster needed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.clock import SYSTEM_CLOCK
from cluster.errors import InvalidArgument
from cluster.regions.overview import overview
from cluster.releases.entries import RELEASE_LOG, LogEntry, LogState
from cluster.releases.events import RegionStatus, heartbeat_path
from cluster.releases.fold import fold
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import open_store
from deployments.cli.main import app
from deployments.cli.regions import anywhere, leading, policy_in, regions_in
from tests.support.fakes import Entries

SETTINGS = """
store: {url: store}
regions:
  eu: {http: {port: 8001}}
  us: {http: {port: 8002}}
  asia: {http: {port: 8003}}
rollout: {wait_for: quorum, prepare_timeout_s: 90}
"""


def a_log() -> list[LogEntry]:
    e = Entries()
    return [e.elect("us", 3), e.propose(1, 3), e.commit(1, 3), e.propose(2, 3)]


def told(region: str, at_ms: int, position: int = 4, **more: object) -> RegionStatus:
    fields = {"region": region, "position": position, "prepared": (1,), "current": 1}
    return RegionStatus.model_validate({**fields, "at_ms": at_ms, **more})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Three regions: one that leads, one that has been silent for a minute, one never started."""
    path = tmp_path / "regions.yaml"
    path.write_text(SETTINGS)
    store = open_store(str(tmp_path / "store"))
    log = NumberedLog(store, RELEASE_LOG)
    for position, entry in enumerate(a_log(), 1):
        store.put_if_absent(log.path(position), entry.to_bytes())
    now_ms = SYSTEM_CLOCK.wall_ms()
    failed = {2: "disk [full]"}
    for status in (
        # From a moment to come, so that a slow machine does not make it silent.
        told("us", now_ms + 600_000, prepared=(1, 2), load=0.25),
        told("eu", now_ms - 60_000, position=1, failed=failed),
    ):
        store.put(heartbeat_path(status.region), status.to_bytes())
    return path


def test_each_region_against_the_log() -> None:
    state = LogState()
    for entry in a_log():
        state = fold(state, entry)
    statuses = {s.region: s for s in (told("us", 9_000), told("old", 1_000, position=2))}
    found = overview(state, statuses, ("eu", "us"), now_ms=10_000)
    assert (found.release, found.open_release, found.leader, found.epoch) == (1, 2, "us", 3)
    eu, old, us = sorted(found.regions, key=lambda line: line.region)
    assert [line.region for line in found.regions] == ["eu", "old", "us"]
    assert (us.leads, us.silent, us.healthy, us.log_lag, us.heard_s) == (True, False, True, 0, 1.0)
    assert (old.leads, old.silent, old.healthy, old.log_lag) == (False, True, False, 2)
    assert (eu.heard_s, eu.log_lag, eu.silent, eu.healthy) == (None, None, True, False)


def test_status_shows_all_regions_from_the_store(config: Path) -> None:
    shown = CliRunner().invoke(app, ["status", "--config", str(config)], terminal_width=80)
    assert shown.exit_code == 0, shown.output
    text = shown.output
    assert "Release 1, preparing 2; led by us, epoch 3; log at 4" in text
    told, _, _ = text.partition("eu has not prepared")
    rows = {row[0]: " ".join(row[1:]) for line in told.splitlines() if (row := line.split())}
    assert rows["asia"] == "never not started"
    assert re.fullmatch(r"1 1, 2 0 \d\.\d s ago good, 25% busy yes", rows["us"])
    assert re.fullmatch(r"1 1 3 silent since \d+ s", rows["eu"])
    assert "eu has not prepared release 2: disk [full]" in text


def test_status_for_machines(config: Path) -> None:
    shown = CliRunner().invoke(app, ["status", "--config", str(config), "--json"])
    found = json.loads(shown.output)
    assert (found["release"], found["leader"], found["log_position"]) == (1, "us", 4)
    lines = {line["region"]: line for line in found["regions"]}
    assert set(lines) == {"asia", "eu", "us"}
    assert (lines["us"]["leads"], lines["us"]["prepared"]) == (True, [1, 2])
    assert lines["asia"]["heard_s"] is None


def test_a_heartbeat_that_cannot_be_read_hides_no_other(config: Path, tmp_path: Path) -> None:
    open_store(str(tmp_path / "store")).put(heartbeat_path("eu"), b"{")
    shown = CliRunner().invoke(app, ["status", "--config", str(config)])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("not started") == 2
    assert "25% busy" in shown.output


def test_status_of_a_store_that_holds_nothing_yet(tmp_path: Path) -> None:
    config = tmp_path / "regions.yaml"
    config.write_text(SETTINGS)
    shown = CliRunner().invoke(app, ["status", "--config", str(config)])
    assert "Release none; led by nobody" in shown.output
    assert shown.output.count("not started") == 3


def test_releases_move_where_this_machine_can_join(config: Path) -> None:
    config.write_text(SETTINGS.replace("8003}", "8003}, ray_address: 'here:6379'"))
    assert leading(config, None, None).region == "asia"
    # The leader, where there is a choice.
    config.write_text(config.read_text().replace("8002}", "8002}, ray_address: 'there:6379'"))
    assert leading(config, None, None).region == "us"
    assert leading(config, "eu", None).region == "eu"


def test_releases_move_where_the_leader_is_when_none_is_within_reach(config: Path) -> None:
    assert leading(config, None, None).region == "us"
    assert leading(config, "asia", None).region == "asia"
    assert anywhere(config, None, None).read_release_log().position == 4
    with pytest.raises(InvalidArgument, match="there is no region 'mars'"):
        leading(config, "mars", None)


def test_without_a_leader_the_region_must_be_named(tmp_path: Path) -> None:
    config = tmp_path / "regions.yaml"
    config.write_text(SETTINGS)
    with pytest.raises(InvalidArgument, match="say which region with --region: asia, eu, us"):
        leading(config, None, None)


def test_regions_by_name(config: Path) -> None:
    installation = anywhere(config, None, None)
    assert regions_in(None, installation, "regions") == ("asia", "eu", "us")
    assert regions_in(" us, eu,us", installation, "regions") == ("eu", "us")
    for wrong in ("us,mars", "", " , "):
        with pytest.raises(InvalidArgument, match="there is: asia, eu, us") as caught:
            regions_in(wrong, installation, "regions")
        assert caught.value.field == "regions"


def test_what_the_command_says_goes_over_the_settings_policy(config: Path) -> None:
    installation = anywhere(config, None, None)
    assert policy_in(installation, None, None).wait_for == "quorum"
    policy = policy_in(installation, "us,eu", 5.0)
    assert (policy.wait_for, policy.prepare_timeout_s) == (("eu", "us"), 5.0)
    assert policy_in(installation, "all", None).prepare_timeout_s == 90
    with pytest.raises(InvalidArgument, match="there is no region 'mars'"):
        policy_in(installation, "mars", None)
    with pytest.raises(InvalidArgument) as caught:
        policy_in(installation, None, 0.0)
    assert caught.value.field == "prepare-timeout"


@pytest.mark.parametrize("option", ["--regions", "--wait-for"])
def test_an_unknown_region_is_refused_before_anything_is_done(config: Path, option: str) -> None:
    command = ["release", "propose", option, "mars", "--config", str(config)]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InvalidArgument)
    assert "mars" in refused.exception.message
    assert anywhere(config, None, None).read_release_log().position == 4
