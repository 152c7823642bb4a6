"""A region as others reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.query.caller import Location
from cluster.regions.settings import Key, RegionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionEndpoint:
    name: str
    url: str
    api_key: str | None = field(default=None, repr=False)
    """Key that callers send to the region."""
    region_key: str | None = field(default=None, repr=False)
    """Key that other regions send to the region."""
    location: Location | None = None
    generates: bool = True

    @classmethod
    def of(
        cls, name: str, region: RegionSettings, region_keys: Sequence[Key] = ()
    ) -> RegionEndpoint:
        api_key, region_key = _first(region.http.api_keys), _first(region_keys)
        return cls(
            name=name,
            url=region.url or f"http://{region.http.host}:{region.http.port}",
            api_key=api_key,
            region_key=region_key or api_key,
            location=region.location,
            generates=region.generates,
        )


def _first(keys: Sequence[Key]) -> str | None:
    return keys[0].get_secret_value() if keys else None
