"""OpenDocument files and EPUB books as documents."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidArgument
from tests.support.values.extracted import Read
from tests.support.values.office_files import book, open_document, packed

TEXT = """
<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>
<text:h text:outline-level="2">Holi<text:span>days</text:span></text:h>
<text:p>Thirty<text:s text:c="2"/>days<text:tab/>a<text:line-break/>year<office:annotation><text:p>
?</text:p></office:annotation><text:note><text:note-citation>1</text:note-citation><text:note-body>
<text:p>by law</text:p></text:note-body></text:note>.<draw:frame><draw:text-box>
<text:p>boxed</text:p></draw:text-box></draw:frame></text:p><text:section><text:p/>
<text:list><text:list-item><text:p>Ask early</text:p></text:list-item></text:list></text:section>
<table:table><table:table-header-rows><table:table-row><table:table-cell><text:p>Month</text:p>
</table:table-cell><table:table-cell><text:p>Days</text:p></table:table-cell></table:table-row>
</table:table-header-rows><table:table-row><table:table-cell><text:p>May</text:p><text:p>June</text:p>
</table:table-cell><table:table-cell><text:p>3</text:p></table:table-cell></table:table-row>
</table:table>
"""


def test_an_open_document_text_is_a_document_with_marks_of_headings_and_lists(read: Read) -> None:
    data = open_document("text", TEXT, title="Policy", creator="Anna", date="2024-05-01T10:00:00")
    (document,) = read(data, "a.odt")
    assert document.text == (
        "## Holidays\n\nThirty  days\ta\nyear (by law).\n\nboxed\n\n- Ask early\n\n"
        "Month | Days\nMay June | 3"
    )
    assert document.metadata == {
        "source": "a.odt",
        "title": "Policy",
        "author": "Anna",
        "date": "2024-05-01T10:00:00Z",
    }


SLIDES = """
<draw:page><draw:frame presentation:class="title"><draw:text-box><text:p>Goals</text:p>
</draw:text-box></draw:frame><draw:frame><draw:text-box><text:p>Grow</text:p></draw:text-box>
</draw:frame><draw:frame presentation:class="footer"><draw:text-box><text:p>2024</text:p>
</draw:text-box></draw:frame><presentation:notes><draw:frame><draw:text-box><text:p>Slowly.</text:p>
</draw:text-box></draw:frame></presentation:notes></draw:page><draw:page/>
<draw:page><draw:custom-shape><text:p>Plan</text:p></draw:custom-shape></draw:page>
"""


def test_each_slide_of_an_open_document_is_a_document(read: Read) -> None:
    found = read(open_document("presentation", SLIDES), "a.odp")
    assert [(d.id, d.text, d.metadata["slide"]) for d in found] == [
        ("a.odp#slide=1", "# Goals\n\nGrow\n\nSlowly.", 1),
        ("a.odp#slide=3", "Plan", 3),
    ]


def cell(text: str, type_: str = "string", repeated: int = 1) -> str:
    inner = f"<text:p>{text}</text:p>" if text else ""
    return (
        f'<table:table-cell office:value-type="{type_}" '
        f'table:number-columns-repeated="{repeated}">{inner}</table:table-cell>'
    )


def row(*cells: str, repeated: int = 1) -> str:
    inner = "".join(cells) + cell("", repeated=16_000)
    return f'<table:table-row table:number-rows-repeated="{repeated}">{inner}</table:table-row>'


def test_each_sheet_of_an_open_document_is_a_document(read: Read) -> None:
    phones = row(cell("Name"), cell("Phone"), cell("Room")) + row(
        cell("Anna"), cell("12", "float"), cell("B", "string", 2)
    )
    phones += row(cell(""), cell("13", "float"), repeated=2) + row(repeated=1_000_000)
    numbers = row(cell("1", "float"), cell("2.50 EUR", "currency"))
    sheets = f'<table:table table:name="Phones">{phones}</table:table>'
    sheets += f'<table:table table:name="Numbers">{numbers}</table:table>'
    found = read(open_document("spreadsheet", sheets), "a.ods")
    assert [(d.id, d.text, d.metadata["sheet"]) for d in found] == [
        (
            "a.ods#sheet=Phones",
            "Name | Phone | Room\nName: Anna; Phone: 12; Room: B; B\n13\n13",
            "Phones",
        ),
        ("a.ods#sheet=Numbers", "1 | 2.50 EUR", "Numbers"),
    ]


def test_each_chapter_of_a_book_is_a_document(read: Read) -> None:
    found = read(
        book("<h1>One</h1><p>Text", "<p> ", "<meta charset=utf-8>Größe", title="T"), "a.epub"
    )
    known = {"source": "a.epub", "title": "T"}
    assert [(d.id, d.text, d.metadata) for d in found] == [
        ("a.epub#chapter=1", "One\n\nText", {**known, "chapter": 1}),
        ("a.epub#chapter=3", "Größe", {**known, "chapter": 3}),
    ]


ENTITY = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>'


@pytest.mark.parametrize(
    ("data", "path", "said"),
    [
        (open_document("text", TEXT), "a.ods", "a.ods: is no OpenDocument spreadsheet"),
        (
            packed({"META-INF/manifest.xml": "<a/>"}),
            "a.odt",
            "a.odt: is not a readable OpenDocument",
        ),
        (
            packed({"META-INF/manifest.xml": "<encryption-data/>"}),
            "a.odt",
            "a.odt: is encrypted; save it without a password",
        ),
        (open_document("text", "<text:p>" * 5000), "a.odt", "a.odt: is not a readable"),
        (
            open_document("text", "<a>" * 1500 + "</a>" * 1500),
            "a.odt",
            "a.odt: is nested too deeply",
        ),
        (packed({"0": "0" * 70_000_000}), "a.epub", "a.epub: unpacks to more than 67108864 bytes"),
        (packed({"META-INF/container.xml": "<a/>"}), "a.epub", "a.epub: is no EPUB file"),
        (packed({"META-INF/container.xml": ENTITY}), "a.epub", "a.epub: is no EPUB file"),
        (
            book("A").replace(b"OEBPS/c 0.xhtml", b"OEBPS/c 1.xhtml"),
            "a.epub",
            "a.epub, chapter 1: is missing: OEBPS/c 0.xhtml",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_read_is_named(data: bytes, path: str, said: str, read: Read) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(data, path)
    assert caught.value.message.startswith(f"in/{said}")
