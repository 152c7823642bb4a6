"""The pages of documentation hold together: links, file names, README's index and its figures."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
LIVING = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "decisions"]
"""The pages that speak of the code as it is now."""
README = (ROOT / "README.md").read_text()
DOES_IO = {"fcntl", "fsspec", "os", "shutil", "tempfile", "threading"}
DOES_IO |= {"ArtifactCache", "Artifacts", "Catalog", "NumberedLog", "ObjectStore"}
"""Modules and classes by which a module of the core does I/O."""


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if "://" not in target:
            yield target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), target


@pytest.mark.parametrize("page", LIVING, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """By their paths from the root: a bare name would go stale unseen when its file moves."""
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", page.read_text())
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_readme_lists_every_page() -> None:
    listed = set(links(ROOT / "README.md"))
    pages = {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")}
    assert pages - listed == set()


def test_the_figures_of_readme_stand_in_the_pages_that_they_come_from() -> None:
    section = README.split("\n## Measured\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if "**" in line]
    assert len(rows) >= 5
    for row in rows:
        (source,) = re.findall(r"\]\(([^)#]+)", row)
        for figure in re.findall(r"\*\*(.+?)\*\*", row):
            assert figure in (ROOT / source).read_text(), figure


def test_architecture_names_the_modules_of_the_core_that_do_io() -> None:
    layers = (ROOT / "ARCHITECTURE.md").read_text().split("## Layers\n", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`(cluster/[\w/]+\.py)`", layers))
    doing = {
        str(source.relative_to(ROOT))
        for source in (ROOT / "cluster").rglob("*.py")
        if imported(source) & DOES_IO
    }
    assert doing - named == set()


def imported(source: Path) -> set[str]:
    """The modules and the names that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(alias.name for alias in node.names)}
    return found
