"""The sections of the settings on regions, their HTTP endpoints, the store and routing."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, SecretStr

from cluster.caller import Location
from cluster.errors import InvalidArgument
from cluster.records import Record

_PORT = Field(ge=1, le=65535)
SURVIVORS = 2
"""Of each part that queries need, on different machines: one of them outlives the other."""


def _presentable(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a key is made of printable ASCII characters, without spaces")
    return key


Key = Annotated[SecretStr, AfterValidator(_presentable)]
"""What stands in `Authorization: Bearer <key>`."""


Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^\s/]+)$")]
"""As browsers send it: without a path or a slash at the end."""


class StoreSettings(Record):
    """Where the durable truth is: any fsspec URL with real put-if-absent."""

    url: str = ".raygion/store"
    """A folder (relative to the settings file), or `s3://bucket/path` and the like."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the fsspec file system, such as `endpoint_url` for S3."""


class EndpointSettings(Record):
    """The region's HTTP endpoint."""

    host: str = "127.0.0.1"
    """Loopback unless told otherwise. On another one the endpoint starts only with keys."""
    port: Annotated[int, _PORT] = 8000
    api_keys: tuple[Key, ...] = ()
    """When any are given, requests need one of them as bearer token. The command line sends the
    first one."""
    cors_origins: tuple[Origin, ...] = ()
    """Web pages of which origins, such as `https://chat.example.org`, a browser may let ask this
    endpoint; `*` stands for all. Keys are asked for all the same."""
    body_bytes_max: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    in_flight_max: Annotated[int, Field(ge=1)] = 256
    """Requests that one gateway process handles at once; more are refused with 503."""
    answers_in_flight_max: Annotated[int, Field(ge=1)] = 32
    """Answers that one gateway process works on at once, or fewer where the region's language
    models hold no more; one more is refused before anything is looked up for it."""
    gateways: Annotated[int, Field(ge=1)] | None = None
    """Gateway processes that always run; None: one, or two where the region has several machines,
    so that a lost machine leaves one."""
    gateways_max: Annotated[int, Field(ge=1)] | None = None
    """More are started under load, up to this; None: up to one for each core of a machine, and at
    least two."""
    local_first: bool = True
    """Gateways search shards whose files are on their node themselves; actors serve the rest."""

    def check_others_are_kept_out(self, region: str) -> None:
        """Raises InvalidArgument when others than this machine could come in without a key."""
        if not self.api_keys and not is_loopback(self.host):
            raise InvalidArgument(
                f"others can reach the host {self.host}, so the endpoint needs keys; set "
                f"RAYGION_REGIONS__{region.upper()}__HTTP__API_KEYS='[\"...\"]' in the environment "
                "(or take the host 127.0.0.1)",
                f"regions.{region}.http.api_keys",
            )

    def gateways_least(self, machines: int) -> int:
        """How many run in any case on so many machines."""
        return self.gateways or min(SURVIVORS, machines, self.gateways_max or SURVIVORS)

    def gateways_most(self, cores: int) -> int:
        """How many run under load, where a machine has so many cores."""
        return max(self.gateways or 1, self.gateways_max or max(SURVIVORS, cores))


def is_loopback(host: str) -> bool:
    """Whether the host, by its address or `localhost`, is this machine for whoever names it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class RegionSettings(Record):
    """One region: one Ray cluster with its HTTP endpoint."""

    url: str | None = None
    """Where the other regions and callers reach its endpoint; None: at the endpoint's host and
    port."""
    location: Location | None = None
    """Where it is, for routing to the nearest region."""
    generates: bool = True
    """False runs no language model here: the generating step is forwarded to another region."""

    ray_address: str | None = None
    """Address of a running Ray cluster, such as `auto` on a machine that `ray up` made. None starts
    a cluster of the region's own on this machine.
    """
    cpus: Annotated[float, Field(gt=0)] | None = None
    """Logical CPUs of a cluster that is started here; None leaves room for what the settings ask
    for."""
    gcs_redis: Annotated[str, Field(pattern=r"^[^\s:/@]+:[0-9]{1,5}$")] | None = None
    """Host and port of a Redis that keeps the state of the cluster's control store (Ray's GCS), so
    that the region outlives its death. None keeps it in memory, and the region dies with it."""
    http: EndpointSettings = Field(default_factory=EndpointSettings)


class RoutingPolicy(StrEnum):
    """Which region serves a request first; the others follow when it cannot."""

    NEAREST = "nearest"
    """The one nearest to the caller, where the request says where that is; else the one asked."""
    LEAST_LOADED = "least_loaded"
    USER = "user"
    """By consistent hashing of the request's `user`; without one, the one asked."""
    LOCAL = "local"
    """The one that was asked."""


Network = Annotated[IPv4Network | IPv6Network, PlainValidator(ip_network)]


class RoutingSettings(Record):
    policy: RoutingPolicy = RoutingPolicy.LOCAL
    locations: dict[Network, Location] = Field(default_factory=dict)
    """Where callers are who do not say so, by the network that they come from, such as
    `10.1.0.0/16`. The smallest network that holds an address counts.
    """
    clock_skew_max_ms: Annotated[int, Field(ge=0, le=10_000)] = 100
    """How far the clocks of two regions may be apart. Reported staleness has it on top."""
