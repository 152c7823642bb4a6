"""A region as others reach it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.caller import Location
from cluster.region_settings import RegionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSite:
    name: str
    url: str
    api_key: str | None = field(default=None, repr=False)
    location: Location | None = None
    generates: bool = True

    @classmethod
    def of(cls, name: str, region: RegionSettings) -> RegionSite:
        keys = region.http.api_keys
        return cls(
            name=name,
            url=region.url or f"http://{region.http.host}:{region.http.port}",
            api_key=keys[0].get_secret_value() if keys else None,
            location=region.location,
            generates=region.generates,
        )
