"""An endpoint that others can reach does not start without keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import Settings
from cluster.errors import InvalidArgument
from cluster.regions.settings import EndpointSettings
from deployments.hosting import region_host
from deployments.installation import Installation

OPEN = ["0.0.0.0", "::", "10.0.0.7", "region.example.org", "", "localhost.example.org", "*"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_the_lack_of_a_key_raises_nothing(host: str) -> None:
    EndpointSettings(host=host).check_others_are_kept_out("here")


@pytest.mark.parametrize("host", OPEN)
def test_elsewhere_a_key_is_needed_and_the_error_says_how_to_give_one(host: str) -> None:
    with pytest.raises(InvalidArgument, match="RAYGION_REGIONS__HERE__HTTP__API_KEYS") as caught:
        EndpointSettings(host=host).check_others_are_kept_out("here")
    assert caught.value.field == "regions.here.http.api_keys"
    given = EndpointSettings.model_validate({"host": host, "api_keys": ["k"]})
    given.check_others_are_kept_out("here")


def test_a_region_that_others_could_enter_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("nothing may be started")

    monkeypatch.setattr(region_host, "start_cluster", refuse)
    settings = Settings.model_validate(
        {"regions": {"here": {"http": {"host": "0.0.0.0"}}}, "state_folder": tmp_path}
    )
    installation = Installation(settings, "here")
    with (
        pytest.raises(InvalidArgument, match="so the endpoint needs keys"),
        region_host.brought_up(installation, (), lambda _: None),
    ):
        pass
