"""The real `raygion` in a folder of its own: what it does, says, refuses and leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from deployments.cli.main import app
from deployments.nodes.local_cluster import LocalCluster
from deployments.nodes.ports import is_answered
from tests.support.regions.workspace import DOCUMENTS, TIMEOUT_S, Workspace, environment
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

INTERRUPTED = 130
# A demo over a corpus that takes no time.
DEMO = """
import sys
from pathlib import Path
import deployments.demo.one_region
deployments.demo.one_region.SOURCE = Path(sys.argv.pop(1))
deployments.demo.one_region.QUESTIONS = deployments.demo.one_region.QUESTIONS[:2]
from deployments.cli.main import main
main()
"""


def assert_gone(cluster: LocalCluster) -> None:
    assert cluster.pids() == []
    assert not is_answered(cluster.http_port)
    assert not is_answered(cluster.ports.gcs)
    assert not cluster.temp_dir.exists()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("workspace"))
    yield made
    if made.cluster is not None:
        made.cluster.stop()


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


@pytest.mark.parametrize("path", [*commands(typer.main.get_command(app))], ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}, terminal_width=80)
    assert shown.exit_code == 0
    assert f"Example: raygion {' '.join(path)}".rstrip() in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80


def test_says_its_version(workspace: Workspace) -> None:
    assert workspace.does("--version").split() == ["raygion", "0.1.0"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("status --region nowhere", "region: there is no region 'nowhere'; there is: here"),
        ("status --config none.yaml", "config: there is no settings file "),
        ("search copper", "start it with `raygion up`"),
        ("status", "start it with `raygion up`"),
        ("release commit 1", "start it with `raygion up`"),
        ("release show 1", "there is no release 1"),
        ("release propose", "add documents with `raygion ingest`"),
        ("release propose --corpora notes", "corpora: there is no corpus 'notes'; there is: none"),
        ("corpus show notes", "there is no corpus 'notes'; add documents with `raygion ingest`"),
        ("search copper --filter {", "filter: is no valid JSON"),
        ("ingest notes nothing.md", "source: nothing.md does not exist"),
        ("ingest Notes! documents", "corpus: 'Notes!' is no name"),
        ("build nothing", "there is no corpus 'nothing'; add documents with `raygion ingest`"),
        ("up --store nowhere://bucket/path", "nowhere"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    workspace: Workspace, arguments: str, reason: str
) -> None:
    assert reason in workspace.refuses(*arguments.split())
    assert workspace.cluster is None


def test_an_unknown_key_of_the_settings_is_named(workspace: Workspace) -> None:
    workspace.configure("embedder: {sauce: starter}\n")
    try:
        assert "embedder.sauce: unknown key" in workspace.refuses("status")
    finally:
        workspace.configure("")


def test_errors_are_json_where_json_is_asked_for(workspace: Workspace) -> None:
    done = workspace.run("search", "copper", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["error"]["code"] == "unavailable"


def test_a_taken_port_is_refused_and_nothing_is_left(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", workspace.port)):
        assert f"port {workspace.port}" in workspace.refuses("up")
    assert workspace.cluster is None


@pytest.mark.slow
def test_from_documents_to_a_rollback_and_down(workspace: Workspace) -> None:
    does, reads, refuses = workspace.does, workspace.reads, workspace.refuses

    assert "No release yet" in does("up")
    cluster = workspace.cluster
    assert cluster is not None
    gateways = gateway_pids(cluster)
    assert "Next: raygion build notes" in does("ingest", "notes", "documents")
    assert reads("ingest", "notes", "documents")["num_documents"] == len(DOCUMENTS)
    assert "4 passages in 2 shards" in does("build", "notes")
    assert "no release to serve yet" in workspace.run("search", "copper").stderr

    assert "Next: raygion release commit 1" in does("release", "propose")
    assert "release 1 is still open" in refuses("release", "propose")
    does("release", "commit", "1")
    assert "there is no release 99; the last one is 1" in refuses("release", "commit", "99")
    assert "no earlier release" in refuses("release", "rollback")

    (workspace.documents / "more.txt").write_text("Tin comes from Indonesia.")
    does("ingest", "notes", "documents/more.txt")
    assert reads("build", "notes")["recall_at_10"] == 1.0
    assert reads("release", "propose", "--commit") == {"release": 2, "committed": True}
    assert "Tin comes" in does("search", "tin in Indonesia", "--top-k", "1")
    found = reads("search", "tin in Indonesia", "--filter", '{"region": "asia"}')
    assert [hit["id"] for hit in found["hits"]] == ["mn"]
    assert (found["release"], found["region"], found["coverage"]) == (2, "here", 1.0)
    assert "filter.colour" in refuses("search", "x", "--filter", '{"colour": "red"}')

    assert reads("release", "rollback") == {"release": 1}
    assert "Tin comes" not in does("search", "tin in Indonesia")
    assert reads("release", "propose")["release"] == 3
    assert "open, not committed" in refuses("release", "rollback", "3")
    assert "3 gets 5 % of the traffic" in does("release", "canary", "3", "--percent", "5")
    assert "canary at 5 %" in does("release", "show", "3")
    assert reads("release", "list")["canary"]["percent"] == 5
    assert reads("status")["canary"] == {"release": 3, "percent": 5}
    assert "commit" in refuses("release", "canary", "3", "--percent", "100")
    assert "not open" in refuses("release", "canary", "1", "--percent", "5")
    assert "Release 3 is aborted" in does("release", "abort", "3", "--reason", "not now")
    assert "aborted: not now" in does("release", "show", "3")
    listed = reads("release", "list")
    assert listed["current"] == 1
    assert [r["status"] for r in listed["releases"]] == ["committed", "committed", "aborted"]
    assert "1 (current)" in does("release", "list")

    # Releases 4 and 5 have taken the places of 1 and 2, of which nothing is loaded any more.
    assert reads("release", "rollback", "2", "--again") == {"release": 4}
    assert "Tin comes" in does("search", "tin in Indonesia", "--top-k", "1")
    assert reads("release", "rollback", "1", "--again") == {"release": 5}
    assert "release 2 is not loaded in: here" in refuses("release", "rollback", "2")
    assert reads("release", "rollback", "1", "--force") == {"release": 1}

    assert [corpus["corpus"] for corpus in reads("corpus", "list")["corpora"]] == ["notes"]
    told = reads("corpus", "show", "notes")
    assert [index["num_documents"] for index in told["indexes"]] == [5, 4]
    assert "is used by release" in refuses("corpus", "drop", "notes", "--yes")

    # A region that is up stays as it is.
    assert reads("up")["release"] == 1
    assert gateway_pids(cluster) == gateways
    summary = reads("status")
    assert (summary["release"], summary["healthy"]) == (1, True)
    told = does("status")
    assert "Release 1 (current): search only" in told
    assert "control store has its state in memory: the region dies with it" in told

    ended = reads("down")["ended"]
    assert len(ended) > 1
    assert_gone(cluster)
    assert "was not running here" in does("down")


def gateway_pids(cluster: LocalCluster) -> list[int]:
    return cluster.pids("ray::ServeReplica:gateway")


class Session:
    """A long command as a person sees it, in a terminal session of its own."""

    def __init__(self, workspace: Workspace, *arguments: str) -> None:
        source = workspace.documents / "towns.jsonl"
        self.workspace = workspace
        self.process = subprocess.Popen(
            [sys.executable, "-c", DEMO, str(source), *arguments],
            cwd=workspace.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def read_until(self, wanted: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if wanted in line:
                return
        raise AssertionError(f"{wanted!r} is not in:\n{self.output}")

    def end_by(self, number: signal.Signals) -> None:
        """Sends the signal as a terminal does: to all processes of the session's group."""
        os.killpg(self.process.pid, number)
        rest, _ = self.process.communicate(timeout=TIMEOUT_S)
        self.lines.append(rest)

    @property
    def output(self) -> str:
        return "".join(self.lines)


def assert_ended_quietly(session: Session, cluster: LocalCluster) -> None:
    assert session.process.returncode == INTERRUPTED, session.output
    assert "Interrupted." in session.output
    for stray in ("Traceback", "SIGTERM", "WARNING", "(raylet)", "[20"):
        assert stray not in session.output
    assert_gone(cluster)
    assert session.workspace.cluster is None


@pytest.fixture(scope="module")
def demo_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("demo"))
    yield made
    if made.cluster is not None:
        made.cluster.stop()


@pytest.mark.parametrize("command", ["demo", "up", "ingest notes documents"])
def test_what_is_interrupted_early_leaves_nothing(demo_workspace: Workspace, command: str) -> None:
    session = Session(demo_workspace, *command.split())
    wait_until(lambda: demo_workspace.cluster is not None, "a cluster")
    cluster = demo_workspace.cluster
    assert cluster is not None
    session.end_by(signal.SIGINT)
    assert_ended_quietly(session, cluster)


def test_a_demo_that_is_killed_politely_amid_its_work_leaves_nothing(
    demo_workspace: Workspace,
) -> None:
    """And a release that is proposed, as a rule, which the next demo has to do with."""
    demo = Session(demo_workspace, "demo")
    demo.read_until("✓ Coordinator and HTTP endpoint")
    cluster = demo_workspace.cluster
    assert cluster is not None
    demo.end_by(signal.SIGTERM)
    assert_ended_quietly(demo, cluster)


def test_a_demo_reuses_the_store_and_stays_up_until_it_is_interrupted(
    demo_workspace: Workspace,
) -> None:
    """What the demo before it had built is in the store."""
    demo = Session(demo_workspace, "demo")
    demo.read_until("The region is up at")
    print(demo.output)
    steps = [line for line in demo.lines if line.startswith("✓ ")]
    for step in ("Read the World Factbook", "Embedding model", "Embed and build"):
        (line,) = [line for line in steps if line.startswith(f"✓ {step}")]
        assert line.endswith("already in the store\n")
    for row in ("release", "shards", "replicas", "coverage", "answers", "all"):
        assert any(line.split()[:1] == [row] for line in demo.lines), row
    assert "3 steps found what they make in the store" in demo.output
    assert "Ulaanbaatar" in demo_workspace.does("search", "capital")
    assert "already runs here" in demo_workspace.refuses("demo")
    cluster = demo_workspace.cluster
    assert cluster is not None
    demo.end_by(signal.SIGINT)
    assert_ended_quietly(demo, cluster)
