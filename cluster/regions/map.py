"""The regions of an installation, as the routing of requests sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.regions.endpoint import RegionEndpoint
from cluster.regions.residency import Residency
from cluster.regions.settings import RoutingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionMap:
    endpoints: Mapping[str, RegionEndpoint]
    """Regions as others reach them, by name, in the order of the settings."""
    residency: Residency
    policy: RoutingPolicy
    """Rule by which regions are ordered for a request."""
