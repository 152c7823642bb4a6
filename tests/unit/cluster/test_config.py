"""Settings: the file under the environment under the flags, and every mistake named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import CONFIG_FILE, Settings, load_settings
from cluster.errors import InvalidArgument

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _empty_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("RAYGION_"):
            monkeypatch.delenv(name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_settings(text: str) -> Path:
        file = tmp_path / CONFIG_FILE
        file.write_text(text)
        return file

    return write_settings


def refused(file: Path | None, overrides: dict[str, Any] | None = None) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        load_settings(file, overrides)
    return caught.value


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings = load_settings()
    assert list(settings.regions) == ["local"]
    assert settings.regions["local"].http.host == "127.0.0.1"
    assert settings.state_folder == tmp_path / "elsewhere" / ".raygion"
    assert settings.store.url == str(tmp_path / "elsewhere" / ".raygion" / "store")


def test_the_file_here_is_read_without_being_named(write: Write, tmp_path: Path) -> None:
    write("generator: {replicas: 3}")
    os.chdir(tmp_path)
    assert load_settings().generator.replicas == 3


@pytest.mark.parametrize(
    ("environment", "overrides", "expected"),
    [
        (None, None, 2),
        ("3", None, 3),
        ("3", {"generator": {"replicas": 4}}, 4),
        (None, {"generator": {"replicas": 4}}, 4),
    ],
)
def test_flags_go_over_the_environment_over_the_file(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    environment: str | None,
    overrides: dict[str, Any] | None,
    expected: int,
) -> None:
    file = write("generator: {replicas: 2, name: mine, sequences_max: 5}")
    if environment is not None:
        monkeypatch.setenv("RAYGION_GENERATOR__REPLICAS", environment)
    generator = load_settings(file, overrides).generator
    assert generator.replicas == expected
    # What a higher layer does not name stays as the lower one says.
    assert (generator.name, generator.sequences_max) == ("mine", 5)


def test_the_layers_meet_key_by_key(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("store: {options: {key: file, extra: file}}\nregions: {r: {http: {port: 1}}}")
    monkeypatch.setenv("RAYGION_STORE__OPTIONS__KEY", "environment")
    monkeypatch.setenv("RAYGION_REGIONS__R__HTTP__PORT", "2")
    settings = load_settings(file, {"store": {"url": "s3://bucket/flag"}})
    assert settings.store.options == {"key": "environment", "extra": "file"}
    assert settings.store.url == "s3://bucket/flag"
    assert list(settings.regions) == ["r"]
    assert settings.regions["r"].http.port == 2


def test_a_part_of_the_settings_may_come_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGION_CORPORA", '{"c": {"shards": 7}}')
    assert load_settings().corpus("c").shards == 7
    assert load_settings().corpus("other").shards == 2


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("storee: {}", "storee"),
        ("store: {ur: x}", "store.ur"),
        ("regions: {a: {http: {prot: 1}}}", "regions.a.http.prot"),
        ("corpora: {c: {index: {kindd: HNSW}}}", "corpora.c.index.kindd"),
        ("corpora: {c: {chunks: {chars: 1}}}", "corpora.c.chunks.chars"),
        ("prompt: {sistem: x}", "prompt.sistem"),
    ],
)
def test_an_unknown_key_in_the_file_is_refused_by_name(write: Write, text: str, key: str) -> None:
    error = refused(write(text))
    assert error.field == key
    assert "unknown key" in error.message
    assert CONFIG_FILE in error.message


def test_chunks_in_characters_are_refused_with_what_to_write_now(write: Write) -> None:
    error = refused(write("corpora: {c: {chunks: {chars_max: 1000}}}"))
    assert error.field == "corpora.c.chunks"
    assert "write tokens_max" in error.message


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("RAYGION_STOREE__URL", "storee"),
        ("RAYGION_STORE__URLL", "store.urll"),
        ("RAYGION_REGIONS__A__HTTP__PROT", "regions.a.http.prot"),
    ],
)
def test_an_unknown_key_in_the_environment_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, key: str
) -> None:
    monkeypatch.setenv(variable, "x")
    assert refused(None).field == key


def test_variables_of_others_raise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGION_CLUSTER_MARKER", "x")
    monkeypatch.setenv("OTHER__STOREE", "x")
    load_settings()


def test_an_unknown_flag_is_refused_by_name() -> None:
    assert refused(None, {"store": {"urll": "x"}}).field == "store.urll"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("regions: {a: {http: {port: 0}}}", "regions.a.http.port"),
        ("regions: {a: {http: {port: http}}}", "regions.a.http.port"),
        ("corpora: {c: {shards: 0}}", "corpora.c.shards"),
        ("corpora: {c: {index: {kind: Nonesuch}}}", "corpora.c.index.kind"),
        ("corpora: {Bad Name: {}}", "corpora.Bad Name"),
        ("generator: 7", "generator"),
        ("prompt: {user: '{nonesuch}'}", "prompt"),
        ("prompt: {user: 'Answer: {question}'}", "prompt"),
        ("prompt: {user: '{passages} {{question}}'}", "prompt"),
        ("prompt: {passage: '[{number}]'}", "prompt"),
    ],
)
def test_a_wrong_value_is_refused_by_name(write: Write, text: str, key: str) -> None:
    assert (refused(write(text)).field or "").startswith(key)


def test_a_prompt_that_would_lack_something_is_refused_by_what_it_lacks(write: Write) -> None:
    error = refused(write("prompt: {user: 'Answer in German.'}"))
    assert error.field == "prompt"
    assert "without {passages} in `user` and {question} in `user`" in error.message


def test_a_wrong_value_in_the_environment_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAYGION_GENERATOR__REPLICAS", "many")
    assert refused(None).field == "generator.replicas"


@pytest.mark.parametrize("text", ["store: {", "a: b: c", "- a\n- b", "just words", "\tstore: {}"])
def test_what_is_no_yaml_mapping_is_refused_by_the_files_name(write: Write, text: str) -> None:
    error = refused(write(text))
    assert CONFIG_FILE in str(error)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / CONFIG_FILE
    file.write_bytes(b"\xff\xfe\xfa")
    assert CONFIG_FILE in str(refused(file))


def test_bad_json_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGION_STORE", "{")
    assert "store" in str(refused(None))


def test_an_empty_file_is_all_defaults(write: Write) -> None:
    assert load_settings(write("")).regions == Settings().regions


def test_a_missing_file_is_named() -> None:
    assert "nowhere.yaml" in str(refused(Path("nowhere.yaml")))


def test_relative_folders_are_taken_from_the_files_folder(write: Write, tmp_path: Path) -> None:
    settings = load_settings(write("store: {url: data/store}\nstate_folder: state"))
    assert settings.store.url == str(tmp_path / "data" / "store")
    assert settings.state_folder == tmp_path / "state"


def test_absolute_folders_and_urls_stay(write: Write) -> None:
    settings = load_settings(write("store: {url: 's3://bucket/x'}\nstate_folder: /var/state"))
    assert settings.store.url == "s3://bucket/x"
    assert settings.state_folder == Path("/var/state")
    assert load_settings(None, {"store": {"url": "/data"}}).store.url == "/data"


def test_keys_are_not_shown_when_settings_are_printed(write: Write) -> None:
    text = "regions: {a: {http: {api_keys: [s3cret]}}}\nregion_keys: [hidden]"
    settings = load_settings(write(text))
    assert "s3cret" not in repr(settings)
    assert "hidden" not in repr(settings)
    assert settings.regions["a"].http.api_keys[0].get_secret_value() == "s3cret"
    assert settings.region_keys[0].get_secret_value() == "hidden"


@pytest.mark.parametrize("bad", ['""', "two words", "clé", '"line\\nbreak"'])
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("regions: {a: {http: {api_keys: [good, %s]}}}", "regions.a.http.api_keys.1"),
        ("region_keys: [%s]", "region_keys.0"),
    ],
)
def test_a_key_that_no_header_can_hold_is_refused_by_name(
    write: Write, text: str, key: str, bad: str
) -> None:
    with pytest.raises(InvalidArgument, match="printable ASCII characters") as caught:
        load_settings(write(text % bad))
    assert caught.value.field == key
    assert bad.strip('"') not in caught.value.message or not bad.strip('"')


def test_a_key_of_the_regions_is_no_key_of_callers(write: Write) -> None:
    text = "regions: {a: {}, b: {http: {api_keys: [one, two]}}}\nregion_keys: [three, two]"
    with pytest.raises(
        InvalidArgument, match=r"regions\.b\.http\.api_keys and region_keys"
    ) as caught:
        load_settings(write(text))
    assert "two" not in str(caught.value)


@pytest.mark.parametrize(
    ("generator", "gateways", "slots"),
    [
        ({"sequences_max": 2, "queue_max": 4}, 1, 2 * 2 + 4),
        ({"sequences_max": 2, "queue_max": 4, "replicas": 2}, 1, 2 * 2 * 2 + 4),
        ({"sequences_max": 2, "queue_max": 4, "replicas_max": 3}, 1, 3 * 2 * 2 + 4),
        ({"sequences_max": 2, "queue_max": 4, "replicas": 2}, 2, 2 * 2 + 4),
        ({"sequences_max": 1, "queue_max": 1}, 4, 1 + 1),
    ],
)
def test_language_models_hold_what_they_write_and_let_wait(
    generator: dict[str, Any], gateways: int, slots: int
) -> None:
    assert GeneratorSettings(**generator).answer_slots(gateways) == slots


def test_a_gateway_takes_no_more_answers_than_it_is_told_or_the_models_hold(write: Write) -> None:
    file = write(
        """
        generator: {sequences_max: 1, queue_max: 6}
        regions:
          small: {}
          told: {http: {answers_in_flight_max: 3}}
          elsewhere: {generates: false}
        """
    )
    settings = load_settings(file)
    assert [settings.answer_slots(one) for one in ("small", "told", "elsewhere")] == [8, 3, 32]


@pytest.mark.parametrize(
    ("regions", "asked", "found"),
    [("{a: {}}", None, "a"), ("{a: {}, b: {}}", "b", "b")],
)
def test_the_only_region_need_not_be_named(
    write: Write, regions: str, asked: str | None, found: str
) -> None:
    assert load_settings(write(f"regions: {regions}")).region_name(asked) == found


@pytest.mark.parametrize("asked", [None, "c"])
def test_an_ambiguous_or_unknown_region_is_refused_with_the_choices(
    write: Write, asked: str | None
) -> None:
    settings = load_settings(write("regions: {b: {}, a: {}}"))
    with pytest.raises(InvalidArgument, match="a, b"):
        settings.region_name(asked)
