"""Passages of a corpus that is bound to some regions stay there: for the model that reads them, and
on the command line.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from actors.models.remote_generator import RemoteGenerator
from actors.regions.http_peers import RegionPeers
from cluster.clock import Deadline
from cluster.config import Settings
from cluster.errors import InvalidArgument, Unavailable
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest
from deployments.cli.main import app
from tests.support.worlds.fake_service import FakeService
from tests.support.worlds.region_servers import FakePeerServices, peers_of, serving, settings_of

RELEASE = 7
PROMPT = GenerationRequest(
    messages=(ChatMessage(role="user", content="[1] A passage. What does it say?"),),
    max_tokens=16,
    temperature=0.0,
    request_id="r1",
)


def bound(urls: dict[str, str], homes: list[str], *, without_model: tuple[str, ...]) -> Settings:
    """Corpus `contracts` may be in the `homes` alone; `open` everywhere."""
    given = settings_of(urls, corpora={"contracts": {"regions": homes}, "open": {}}).model_dump()
    for region in without_model:
        given["regions"][region]["generates"] = False
    return Settings.model_validate(given)


async def test_a_prompt_goes_to_regions_alone_that_may_have_its_passages() -> None:
    near, far = FakePeerServices(), FakePeerServices()
    async with AsyncExitStack() as stack:
        urls = {
            name: await stack.enter_async_context(serving(FakeService(), internals))
            for name, internals in (("near", near), ("far", far))
        }
        given = bound(urls, ["here", "far"], without_model=("here",))
        peers = await stack.enter_async_context(peers_of(given))
        for corpus, counts in (("contracts", (0, 1)), ("open", (1, 1)), (None, (2, 1))):
            assert (await written(peers, corpus))[-1].finish_reason == "stop"
            assert (len(near.asked), len(far.asked)) == counts
        # No other region takes the place of one that fails.
        far.error = Unavailable("no place")
        with pytest.raises(Unavailable):
            await written(peers, "contracts")
        assert (len(near.asked), len(far.asked)) == (2, 2)


async def written(peers: RegionPeers, corpus: str | None) -> list[GenerationChunk]:
    stream = RemoteGenerator(peers, RELEASE, corpus).stream(PROMPT, Deadline.after(10.0))
    return [chunk async for chunk in stream]


@pytest.mark.parametrize("homes", [["here"], ["here", "mute"]])
async def test_without_a_region_for_them_there_is_no_answer(homes: list[str]) -> None:
    urls = {"near": "http://127.0.0.1:1", "mute": "http://127.0.0.1:1"}
    given = bound(urls, homes, without_model=("here", "mute"))
    async with peers_of(given) as peers:
        with pytest.raises(InvalidArgument, match=r"corpora\.contracts\.regions") as caught:
            RemoteGenerator(peers, RELEASE, "contracts")
    assert caught.value.field == "corpus"


@pytest.mark.parametrize("command", [["ingest", "SOURCE"], ["build"], ["delete", "a"]])
def test_documents_are_read_in_regions_alone_that_may_have_them(
    command: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "a.txt"
    source.write_text("A contract.")
    settings: dict[str, Any] = {
        "store": {"url": str(tmp_path / "store")},
        "state_folder": str(tmp_path / "state"),
        "regions": {"frankfurt": {}, "virginia": {}},
        "corpora": {"contracts": {"regions": ["frankfurt"]}},
    }
    file = tmp_path / "regions.yaml"
    file.write_text(yaml.safe_dump(settings))
    verb, *rest = (str(source) if word == "SOURCE" else word for word in command)
    words = [verb, "contracts", *rest, "--config", str(file), "--region", "virginia"]
    told = CliRunner().invoke(app, words)
    assert isinstance(told.exception, InvalidArgument)
    assert told.exception.field == "region"
    assert "may not be in region 'virginia': run this in frankfurt" in str(told.exception)
    assert not (tmp_path / "store").exists()
