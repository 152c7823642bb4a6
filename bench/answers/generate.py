"""The generator through `/v1/answer` and `/v1/chat/completions`, against vLLM alone.

One after another in each repetition, since both want all of a small machine's cores; the one that
is not asked sleeps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from actors.models.prompt_tokenizer import FolderTokenizer
from bench.answers.vllm_alone import EngineSettings, Prompt, PromptLoad, VllmAlone
from bench.data import factbook_documents, factbook_questions
from bench.load.client import LoadGenerator
from bench.load.cpu_time import OTHERS, cpu_between, cpu_by_process
from bench.load.processes import with_descendants
from bench.load.streams import AnswersReport, StreamLoad, run_streams
from bench.plan import Plan
from bench.region import BenchRegion, running_region
from bench.reports import GenerateReport, GenerationCost, Spread, environment_now
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.generation.generator import ChatMessage
from cluster.generation.prompt import PromptTemplate, TokenBudget, build_prompt
from cluster.query.answers import ANSWER_TOP_K_DEFAULT
from deployments.clients.http_client import HttpRegion

_CORPUS = "factbook"
_CLIENTS = (1, 8)
_LONE_ANSWERS = 2
"""A lone client asks for this many times more answers, so that its median means something."""
_ASKS_ENGINE = "generator"
_ANSWER, _CHAT = "/v1/answer", "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    path: str
    clients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    report: AnswersReport
    cpu_s: dict[str, float]
    """CPU seconds of each kind of process."""

    @property
    def cpu_ms(self) -> dict[str, float]:
        """CPU time of one token."""
        tokens = sum(answer.answer_tokens for answer in self.report.answers)
        return {role: used_s / tokens * 1000 for role, used_s in self.cpu_s.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The same questions, to the region and to vLLM alone."""

    served: _Run
    alone: _Run


class _GenerateBench:
    def __init__(
        self, plan: Plan, region: BenchRegion, clients: LoadGenerator, peer: VllmAlone
    ) -> None:
        self._plan = plan
        self._region = region
        self._clients = clients
        self._peer = peer
        self._model = region.generator().name
        self._tokenizer = FolderTokenizer(region.generator_folder())
        self._context = region.installation.settings.generator.context_tokens_max
        documents = factbook_documents(plan.documents_max)
        # Every answer has a question of its own: vLLM keeps what it has computed for a prompt.
        self._questions = iter(factbook_questions(documents))
        self._pairs: dict[_Case, list[_Pair]] = defaultdict(list)

    def repeat(self, *, peer_first: bool) -> None:
        for path in (_ANSWER, _CHAT):
            for clients in _CLIENTS:
                each = self._plan.answers_each * (_LONE_ANSWERS if clients == 1 else 1)
                asked = [[next(self._questions) for _ in range(each)] for _ in range(clients)]
                prompts = [[self._prompt(path, text) for text in of_one] for of_one in asked]
                load = PromptLoad(prompts=prompts, answer_tokens_max=self._plan.answer_tokens)
                alone = self._alone(load) if peer_first else None
                served = self._served(path, asked)
                pair = _Pair(served=served, alone=alone or self._alone(load))
                self._pairs[_Case(path=path, clients=clients)].append(pair)

    def costs(self) -> tuple[GenerationCost, ...]:
        return tuple(cost for case, pairs in self._pairs.items() for cost in _costs_of(case, pairs))

    def _alone(self, load: PromptLoad) -> _Run:
        before = cpu_by_process(self._peer.pids)
        report = self._peer.run(load)
        used = cpu_between(before, cpu_by_process(self._peer.pids))
        # What asks the engine stands in the place of the generator's replica.
        return _Run(
            report=report, cpu_s={_ASKS_ENGINE if k == OTHERS else k: used[k] for k in used}
        )

    def _served(self, path: str, asked: Sequence[Sequence[str]]) -> _Run:
        load = StreamLoad(
            host=self._region.host,
            port=self._region.port,
            path=path,
            bodies=[[orjson.dumps(self._body(path, text)) for text in one] for one in asked],
        )
        before = cpu_by_process(with_descendants(self._region.pids()))
        report = self._clients.run(run_streams, load)
        after = cpu_by_process(with_descendants(self._region.pids()))
        return _Run(report=report, cpu_s=cpu_between(before, after))

    def _body(self, path: str, question: str) -> dict[str, object]:
        common = {"max_tokens": self._plan.answer_tokens, "temperature": 0, "stream": True}
        if path == _ANSWER:
            return {"question": question, **common}
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": question}],
            "stream_options": {"include_usage": True},
            **common,
        }

    def _prompt(self, path: str, question: str) -> Prompt:
        """The messages that the region's generator reads for this question."""
        if path == _CHAT:
            return (ChatMessage(role="user", content=question),)
        with HttpRegion.of(self._region.installation) as http:
            body: dict[str, object] = {"query": question, "top_k": ANSWER_TOP_K_DEFAULT}
            hits = http.post("/v1/search", {**body, "fields": []})["hits"]
        return build_prompt(
            template=PromptTemplate(),
            question=question,
            passages=[hit["text"] for hit in hits],
            tokenizer=self._tokenizer,
            budget=TokenBudget.for_answer(self._context, self._plan.answer_tokens),
        ).messages


def _costs_of(case: _Case, pairs: Sequence[_Pair]) -> tuple[GenerationCost, GenerationCost]:
    served = _cost(case.path, case.clients, [pair.served for pair in pairs])
    alone = _cost(f"vLLM alone, the prompts of {case.path}", case.clients, [p.alone for p in pairs])
    ratios = {
        "tokens_ratio": Spread.over(
            pairs, lambda p: p.served.report.tokens_per_s / p.alone.report.tokens_per_s
        ),
        "first_token_later_ms": Spread.over(
            pairs, lambda p: (p.served.report.first_token_s - p.alone.report.first_token_s) * 1000
        ),
    }
    return served.model_copy(update=ratios), alone


def _cost(what: str, clients: int, measured: Sequence[_Run]) -> GenerationCost:
    runs = [one.report for one in measured]
    answers = [answer for run in runs for answer in run.answers]
    roles = dict.fromkeys(role for one in measured for role in one.cpu_ms)
    return GenerationCost(
        what=what,
        clients=clients,
        answers=len(runs[0].answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers) / len(answers),
        answer_tokens=sum(answer.answer_tokens for answer in answers) / len(answers),
        tokens_per_s=Spread.over(runs, lambda run: run.tokens_per_s),
        first_token_ms=Spread.over(runs, lambda run: run.first_token_s * 1000),
        cpu_ms={role: Spread.of([one.cpu_ms.get(role, 0.0) for one in measured]) for role in roles},
    )


def measure(plan: Plan) -> GenerateReport:
    """Starts a region of its own and ends it. Needs a process of its own."""
    environment = environment_now(quick=plan.quick, repetitions=plan.answer_repetitions)
    settings = {_CORPUS: CorpusSettings(shards=2, replicas=1)}
    with running_region(settings, with_generator=True) as region, LoadGenerator() as clients:
        region.add_texts(_CORPUS, factbook_documents(plan.documents_max))
        region.serve()
        generator = region.installation.settings.generator
        engine = EngineSettings(
            model_folder=region.generator_folder(),
            context_tokens_max=generator.context_tokens_max,
            sequences_max=generator.sequences_max,
        )
        with VllmAlone(engine) as peer:
            bench = _GenerateBench(plan, region, clients, peer)
            for repetition in range(plan.answer_repetitions):
                progress = f"{repetition + 1} of {plan.answer_repetitions}"
                print(f"generate: repetition {progress}", flush=True)
                bench.repeat(peer_first=repetition % 2 == 1)
            return GenerateReport(
                environment=environment,
                model=region.generator().name,
                tokens_max=plan.answer_tokens,
                costs=bench.costs(),
            )
