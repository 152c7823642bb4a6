"""The settings of an installation: `regions.yaml`, then the environment, then flags.

    regions.yaml                      store: {url: s3://bucket/raygion}
    environment, over the file        RAYGION_STORE__URL=s3://bucket/raygion
    flags, over both                  raygion up --store s3://bucket/raygion

Unknown keys are refused by name. This module alone reads the file and the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    SecretStr,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

from cluster.caller import Location as Location
from cluster.errors import InvalidArgument
from cluster.manifests import AutoIndex, IndexParameters, Name
from cluster.prompt import PromptTemplate
from cluster.records import Record
from cluster.releases import WaitFor

STARTER = "starter"
"""Instead of a model's source: the small model that installs with Raygion."""
CONFIG_FILE = "regions.yaml"
REPLICAS_MAX = 64
_PORT = Field(ge=1, le=65535)
_ENV_PREFIX = "RAYGION_"
_ENV_DELIMITER = "__"


class StoreSettings(Record):
    """Where the durable truth is: any fsspec URL with real put-if-absent."""

    url: str = ".raygion/store"
    """A folder (relative to the settings file), or `s3://bucket/path` and the like."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the fsspec file system, such as `endpoint_url` for S3."""


class EndpointSettings(Record):
    """The region's HTTP endpoint."""

    host: str = "127.0.0.1"
    """Loopback unless told otherwise."""
    port: Annotated[int, _PORT] = 8000
    api_keys: tuple[SecretStr, ...] = ()
    """When any are given, requests need one of them as bearer token."""
    body_bytes_max: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    in_flight_max: Annotated[int, Field(ge=1)] = 256
    """Requests that one gateway process handles at once; more are refused with 503."""
    answers_in_flight_max: Annotated[int, Field(ge=1)] = 32
    """Answers that one gateway process works on at once, or fewer where the region's language
    models hold no more; one more is refused before anything is looked up for it."""
    gateways: Annotated[int, Field(ge=1)] = 1
    """Gateway processes that always run."""
    gateways_max: Annotated[int, Field(ge=1)] | None = None
    """More are started under load, up to this; None: up to one for each core of the machine."""
    local_first: bool = True
    """Gateways search shards whose files are on their node themselves; actors serve the rest."""


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
    http: EndpointSettings = Field(default_factory=EndpointSettings)


class ChunkSettings(Record):
    """How long documents are cut into passages."""

    chars_max: Annotated[int, Field(ge=100, le=100_000)] = 1000


def _index_kind(value: object) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return _AUTO if kind == _AUTO else _NAMED


def _spelt_out(value: object) -> object:
    return {"kind": _AUTO} if value == _AUTO else value


_AUTO, _NAMED = "auto", "named"
IndexSettings = Annotated[
    Annotated[AutoIndex, Tag(_AUTO)] | Annotated[IndexParameters, Tag(_NAMED)],
    Discriminator(_index_kind),
    BeforeValidator(_spelt_out),
]


class CorpusSettings(Record):
    """How a corpus is built and held."""

    shards: Annotated[int, Field(ge=1, le=1024)] = 2
    replicas: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] = 2
    """Of each shard; `raygion scale` changes it while the region runs."""
    replicas_max: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] | None = None
    """More are started while replicas are busy, up to this; None: never more than `replicas`."""
    index: IndexSettings = Field(default_factory=IndexParameters)
    """A kind with its parameters; or `auto`, alone or as the kind beside its own parameters."""
    chunks: ChunkSettings = Field(default_factory=ChunkSettings)
    regions: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """The only regions that may hold it (data residency); None: all of them."""
    partition_by: Annotated[str, Field(min_length=1)] | None = None
    """A metadata field of strings or integers: documents with equal values are a partition, which
    is kept in one shard; a query whose filter names its partition touches only that.
    """


class EmbedderSettings(Record):
    """The model that turns text into vectors."""

    source: str = STARTER
    """`starter`, a Hugging Face folder, a hub id, or the URL of a folder in object storage."""
    replicas: Annotated[int, Field(ge=1)] = 1


CALLS_PER_SEQUENCE = 2
"""Calls that a replica accepts for each sequence that it decodes, so that it never runs dry."""


class GeneratorSettings(Record):
    """The language model."""

    source: str | None = STARTER
    """`starter`, a Hugging Face folder, a hub id, or the URL of a folder in object storage. `null`
    serves the search tier alone.
    """
    name: str | None = None
    """The model's name on the OpenAI-compatible interface; None derives it from the source."""
    replicas: Annotated[int, Field(ge=1)] = 1
    replicas_max: Annotated[int, Field(ge=1)] | None = None
    """More are started under load, up to this; None: never more than `replicas`."""
    cpus_per_replica: Annotated[int, Field(ge=1)] = 1
    accelerator_type: str | None = None
    """The kind of GPU, as Ray names it; None runs on CPUs."""
    context_tokens_max: Annotated[int, Field(ge=256)] = 2048
    sequences_max: Annotated[int, Field(ge=1)] = 8
    """Answers that one replica writes at once."""
    queue_max: Annotated[int, Field(ge=1)] = 64
    """Requests that may wait for a replica; more are refused as overloaded."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """More vLLM engine arguments."""

    def places(self, gateways: int) -> int:
        """Answers that each of so many gateways can have with replicas or waiting for them."""
        replicas = self.replicas_max or self.replicas
        return -(-CALLS_PER_SEQUENCE * self.sequences_max * replicas // gateways) + self.queue_max


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


class CacheSettings(Record):
    """A machine's copies of artifacts."""

    bytes_max: Annotated[int, Field(ge=0)] | None = None
    """What was used least recently goes when there is more, but never what a resident release
    needs. None: all stays.
    """


Question = Annotated[str, Field(min_length=1, max_length=8192)]


class DivergenceSettings(Record):
    """Comparing what the regions answer."""

    every_s: Annotated[float, Field(ge=0)] = 60.0
    """How often each region asks all of them the same; 0 never does."""
    questions: Annotated[tuple[Question, ...], Field(max_length=64)] = ()
    """Texts to ask beside vectors that are drawn by chance, so that embedders are compared, too."""


class RolloutPolicy(Record):
    """When a proposed release is committed."""

    wait_for: WaitFor = "all"
    """`all`: every target region that is not fenced out by the deadline. `quorum`: a majority of
    them. Or the named ones. Regions that are not waited for catch up after the commit.
    """
    prepare_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long regions have to prepare a release."""


class Settings(Record):
    """All settings of an installation."""

    store: StoreSettings = Field(default_factory=StoreSettings)
    regions: dict[Name, RegionSettings] = Field(default_factory=lambda: {"local": RegionSettings()})
    corpora: dict[Name, CorpusSettings] = Field(default_factory=dict)
    embedder: EmbedderSettings = Field(default_factory=EmbedderSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    prompt: PromptTemplate = Field(default_factory=PromptTemplate)
    routing: RoutingSettings = Field(default_factory=RoutingSettings)
    rollout: RolloutPolicy = Field(default_factory=RolloutPolicy)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    divergence: DivergenceSettings = Field(default_factory=DivergenceSettings)
    state_folder: Path = Path(".raygion")
    """What a machine keeps for itself: caches, logs, the secret of the Ray cluster."""

    @model_validator(mode="after")
    def _check_corpora_have_a_home(self) -> Self:
        for name, corpus in self.corpora.items():
            for region in corpus.regions or ():
                if region not in self.regions:
                    known = ", ".join(sorted(self.regions))
                    raise ValueError(
                        f"corpus {name!r} is bound to {region!r}, which is no region; "
                        f"there is: {known}"
                    )
        return self

    def corpus(self, name: str) -> CorpusSettings:
        """The settings of a corpus; the defaults for one that has none of its own."""
        return self.corpora.get(name, CorpusSettings())

    def may_hold(self, region: str, corpus: str) -> bool:
        """Whether the corpus may be in that region."""
        homes = self.corpus(corpus).regions
        return homes is None or region in homes

    def answer_places(self, region: str) -> int:
        """Answers that one gateway of the region takes at once: what its language models would
        refuse in the end is not worth a search.
        """
        settings = self.regions[region]
        wanted = settings.http.answers_in_flight_max
        if not settings.generates:
            return wanted
        return min(wanted, self.generator.places(settings.http.gateways))

    def region_name(self, asked: str | None) -> str:
        """`asked`, or the only region there is. Raises InvalidArgument naming the choices."""
        known = ", ".join(sorted(self.regions))
        if asked is None and len(self.regions) == 1:
            return next(iter(self.regions))
        if asked is None:
            raise InvalidArgument(f"say which region with --region: {known}", "region")
        if asked not in self.regions:
            raise InvalidArgument(f"there is no region {asked!r}; there is: {known}", "region")
        return asked


class _Layers(Settings, BaseSettings):
    """Reads the settings from their three sources."""

    model_config = SettingsConfigDict(
        extra="forbid", env_prefix=_ENV_PREFIX, env_nested_delimiter=_ENV_DELIMITER
    )
    _file: ClassVar[Path | None] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = YamlConfigSettingsSource(settings_cls, yaml_file=cls._file)
        return (init_settings, env_settings, file)


def load_settings(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Reads `file` (or `regions.yaml` here, if there is one), the environment and `overrides`.

    Relative folders are taken from the file's folder. Raises InvalidArgument naming the key that is
    wrong, or the file that is missing.
    """
    if file is not None and not file.is_file():
        raise InvalidArgument(f"there is no settings file {file}", "config")
    _check_environment()
    default = Path(CONFIG_FILE)
    found = file or (default if default.is_file() else None)

    class FileLayers(_Layers):
        _file = found

    try:
        layers = FileLayers(**(overrides or {}))
        settings = Settings.model_validate(layers.model_dump())
    except ValidationError as error:
        raise _invalid(error, found) from error
    except (SettingsError, YAMLError, ValueError) as error:
        raise InvalidArgument(f"{found} cannot be read: {error}", "config") from error
    base = (found.parent if found else Path()).resolve()
    return settings.model_copy(
        update={
            "state_folder": base / settings.state_folder,
            "store": settings.store.model_copy(update={"url": _anchored(settings.store.url, base)}),
        }
    )


def _check_environment() -> None:
    # The sources look up the variables of known keys, and never see those of a misspelt section.
    for variable in os.environ:
        section, delimiter, _ = variable.upper().partition(_ENV_DELIMITER)
        key = section.removeprefix(_ENV_PREFIX).lower()
        if delimiter and key != section.lower() and key not in Settings.model_fields:
            raise InvalidArgument(f"unknown key (in the environment: {variable})", key)


def _anchored(url: str, base: Path) -> str:
    return url if "://" in url else os.fspath(base / url)


def _invalid(error: ValidationError, file: Path | None) -> InvalidArgument:
    first = error.errors()[0]
    # Which kind of index settings it took them for is no part of what the file says, nor that it
    # was looking at a key.
    loc = [str(part) for part in first["loc"] if part not in (_AUTO, _NAMED, "[key]")]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        return InvalidArgument(f"unknown key (in {file or 'the settings'})", key)
    message = first["msg"].removeprefix("Value error, ")
    return InvalidArgument(f"{message} (in {file or 'the settings'})", key)
