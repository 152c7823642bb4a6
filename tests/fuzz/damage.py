"""Small valid files of every kind that is read, and damage to them, the same for the same seed."""

from __future__ import annotations

import gzip
import io
import random
import re
import zipfile
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from tests.support.values.office_files import (
    book,
    mail,
    open_document,
    pdf,
    rtf,
    slides,
    word,
    workbook,
)
from tests.support.values.source_files import arrow, npy, parquet

_ROWS = pa.table(
    {
        "id": ["a", "b", "c"],
        "text": ["One", "Two", "Three"],
        "year": [1999, None, 2024],
        "vector": pa.array([[0.5, 1.0]] * 3, pa.list_(pa.float32(), 2)),
    }
)
_SHEET = [["Name", "Phone"], ["Anna", 12], ["Bob", 2.5]]
_PAGE = (
    b"<!doctype html><html><head><meta charset=utf-8><title>Page</title></head>"
    b"<body><h1>One</h1><p>Two <b>three</b><table><tr><td>1<td>2</table><pre>a\n b</pre></body>"
)

_ODF_ROWS = (
    '<table:table-row table:number-rows-repeated="2"><table:table-cell><text:p>One</text:p>'
    '</table:table-cell><table:table-cell office:value-type="float"><text:p>2</text:p>'
    "</table:table-cell></table:table-row>"
)
_ODF_TEXT = (
    '<text:h text:outline-level="2">One</text:h><text:p>Two<text:s text:c="3"/></text:p>'
    f"<table:table>{_ODF_ROWS}</table:table>"
)

SAMPLES: Mapping[str, Callable[[], bytes]] = {
    ".jsonl": lambda: b'{"id": "a", "text": "A", "x": 1}\n{"id": "b", "text": "B", "x": null}\n',
    ".json": lambda: b'[{"id": "a", "text": "A"},\n {"id": "b", "text": "B", "x": 1.5}]\n',
    ".jsonl.gz": lambda: gzip.compress(SAMPLES[".jsonl"]()),
    ".csv": lambda: b'id,text,year,price\n1,"One, two",1999,2.50\n2,Three,,10.00\n',
    ".tsv": lambda: "id\ttext\tyear\n1\tOne; two, für\t1999\n".encode("utf-16"),
    ".parquet": lambda: parquet(_ROWS),
    ".arrow": lambda: arrow(_ROWS),
    ".feather": lambda: arrow(_ROWS, stream=True),
    ".npy": lambda: npy(np.eye(3, dtype=np.float32)),
    ".md": lambda: b"---\ntitle: One\n---\n# Two\n\nThree\n\n```\n# four\n```\n",
    ".txt": lambda: "One tow, für drei\n".encode(),
    ".html": lambda: _PAGE,
    ".pdf": lambda: pdf("One", "", "Two", title="Three", date="D:20240501120000+02'00'"),
    ".docx": lambda: word(title="One", author="Two"),
    ".pptx": lambda: slides("One", notes="Two"),
    ".xlsx": lambda: workbook(One=_SHEET, Two=[[1, None, True]]),
    ".odt": lambda: open_document("text", _ODF_TEXT, title="Three"),
    ".odp": lambda: open_document("presentation", f"<draw:page>{_ODF_TEXT}</draw:page>"),
    ".ods": lambda: open_document("spreadsheet", f"<table:table>{_ODF_ROWS}</table:table>"),
    ".epub": lambda: book("<h1>One</h1><p>Two", _PAGE.decode(), title="Three"),
    ".rtf": lambda: rtf(r"\pard One \u8364? caf\'e9\par Two\cell\row", r"{\title Three}"),
    ".eml": lambda: mail(html="<p>One", attachments={"two.pdf": pdf("Two"), "three.txt": b"Three"}),
    ".mbox": lambda: b"From anna\n" + mail() + b"\nFrom bob\n" + mail("Re", ">From me"),
}
"""By extension."""

_PACKAGES = (".docx", ".pptx", ".xlsx", ".odt", ".odp", ".ods", ".epub")
_DAMAGES_MAX = 4
_NUMBERS = (b"-1", b"0", b"65536", b"4294967295", b"99999999999999999999", b"1e999")


def damaged(kind: str, sample: bytes, rng: random.Random) -> bytes:
    """The file with bytes flipped, cut out, doubled and put in; of a package, mostly one of the
    files in it, for otherwise hardly anything but the package itself would be tried.
    """
    if kind in _PACKAGES and rng.random() < 0.8:
        return _repacked(sample, rng)
    if kind.endswith(".gz") and rng.random() < 0.5:
        return gzip.compress(_damaged_once(gzip.decompress(sample), rng))
    for _ in range(rng.randint(1, _DAMAGES_MAX)):
        sample = _damaged_once(sample, rng)
    return sample


def _repacked(package: bytes, rng: random.Random) -> bytes:
    sink = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(package)) as old,
        zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, _damaged_once(content, rng) if name == chosen else content)
    return sink.getvalue()


def _damaged_once(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return rng.randbytes(rng.randint(1, 8))
    start = rng.randrange(len(data))
    end = min(len(data), start + int(2 ** rng.uniform(0, 10)))
    match rng.choice(("flip", "cut", "double", "put in", "end", "number")):
        case "flip":
            return data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
        case "cut":
            return data[:start] + data[end:]
        case "double":
            return data[:end] + data[start:end] * rng.randint(1, 50) + data[end:]
        case "put in":
            return data[:start] + rng.randbytes(rng.randint(1, 8)) + data[start:]
        case "end":
            return data[:start]
        case _:
            numbers = [found.span() for found in re.finditer(rb"[0-9]+", data)]
            if not numbers:
                return data
            first, last = rng.choice(numbers)
            return data[:first] + rng.choice(_NUMBERS) + data[last:]
