"""One version of the generator: vLLM behind `ray.serve.llm`, as a Serve application of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase  # noqa: TID251
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine  # noqa: TID251
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment
from ray.serve.llm.openai_api_models import CompletionRequest
from vllm.exceptions import VLLMClientError, VLLMServerError
from vllm.outputs import RequestOutput

from actors.models.prompt_tokenizer import FolderTokenizer
from actors.models.replica_outcomes import RoutingHint
from actors.models.serve_generator import GENERATOR_DEPLOYMENT
from actors.runtime.process_logs import ProcessLogs, handed_on
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.model_settings import CALLS_PER_SEQUENCE
from cluster.clock import Deadline
from cluster.errors import InvalidArgument, Unavailable
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest
from deployments.serve.autoscaling import replica_count
from deployments.serve.draining import DRAIN_TIMEOUT_S
from deployments.serve.weighted_router import WEIGHTED_ROUTER

START_TIMEOUT_S = 600.0
_BROKEN_OFF = frozenset({"abort", "error"})
"""Reasons of vLLM for an end that is not the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSpec:
    """The plan by which one model version is served.

    Without `accelerator_type` a replica runs on `cpus_per_replica` CPUs; with it, on
    `tensor_parallel_size` accelerators of that type, as Ray names them ("H100", "L4").
    """

    model_id: str
    model_folder: str
    """A Hugging Face folder; every machine of the region has it, or fetches it."""
    replicas: int = 1
    replicas_max: int | None = None
    """Replicas under load; None is never more than `replicas`."""
    max_model_len: int = 2048
    max_num_seqs: int = 8
    queued_requests_max: int = 64
    """Calls that may wait in one handle for a replica; more are refused as Overloaded."""
    cpus_per_replica: int = 1
    kv_cache_gib: int = 1
    """Memory for keys and values on CPUs; on accelerators vLLM takes what is left."""
    accelerator_type: str | None = None
    tensor_parallel_size: int = 1
    engine_kwargs: Mapping[str, object] = field(default_factory=dict)
    """Any other argument of vLLM's engine; wins over what is derived from the fields above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArtifact:
    """A model in the store, so that every machine on which a replica starts can fetch it."""

    cache: ArtifactCache
    files: tuple[ArtifactFile, ...]

    def folder(self) -> Path:
        """This machine's copy, fetched if need be, with every byte verified."""
        return self.cache.folder_for(self.files)


class LocalModel(CallbackBase):
    """Skips Ray's download step, a task that imports vLLM once more: the folder is there.

    `ray.serve.llm` takes such a class as `callback_class`, but does not export its base.
    """

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class TokenEngine(VLLMEngine):
    """Tokens in, and vLLM's own outputs out.

    What `ray.serve.llm` offers for this makes OpenAI's JSON of each token, and gathers the tokens
    of each answer by a clock of its own.
    """

    async def outputs(
        self, request: CompletionRequest, prompt: Sequence[int]
    ) -> AsyncGenerator[RequestOutput, None]:
        """Each output has what was written since the last one. Closing it aborts the generation.

        Raises InvalidArgument where the request is at fault, and Unavailable.
        """
        client: Any = self._engine_client
        model = client.model_config
        room = model.max_model_len - len(prompt)
        if room < 1:
            raise InvalidArgument(
                f"make a prompt of {len(prompt)} tokens, and the model reads {model.max_model_len}",
                "messages",
            )
        try:
            sampling = request.to_sampling_params(
                min(request.max_tokens, room), self._sampling_defaults
            )
            outputs = client.generate({"prompt_token_ids": prompt}, sampling, request.request_id)
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        except (ValueError, VLLMClientError) as error:
            raise InvalidArgument(str(error), "messages") from error
        except VLLMServerError as error:
            raise Unavailable("the language model failed while answering") from error

    @cached_property
    def _sampling_defaults(self) -> dict[str, Any]:
        """Those of the model, which vLLM reads from the model's folder."""
        client: Any = self._engine_client
        defaults: dict[str, Any] = client.model_config.get_diff_sampling_param()
        return defaults


class OneProcessEngine(TokenEngine):
    """Runs the model inside the engine's own process, for CPUs.

    vLLM would give the model a third process, which costs 8 s of the start and 450 MB for importing
    vLLM again, and the two poll each other so hard that a token takes nearly twice the CPU time. It
    does so to bind threads to cores, which is not done here. `ray.serve.llm` refuses this executor
    in its `engine_kwargs`.
    """

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        engine_args, frontend_args, config = super()._prepare_engine_config(callback_ctx)
        config.parallel_config.distributed_executor_backend = "uni"
        return engine_args, frontend_args, config


class GeneratorServer(LLMServer):  # type: ignore[misc]  # ray.serve.llm is not typed
    """A replica of a generator version. It counts as started once it has generated a token.

    `generate` is the whole interface for callers, so that gateways need not import vLLM.
    """

    # Serve awaits it.
    async def __init__(  # type: ignore[misc]
        self,
        llm_config: LLMConfig,
        *,
        artifact: ModelArtifact | None,
        logs: ProcessLogs,
    ) -> None:
        logs.begin()
        if artifact is not None:
            # The folder has the same path on every machine, so the configuration holds on all.
            await asyncio.to_thread(artifact.folder)
        self._model_id = llm_config.model_id
        folder = Path(llm_config.model_loading_config.model_source)
        self._tokenizer = await asyncio.to_thread(FolderTokenizer, folder)
        on_cpu = llm_config.accelerator_type is None
        is_one_worker = llm_config.engine_kwargs.get("tensor_parallel_size", 1) == 1
        engine_cls = OneProcessEngine if on_cpu and is_one_worker else TokenEngine
        await super().__init__(llm_config, engine_cls=engine_cls)
        # The first generation compiles and allocates for seconds; no caller should wait for that.
        warm_up = GenerationRequest(
            messages=(ChatMessage(role="user", content="Hello"),),
            max_tokens=2,
            temperature=0.0,
            request_id="warm-up",
        )
        hint = RoutingHint(attempt_id=warm_up.request_id)
        async for _ in self.generate(warm_up, timeout_s=START_TIMEOUT_S, routing=hint):
            pass

    async def _start_engine(self) -> None:
        # The base class then reports usage through an actor of its own, 400 MB that nobody wants.
        assert self.engine is not None
        await self.engine.start()

    async def generate(
        self, request: GenerationRequest, *, timeout_s: float, routing: RoutingHint
    ) -> AsyncGenerator[GenerationChunk, None]:
        """Streams the answer; see `cluster.generation.generator.Generator` for what is guaranteed.

        vLLM gets the prompt as tokens, so that no text in a message can become a control token.
        Cancelling the call aborts the generation in vLLM. The timeout only bounds what is spent on
        an answer whose caller is gone; the caller keeps the deadline.
        """
        deadline = Deadline.after(timeout_s)
        prompt = await asyncio.to_thread(self._tokenizer.encode, request.messages, request.begun)
        asked = _to_completion_request(request, prompt, self._model_id, routing.attempt_id)
        written, reason = 0, None
        # To its very end: closed before, vLLM would abort what is finished.
        async with aclosing(self.engine.outputs(asked, prompt)) as outputs:
            async for output in outputs:
                deadline.check("generating")
                (piece,) = output.outputs
                written += len(piece.token_ids)
                reason = piece.finish_reason
                if reason is None and piece.text:
                    yield GenerationChunk(text=piece.text, completion_tokens=written)
        if reason is None or reason in _BROKEN_OFF:
            raise Unavailable("the engine broke off before the end of its answer")
        yield GenerationChunk(
            text=piece.text,
            finish_reason=reason,
            prompt_tokens=len(prompt),
            completion_tokens=written,
        )


class NoIngress:
    """The ingress that each Serve application must have; it has no replicas and no route.

    The generator cannot be the ingress itself: behind HAProxy, Serve refuses an ingress with a
    request router of its own.
    """

    def __init__(self, generator: object) -> None:
        self._generator = generator


def build_generator_app(
    settings: GeneratorSpec, artifact: ModelArtifact | None = None
) -> Application:
    """The Serve application of one generator version, to be deployed under a name of its own.

    With an `artifact`, each replica first fetches the model to its machine. Needs a driver that is
    connected to the region's cluster. Raises InvalidArgument when vLLM does not know an engine
    argument.
    """
    try:
        generator = build_llm_deployment(
            llm_config_of(settings),
            override_serve_options={"name": GENERATOR_DEPLOYMENT},
            deployment_cls=GeneratorServer,
            bind_kwargs={"artifact": artifact, "logs": handed_on()},
        )
    except ValueError as error:
        raise InvalidArgument(str(error), field="generator") from error
    nothing = AutoscalingConfig(min_replicas=0, initial_replicas=0, max_replicas=1)
    app: Application = serve.deployment(autoscaling_config=nothing)(NoIngress).bind(generator)
    return app


def llm_config_of(settings: GeneratorSpec) -> LLMConfig:
    """The configuration for `ray.serve.llm`. Raises ValueError for settings that it does not
    accept.
    """
    on_cpu = settings.accelerator_type is None
    engine_kwargs: dict[str, object] = {
        "dtype": "bfloat16",
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        # Compiling pays on accelerators only; on CPUs it takes minutes of the start.
        "enforce_eager": on_cpu,
        # vLLM's own progress bars and statistics would fill the log.
        "disable_log_stats": True,
        **settings.engine_kwargs,
    }
    bundles = {"bundles": [{"CPU": settings.cpus_per_replica}]}
    return LLMConfig(
        model_loading_config={
            "model_id": settings.model_id,
            "model_source": settings.model_folder,
        },
        accelerator_type=settings.accelerator_type,
        placement_group_config=bundles if on_cpu else None,
        engine_kwargs=engine_kwargs,
        log_engine_metrics=False,
        callback_config={"callback_class": LocalModel},
        deployment_config=_deployment_config(settings, on_cpu),
        runtime_env={"env_vars": _environment(settings, on_cpu)},
    )


def _deployment_config(settings: GeneratorSpec, on_cpu: bool) -> dict[str, object]:
    routing: dict[str, Any] = {
        "request_router_class": WEIGHTED_ROUTER,
        # Serve's own 0.5 s would leave replicas idle between answers when calls queue.
        "initial_backoff_s": 0.01,
        "max_backoff_s": 0.1,
    }
    return {
        **replica_count(
            settings.replicas,
            settings.replicas_max or settings.replicas,
            requests_target=settings.max_num_seqs,
        ),
        "max_ongoing_requests": CALLS_PER_SEQUENCE * settings.max_num_seqs,
        "max_queued_requests": settings.queued_requests_max,
        # The engine's CPUs are in its own bundle; the replica is added to the first bundle.
        "ray_actor_options": {"num_cpus": 0 if on_cpu else settings.cpus_per_replica},
        "request_router_config": RequestRouterConfig(**routing),
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 30.0,
        "graceful_shutdown_timeout_s": DRAIN_TIMEOUT_S,
    }


def _environment(settings: GeneratorSpec, on_cpu: bool) -> dict[str, str]:
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    if on_cpu:
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
            # Bound to cores, two replicas of one machine would share the first core and leave the
            # others idle.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.cpus_per_replica),
        }
    return environment


def _to_completion_request(
    request: GenerationRequest, tokens: list[int], model_id: str, attempt_id: str
) -> CompletionRequest:
    try:
        return CompletionRequest(
            model=model_id,
            prompt=tokens,
            max_tokens=request.max_tokens,
            **request.sampling() | {"stop": list(request.stop)},
            stream=True,
            request_id=attempt_id,
        )
    except ValidationError as error:
        # The replica works: it is the request that vLLM refuses.
        first = error.errors()[0]
        raise InvalidArgument(first["msg"], ".".join(map(str, first["loc"]))) from error
