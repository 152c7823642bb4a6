"""The settings of an installation: `regions.yaml`, then the environment, then flags.

    regions.yaml                      store: {url: s3://bucket/raygion}
    environment, over the file        RAYGION_STORE__URL=s3://bucket/raygion
    flags, over both                  raygion up --store s3://bucket/raygion

Unknown keys are refused by name. This module alone reads the file and the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

from cluster.catalog.corpus_settings import AUTO, NAMED, CorpusSettings
from cluster.catalog.model_settings import EmbedderSettings, GeneratorSettings
from cluster.errors import InvalidArgument
from cluster.generation.prompt import PromptTemplate
from cluster.logs.settings import LogSettings
from cluster.query.evidence import EvidenceSettings
from cluster.records import Name, Record
from cluster.regions.endpoint import RegionEndpoint
from cluster.regions.map import RegionMap
from cluster.regions.residency import Residency
from cluster.regions.settings import Key, RegionSettings, RoutingSettings, StoreSettings
from cluster.releases.settings import RolloutPolicy

CONFIG_FILE = "regions.yaml"
_ENV_PREFIX = "RAYGION_"
_ENV_DELIMITER = "__"


class CacheSettings(Record):
    """A machine's copies of artifacts."""

    bytes_max: Annotated[int, Field(ge=0)] | None = None
    """Size beyond which the least recently used files are removed, but never those that a resident
    release needs. `null`: nothing is removed.
    """


Question = Annotated[str, Field(min_length=1, max_length=8192)]


class DivergenceSettings(Record):
    """The comparison of what the regions answer."""

    every_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds between two comparisons by one region; 0 turns comparisons off."""
    questions: Annotated[tuple[Question, ...], Field(max_length=64)] = ()
    """Texts that are asked besides randomly drawn vectors, because texts lie where queries do."""


class Settings(Record):
    """The settings of an installation."""

    store: StoreSettings = Field(default_factory=StoreSettings)
    regions: dict[Name, RegionSettings] = Field(default_factory=lambda: {"local": RegionSettings()})
    region_keys: tuple[Key, ...] = ()
    """Keys of the regions themselves. Regions send each other the first one in place of a caller's
    key and accept all of them. The routes that only regions use accept no other key.
    """
    corpora: dict[Name, CorpusSettings] = Field(default_factory=dict)
    embedder: EmbedderSettings = Field(default_factory=EmbedderSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    prompt: PromptTemplate = Field(default_factory=PromptTemplate)
    evidence: EvidenceSettings = Field(default_factory=EvidenceSettings)
    routing: RoutingSettings = Field(default_factory=RoutingSettings)
    rollout: RolloutPolicy = Field(default_factory=RolloutPolicy)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    divergence: DivergenceSettings = Field(default_factory=DivergenceSettings)
    logs: LogSettings = Field(default_factory=LogSettings)
    state_folder: Path = Path(".raygion")
    """Folder for what a machine keeps for itself: caches, logs, the secret of the Ray cluster."""

    @field_validator("prompt")
    @classmethod
    def _check_prompt_holds_all(cls, prompt: PromptTemplate) -> PromptTemplate:
        # Here, not in the template itself: releases that were made with another one stay readable.
        if missing := prompt.missing():
            raise ValueError(f"not a whole prompt: without {' and '.join(missing)}")
        return prompt

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

    @model_validator(mode="after")
    def _check_callers_have_no_region_key(self) -> Self:
        for name, region in self.regions.items():
            if not set(region.http.api_keys).isdisjoint(self.region_keys):
                raise ValueError(
                    f"regions.{name}.http.api_keys and region_keys have a key in common: callers "
                    "must not have a key of the regions"
                )
        return self

    def corpus(self, name: str) -> CorpusSettings:
        """The settings of a corpus; the defaults for one that has none of its own."""
        return self.corpora.get(name, CorpusSettings())

    def residency(self) -> Residency:
        """The rule on which regions may hold which corpora."""
        homes = {n: frozenset(c.regions) for n, c in self.corpora.items() if c.regions is not None}
        only = next(iter(self.corpora)) if len(self.corpora) == 1 else None
        return Residency(homes=homes, only_corpus=only)

    def endpoints(self) -> dict[str, RegionEndpoint]:
        """The regions as others reach them, by name, in the order of the settings."""
        return {
            name: RegionEndpoint.of(name, region, self.region_keys)
            for name, region in self.regions.items()
        }

    def region_map(self) -> RegionMap:
        """The regions, for a router of requests."""
        return RegionMap(
            endpoints=self.endpoints(), residency=self.residency(), policy=self.routing.policy
        )

    def may_hold(self, region: str, corpus: str) -> bool:
        """True when the corpus may be in that region."""
        return self.residency().may_hold(region, corpus)

    def check_may_hold(self, region: str, corpus: str) -> None:
        """Raises InvalidArgument for a region that may not have the corpus's documents."""
        if not self.may_hold(region, corpus):
            homes = ", ".join(self.corpus(corpus).regions or ())
            raise InvalidArgument(
                f"corpus {corpus!r} may not be in region {region!r}: run this in {homes}", "region"
            )

    def answer_slots(self, region: str) -> int:
        """Answers that one gateway of the region takes at once: what its language models would
        refuse in the end is not worth a search.
        """
        settings = self.regions[region]
        wanted = settings.http.answers_in_flight_max
        if not settings.generates:
            return wanted
        return min(wanted, self.generator.answer_slots(settings.http.gateways_least(machines=1)))

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
    loc = [str(part) for part in first["loc"] if part not in (AUTO, NAMED, "[key]")]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        return InvalidArgument(f"unknown key (in {file or 'the settings'})", key)
    message = first["msg"].removeprefix("Value error, ")
    return InvalidArgument(f"{message} (in {file or 'the settings'})", key)
