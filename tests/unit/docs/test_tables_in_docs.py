"""The tables of docs/settings.md, docs/metrics.md and docs/events.md list all that there is, with a
meaning for each entry.
"""

from __future__ import annotations

import pytest

from tests.support.metrics_table import exposed_metrics
from tests.support.tables_in_docs import DOCS, PAGES, renewed


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_what_make_docs_writes(page: str) -> None:
    assert (DOCS / page).read_text() == renewed(page), "run `make docs`"


@pytest.mark.parametrize("page", PAGES)
def test_every_row_has_a_meaning(page: str) -> None:
    rows = [line for line in PAGES[page]().splitlines() if line.startswith("| `")]
    assert len(rows) > 15
    assert [row for row in rows if row.endswith("|  |")] == []


async def test_every_metric_has_counted_something_so_that_its_labels_are_known() -> None:
    assert [family.name for family in await exposed_metrics() if not family.samples] == []
