"""The sections of the settings on the embedder and the language model."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from cluster.catalog.manifests import Precision, Runtime
from cluster.records import Record
from cluster.shards.placement import SURVIVORS

STARTER = "starter"
"""Word for the small model that installs with Raygion, in place of a model's source."""


class EmbedderSettings(Record):
    """The model that turns text into vectors."""

    source: str = STARTER
    """Source of the model: `starter`, a Hugging Face folder, a hub id, or the URL of a folder in
    object storage.
    """
    precision: Precision = Precision.FLOAT32
    """Numbers that the embedder computes in; they are part of the model version. `bfloat16` needs
    processors with AVX512_BF16 in every region and for every build.
    """
    runtime: Runtime | None = None
    """Library that computes the vectors, which is part of the model version. `null`: that of the
    version in the store, or else the fastest one on the machine that stores the model.
    """
    replicas: Annotated[int, Field(ge=1)] | None = None
    """Actors that embed queries, each on all cores of its machine. `null`: one, or two if the
    region has several machines, so that a lost machine leaves one. A batch of texts is divided
    among all of them. Even with one actor, a batch does not delay other texts.
    """

    @model_validator(mode="after")
    def _check_runtime(self) -> Self:
        if self.precision is Precision.BFLOAT16 and self.runtime is Runtime.OPENVINO:
            raise ValueError("only torch computes in bfloat16: leave embedder.runtime out")
        return self

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """The runtimes that the model may have, in the order in which versions are looked for."""
        if self.runtime is not None:
            return (self.runtime,)
        if self.precision is Precision.BFLOAT16:
            return (Runtime.TORCH,)
        return (Runtime.OPENVINO, Runtime.TORCH)

    def count(self, machines: int) -> int:
        """Number of replicas that should run on so many machines."""
        return self.replicas or max(1, min(SURVIVORS, machines))


_WITHOUT_EFFECT = frozenset(
    {
        "chat_template",
        "chat_template_content_format",
        "default_chat_template_kwargs",
        "enable_auto_tool_choice",
        "reasoning_parser",
        "reasoning_parser_plugin",
        "tokenizer",
        "tokenizer_mode",
        "tool_call_parser",
        "tool_parser_plugin",
    }
)
CALLS_PER_SEQUENCE = 2
"""Calls that a replica accepts for each sequence that it decodes, so that it never runs dry."""


class GeneratorSettings(Record):
    """The language model."""

    source: str | None = STARTER
    """Source of the model: `starter`, a Hugging Face folder, a hub id, or the URL of a folder in
    object storage. `null`: the region only searches.
    """
    name: str | None = None
    """Name of the model on the OpenAI-compatible interface. `null`: a name made from the source."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Language models that always run."""
    replicas_max: Annotated[int, Field(ge=1)] | None = None
    """Language models that may run under load. `null`: as many as `replicas`."""
    cpus_per_replica: Annotated[int, Field(ge=1)] = 1
    """Cores of one machine that each language model takes."""
    accelerator_type: str | None = None
    """Kind of GPU, as Ray names it. `null`: the language model runs on CPUs."""
    context_tokens_max: Annotated[int, Field(ge=256)] = 2048
    """Tokens of the prompt and the answer together."""
    sequences_max: Annotated[int, Field(ge=1)] = 8
    """Answers that one replica writes at once."""
    queue_max: Annotated[int, Field(ge=1)] = 64
    """Requests that may wait for a replica; further ones are refused as overloaded."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's engine, except for those on how vLLM itself makes prompts."""

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, engine: dict[str, Any]) -> dict[str, Any]:
        for key in sorted(_WITHOUT_EFFECT & engine.keys()):
            raise ValueError(
                f"{key} would have no effect: vLLM gets prompts as tokens, made by the tokenizer "
                "and the chat template in the model's folder, and its answers are taken as they are"
            )
        return engine

    def answer_slots(self, gateways: int) -> int:
        """Answers that each of so many gateways can have with replicas or waiting for them."""
        replicas = self.replicas_max or self.replicas
        return -(-CALLS_PER_SEQUENCE * self.sequences_max * replicas // gateways) + self.queue_max
