"""What answers may rest on goes from the settings into a release."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.config import Settings
from cluster.query.evidence import EvidencePolicy, ScoreMin, score_min_of
from cluster.releases.entries import ReleaseContents
from cluster.vectors.metric import Metric
from deployments.hosting.pipeline import evidence_policy
from tests.support.fakes import contents


@pytest.mark.parametrize(
    ("setting", "metric", "is_starter", "score_min"),
    [
        ("auto", Metric.COSINE, True, 0.31),
        ("auto", Metric.INNER_PRODUCT, True, 0.31),
        # Of vectors of length 1 with that cosine.
        ("auto", Metric.L2, True, -1.38),
        ("auto", Metric.COSINE, False, None),
        (None, Metric.COSINE, True, None),
        (0.7, Metric.COSINE, True, 0.7),
        (-2.5, Metric.L2, False, -2.5),
    ],
)
def test_the_least_score_depends_on_setting_metric_and_embedder(
    setting: ScoreMin, metric: Metric, is_starter: bool, score_min: float | None
) -> None:
    assert score_min_of(setting, metric, is_starter=is_starter) == score_min


def test_a_release_takes_the_settings_of_its_corpora() -> None:
    settings = Settings.model_validate(
        {
            "corpora": {"strict": {"score_min": 0.9}, "lax": {"score_min": None}},
            "evidence": {"nothing_found": "Ask somebody else."},
        }
    )
    metrics = {"strict": Metric.COSINE, "lax": Metric.COSINE, "other": Metric.L2}
    assert evidence_policy(settings, metrics) == EvidencePolicy(
        nothing_found="Ask somebody else.", score_min={"strict": 0.9, "other": -1.38}
    )
    own = settings.model_copy(
        update={"embedder": settings.embedder.model_copy(update={"source": "/models/own"})}
    )
    assert evidence_policy(own, metrics).score_min == {"strict": 0.9}


@pytest.mark.parametrize(
    "wrong",
    [
        {"evidence": {"nothing_found": ""}},
        {"corpora": {"c": {"score_min": "high"}}},
        {"corpora": {"c": {"score_min": float("nan")}}},
        {"generator": {"engine": {"chat_template": "{{ messages }}"}}},
        {"generator": {"engine": {"reasoning_parser": "qwen3"}}},
    ],
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(wrong)


def test_a_release_from_before_there_was_evidence_is_read_and_written_as_it_was() -> None:
    before = contents()
    assert before.evidence is None
    written = before.to_bytes()
    assert b"evidence" not in written
    assert ReleaseContents.from_bytes(written, source="log") == before
    policy = EvidencePolicy(nothing_found="Nothing.", score_min={"c": 0.5})
    now = before.model_copy(update={"evidence": policy})
    assert ReleaseContents.from_bytes(now.to_bytes(), source="log") == now
