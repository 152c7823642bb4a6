"""A folder with a `regions.yaml` of its own, in which the real `raygion` is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deployments.nodes.local_cluster import LocalCluster, find_local_cluster
from tests.support.regions.ports import region_port

RAYGION = str(Path(sys.executable).with_name("raygion"))
TIMEOUT_S = 240
DOCUMENTS = {
    "water.md": "# Hydropower\n\nNorway makes most of its electricity from falling water.\n",
    "metal.txt": "Copper is mined in Zambia and Chile.\n",
    "peak.html": "<html><body><p>Everest is the highest mountain.</p></body></html>",
    "towns.jsonl": '{"id": "mn", "text": "Ulaanbaatar is the capital of Mongolia.", '
    '"metadata": {"region": "asia"}}\n',
}


class Workspace:
    """A folder with a `regions.yaml` of one region that only searches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = region_port()
        self.documents = folder / "documents"
        self.documents.mkdir()
        for name, text in DOCUMENTS.items():
            (self.documents / name).write_text(text)
        self.configure("")

    def configure(self, more: str) -> None:
        (self.folder / "regions.yaml").write_text(
            f"regions: {{here: {{http: {{port: {self.port}}}}}}}\n"
            "generator: {source: null}\n"
            "corpora: {notes: {index: {kind: Flat}}, factbook: {index: {kind: Flat}}}\n" + more
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAYGION, *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def does(self, *arguments: str) -> str:
        """What a command that goes well prints; nothing of anybody else's is on the terminal."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert all(line.startswith("✓ ") for line in done.stderr.splitlines()), done.stderr
        tables = [line for line in done.stdout.splitlines() if line.startswith(" ")]
        assert max(map(len, tables), default=0) <= 80
        return done.stdout

    def reads(self, *arguments: str) -> Any:
        """The JSON that a command prints; then it prints nothing else."""
        done = self.run(*arguments, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def refuses(self, *arguments: str) -> str:
        """The one line in which a command says what is wrong."""
        done = self.run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        *steps, line = done.stderr.splitlines()
        assert all(step.startswith("✓ ") for step in steps), done.stderr
        assert line.startswith("error (")
        return line

    @property
    def cluster(self) -> LocalCluster | None:
        return find_local_cluster(self.folder / ".raygion" / "regions" / "here")


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYGION_"))}
    return {**kept, "COLUMNS": "80"}
