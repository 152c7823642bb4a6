"""The regions of an installation, as the routing of requests sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.region_settings import RoutingPolicy
from cluster.region_site import RegionSite
from cluster.residency import Residency


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionMap:
    sites: Mapping[str, RegionSite]
    """Regions as others reach them, by name, in the order of the settings."""
    residency: Residency
    policy: RoutingPolicy
    """Rule by which regions are ordered for a request."""
