"""Metadata that folders give to all documents in them: `year=2024/a.parquet`, as Hive, Spark and
pandas write tables in parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import unquote

from actors.documents.cell_types import cell_value, cell_ways
from actors.documents.source_rows import COLUMNS
from cluster.documents.documents import FIELD_NAME, RESERVED_FIELDS
from cluster.documents.ingest_report import ReasonCounts
from cluster.errors import InvalidArgument
from cluster.metadata import MetadataValue
from cluster.quoting import printable

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_NAME_CHARS_SHOWN = 64


class FolderValues:
    """The values from folder names of one ingest: a field has the type that all its values have."""

    def __init__(self, stay_texts: Collection[str] = ()) -> None:
        self.left_out = ReasonCounts()
        """Folders whose name before `=` cannot be that of a field."""
        self._reported: set[str] = set()
        self._ways: dict[str, frozenset[str]] = {}
        self._stay_texts = stay_texts

    def texts(self, path: str) -> dict[str, str]:
        """The values that the folders of a file's path give, by field; an empty text is no value.

        Raises InvalidArgument where two of them name one field.
        """
        texts: dict[str, str] = {}
        folders = path.split("/")[:-1]
        for depth, folder in enumerate(folders, start=1):
            key, equals, text = folder.partition("=")
            if not equals:
                continue
            if not FIELD_NAME.fullmatch(key) or key in RESERVED_FIELDS or key in COLUMNS:
                self._leave_out(key, "/".join(folders[:depth]))
                continue
            if key in texts:
                raise InvalidArgument(f"{path!r} has two folders for the field {key!r}", "source")
            texts[key] = "" if text == _HIVE_NULL else unquote(text)
            if texts[key] and key not in self._stay_texts:
                found = cell_ways(texts[key])
                self._ways[key] = self._ways.get(key, found) & found
        return texts

    def typed(self, texts: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
        """The texts that `texts` returned as values, once it was called for all files."""
        return {
            key: cell_value(str(text), self._ways.get(key, frozenset()))
            for key, text in texts.items()
        }

    def _leave_out(self, key: str, folder: str) -> None:
        if folder not in self._reported:
            self._reported.add(folder)
            shown = printable(folder)
            reason = f"no metadata field can be called {key[:_NAME_CHARS_SHOWN]!r}"
            self.left_out.add(reason, shown)
