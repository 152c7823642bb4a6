"""The pages of docs/ that end in tables made from the code.

`python -m tests.support.tables_in_docs` writes these tables anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.events_table import events_tables
from tests.support.metrics_table import metrics_table
from tests.support.settings_table import settings_tables

DOCS = Path(__file__).parents[2] / "docs"
PAGES: Mapping[str, Callable[[], str]] = {
    "events.md": events_tables,
    "metrics.md": metrics_table,
    "settings.md": settings_tables,
}
MARK = "<!-- From here on `make docs` writes this page. -->\n"


def renewed(page: str) -> str:
    """The text of the page with its tables made anew."""
    above, mark, _ = (DOCS / page).read_text().partition(MARK)
    assert mark, f"{page} does not say where its tables begin"
    return f"{above}{mark}\n{PAGES[page]()}\n"


def main() -> None:
    for page in PAGES:
        (DOCS / page).write_text(renewed(page))


if __name__ == "__main__":
    main()
