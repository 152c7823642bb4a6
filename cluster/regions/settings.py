"""The sections of the settings on regions, their HTTP endpoints, the store and routing."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, SecretStr

from cluster.errors import InvalidArgument
from cluster.query.caller import Location
from cluster.records import Record
from cluster.shards.placement import SURVIVORS

_PORT = Field(ge=1, le=65535)


def _presentable(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a key is made of printable ASCII characters, without spaces")
    return key


Key = Annotated[SecretStr, AfterValidator(_presentable)]
"""A key as it stands in `Authorization: Bearer <key>`."""


Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^\s/]+)$")]
"""An origin as browsers send it: without a path or a slash at the end."""


class StoreSettings(Record):
    """The store, which is the only durable truth: any fsspec URL with real put-if-absent."""

    url: str = ".raygion/store"
    """Folder, relative to the settings file, or a URL such as `s3://bucket/path`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments for the fsspec file system, such as `endpoint_url` for S3."""


class EndpointSettings(Record):
    """The region's HTTP endpoint."""

    host: str = "127.0.0.1"
    """Address that the endpoint listens on. Other addresses than loopback need `api_keys`."""
    port: Annotated[int, _PORT] = 8000
    """Port of the endpoint. Regions on one machine need a port each."""
    api_keys: tuple[Key, ...] = ()
    """Keys of callers. If there are any, each request needs one of them as its bearer token. The
    command line sends the first one.
    """
    cors_origins: tuple[Origin, ...] = ()
    """Origins of web pages, such as `https://chat.example.org`, from which browsers may ask this
    endpoint; `*` stands for all origins. Such requests need a key like all others.
    """
    body_bytes_max: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    """Longest body of a request; a longer one is refused with 413."""
    in_flight_max: Annotated[int, Field(ge=1)] = 256
    """Requests that one gateway process handles at once; further ones are refused with 503."""
    answers_in_flight_max: Annotated[int, Field(ge=1)] = 32
    """Answers that one gateway process works on at once, or fewer if the region's language models
    hold fewer; a further one is refused before anything is searched for it.
    """
    gateways: Annotated[int, Field(ge=1)] | None = None
    """Gateway processes that always run. `null`: one, or two if the region has several machines, so
    that a lost machine leaves one.
    """
    gateways_max: Annotated[int, Field(ge=1)] | None = None
    """Gateway processes that may run under load. `null`: one for each core of a machine, and at
    least two.
    """
    local_first: bool = True
    """Whether gateways themselves search the shards, and embed questions by the models, whose files
    are on their node. Shard replicas and embedders do all else.
    """

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
        """Number of gateways that run on so many machines at any load."""
        return self.gateways or min(SURVIVORS, machines, self.gateways_max or SURVIVORS)

    def gateways_most(self, cores: int) -> int:
        """Largest number of gateways under load, where a machine has so many cores."""
        return max(self.gateways or 1, self.gateways_max or max(SURVIVORS, cores))


def is_loopback(host: str) -> bool:
    """True for `localhost` and for addresses that mean this machine to whoever names them."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class RegionSettings(Record):
    """One region: one Ray cluster with its HTTP endpoint."""

    url: str | None = None
    """URL at which other regions and callers reach the endpoint. `null`: the endpoint's own host
    and port.
    """
    location: Location | None = None
    """Location of the region, for routing to the nearest one."""
    generates: bool = True
    """Whether the region runs a language model. Without one, the generating step is forwarded to
    another region.
    """

    ray_address: str | None = None
    """Address of a running Ray cluster, such as `auto` on a machine that `ray up` made. `null`: the
    region starts a cluster of its own on this machine.
    """
    cpus: Annotated[float, Field(gt=0)] | None = None
    """Logical CPUs of a cluster that is started here. `null`: as many as the settings need."""
    gcs_redis: Annotated[str, Field(pattern=r"^[^\s:/@]+:[0-9]{1,5}$")] | None = None
    """Host and port of a Redis that keeps the state of Ray's control store (its GCS), so that the
    region survives the death of that process. `null`: the state is in memory, and the region ends
    when the control store dies.
    """
    http: EndpointSettings = Field(default_factory=EndpointSettings)


class RoutingPolicy(StrEnum):
    """The rule by which a region is chosen to serve a request; if that region cannot, others are
    asked.
    """

    NEAREST = "nearest"
    """the region nearest to the caller, or the asked one if the caller's location is unknown."""
    LEAST_LOADED = "least_loaded"
    """the region with the least load."""
    USER = "user"
    """the region found by consistent hashing of the request's `user`; without it, the asked one."""
    LOCAL = "local"
    """the region that was asked."""


Network = Annotated[IPv4Network | IPv6Network, PlainValidator(ip_network)]


class RoutingSettings(Record):
    """The choice of the region that serves a request."""

    policy: RoutingPolicy = RoutingPolicy.LOCAL
    """Rule by which a region is chosen. If that region cannot serve a request, others are asked."""
    locations: dict[Network, Location] = Field(default_factory=dict)
    """Locations of callers that do not state their own, by the network that they come from, such as
    `10.1.0.0/16`. The smallest network that contains the caller's address counts.
    """
    clock_skew_max_ms: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Largest difference between the clocks of two regions. It is added to every reported
    staleness.
    """
