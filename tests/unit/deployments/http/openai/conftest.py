"""OpenAI's own Python client, and the service that it asks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.support.worlds.fake_service import FakeService, app_of, on_loopback


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AsyncOpenAI]:
    """Over a real server on loopback."""
    async with (
        on_loopback(app_of(service)) as base,
        AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as found,
    ):
        yield found
