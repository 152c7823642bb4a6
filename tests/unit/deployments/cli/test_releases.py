"""The commands that move releases: what each asks the coordinator for, and what it says then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.coordinator.client import CoordinatorClient
from cluster.errors import InvalidArgument
from cluster.releases.requests import (
    AbortRelease,
    CommitRelease,
    ReleaseRequest,
    RollBackTo,
    SetShare,
)
from deployments.cli.main import app
from deployments.hosting import region_host
from deployments.installation import Installation


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ReleaseRequest]:
    """What the coordinator of the region that was joined is asked for."""
    monkeypatch.chdir(tmp_path)
    joined: list[Installation] = []
    requests: list[ReleaseRequest] = []

    def request(_: CoordinatorClient, asked: ReleaseRequest) -> int:
        assert [installation.region for installation in joined] == ["local"]
        requests.append(asked)
        return asked.release or 6

    monkeypatch.setattr(region_host, "join", joined.append)
    monkeypatch.setattr(CoordinatorClient, "request", request)
    monkeypatch.setattr(CoordinatorClient, "wait_until_serving", lambda *_: None)
    return requests


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["release", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output.strip()


COMMANDS = [
    (["commit", "7"], CommitRelease(release=7), "Release 7 is committed", {"committed": True}),
    (
        ["canary", "7", "--percent", "5"],
        SetShare(release=7, percent=5),
        "Release 7 gets 5 % of the traffic",
        {"percent": 5},
    ),
    (
        ["canary", "7", "--percent", "0"],
        SetShare(release=7, percent=0),
        "Release 7 gets no traffic any more",
        {"percent": 0},
    ),
    (
        ["abort", "7", "--reason", "wrong"],
        AbortRelease(release=7, reason="wrong"),
        "Release 7 is aborted",
        {"aborted": True},
    ),
    (["rollback", "7"], RollBackTo(release=7, force=False), "Release 7 is current again", {}),
]


@pytest.mark.parametrize(("command", "request_", "sentence", "facts"), COMMANDS)
def test_a_command_asks_once_and_says_what_is_so_now(
    asked: list[ReleaseRequest],
    command: list[str],
    request_: ReleaseRequest,
    sentence: str,
    facts: dict[str, object],
) -> None:
    assert said(*command) == sentence
    assert asked == [request_]


@pytest.mark.parametrize(("command", "request_", "sentence", "facts"), COMMANDS)
def test_for_machines_it_is_one_json_document(
    asked: list[ReleaseRequest],
    command: list[str],
    request_: ReleaseRequest,
    sentence: str,
    facts: dict[str, object],
) -> None:
    assert json.loads(said(*command, "--json")) == {"release": 7, **facts}


def test_the_release_before_is_the_coordinators_to_know(asked: list[ReleaseRequest]) -> None:
    assert said("rollback", "--force") == "Release 6 is current again"
    assert asked == [RollBackTo(release=None, force=True)]


def test_nothing_is_asked_for_what_does_not_go_together(asked: list[ReleaseRequest]) -> None:
    with pytest.raises(InvalidArgument, match="does not go with --again"):
        said("rollback", "--again", "--force")
    assert asked == []
