"""PDF, Word, PowerPoint and Excel files and e-mails as documents, read by the real libraries."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
import zlib
from datetime import date, datetime, time
from pathlib import Path

import docx
import pytest
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from actors.documents.office.extractor import Extractor
from actors.documents.office.pieces import PIECES_MAX
from actors.documents.office.worker import Limits
from actors.documents.reader import GroupRead, ReadOptions, read_group
from actors.documents.source_files import find_source_files
from actors.documents.source_formats import SourceFormat
from cluster.artifacts.artifacts import Artifacts
from cluster.errors import InvalidArgument
from cluster.store.object_store import open_store
from tests.support.values.extracted import Read, extracted
from tests.support.values.office_files import mail, pdf, rtf, saved, slides, word, workbook


def test_each_page_of_a_pdf_is_a_document(read: Read) -> None:
    data = pdf("Hello", "", "Bye", title="Guide", author="Anna", date="D:20240501120000+02'00'")
    known = {
        "source": "a/guide.pdf",
        "title": "Guide",
        "author": "Anna",
        "date": "2024-05-01T10:00:00Z",
    }
    assert [(d.id, d.text, d.metadata) for d in read(data, "a/guide.pdf")] == [
        ("a/guide.pdf#page=1", "Hello", {**known, "page": 1}),
        ("a/guide.pdf#page=3", "Bye", {**known, "page": 3}),
    ]
    assert read(pdf("Hello"), "a/guide.pdf")[0].metadata["title"] == "guide.pdf"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("D:20240501", "2024-05-01T00:00:00Z"),
        ("D:20240501120000Z", "2024-05-01T12:00:00Z"),
        ("20240501120000-0530", "2024-05-01T17:30:00Z"),
        ("D:20241399", None),
        ("D:00010101000000+23'00'", None),
        ("yesterday", None),
    ],
)
def test_dates_of_pdf_files_are_read_in_utc(read: Read, text: str, expected: str | None) -> None:
    assert read(pdf("A", date=text), "a.pdf")[0].metadata.get("date") == expected


def test_what_is_filled_into_a_form_is_text_of_its_page(read: Read) -> None:
    field = (
        b"99 0 obj\n<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (Anna) /P 5 0 R "
        b"/Rect [72 600 300 620] /DA (/F1 12 Tf 0 g) >>\nendobj\n"
    )
    form = b"/Type /Catalog /AcroForm << /Fields [99 0 R] /DR << /Font << /F1 3 0 R >> >> >>"
    data = pdf("Name:").replace(b"/Type /Catalog", form).replace(b"xref\n0", field + b"xref\n0")
    data = data.replace(b"/Type /Page /Parent", b"/Type /Page /Annots [99 0 R] /Parent")
    (page,) = read(data, "a.pdf")
    assert page.text == "Name:\nAnna"


def test_a_word_file_is_a_document_with_marks_of_headings_and_lists(read: Read) -> None:
    (document,) = read(word(title="Holiday policy", author="Anna"), "policy.docx")
    assert document.id == "policy.docx"
    assert document.text == (
        "# Holidays\n\nThirty days a year.\n\n- Ask early\n\nMonth | Days\nMay | 3"
    )
    assert document.metadata["title"] == "Holiday policy"
    assert document.metadata["author"] == "Anna"


def test_no_text_of_a_word_file_is_passed_over(read: Read) -> None:
    document = docx.Document()
    names = nsdecls("w")
    paragraph = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>"
    box = (
        '<w:r><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/'
        'markup-compatibility/2006"><mc:Choice><w:txbxContent>{0}</w:txbxContent></mc:Choice>'
        "<mc:Fallback><w:txbxContent>{0}</w:txbxContent></mc:Fallback></mc:AlternateContent></w:r>"
    )
    for xml in (
        f"<w:sdt {names}><w:sdtContent>{paragraph.format('controlled')}</w:sdtContent></w:sdt>",
        f"<w:p {names}><w:r><w:t>kept</w:t></w:r><w:ins><w:r><w:t> new</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText> old</w:delText></w:r></w:del></w:p>",
        f"<w:p {names}><w:r><w:t>As </w:t></w:r><m:oMath {nsdecls('m')}><m:r><m:t>E=mc</m:t></m:r>"
        "</m:oMath></w:p>",
        f"<w:p {names}>{box.format(paragraph.format('boxed'))}"
        "<w:r><w:t>around</w:t><w:tab/><w:t>it</w:t></w:r></w:p>",
    ):
        document.element.body.insert(len(document.element.body) - 1, parse_xml(xml))
    inner = document.add_table(rows=1, cols=2).rows[0].cells
    inner[0].text = "outer"
    inner[1].add_table(rows=1, cols=1).rows[0].cells[0].text = "inner"
    (found,) = read(saved(document), "a.docx")
    assert found.text == "controlled\n\nkept new\n\nAs E=mc\n\naround\tit\n\nboxed\n\nouter | inner"


def test_a_footnote_stands_where_the_text_refers_to_it(read: Read) -> None:
    document = docx.Document()
    names = nsdecls("w")
    for kind, relation in (
        ("footnote", RELATIONSHIP_TYPE.FOOTNOTES),
        ("endnote", RELATIONSHIP_TYPE.ENDNOTES),
    ):
        note = f"<w:{kind} w:id='2'><w:p><w:r><w:t>the {kind}</w:t></w:r></w:p></w:{kind}>"
        blob = f"<w:{kind}s {names}><w:{kind} w:id='0' w:type='separator'/>{note}</w:{kind}s>"
        name = PackURI(f"/word/{kind}s.xml")
        part = Part(name, "application/xml", blob.encode(), document.part.package)
        document.part.relate_to(part, relation)
        run = f"<w:r><w:t>Text</w:t></w:r><w:r><w:{kind}Reference w:id='2'/></w:r>"
        xml = f"<w:p {names}>{run}<w:r><w:{kind}Reference w:id='7'/><w:t>.</w:t></w:r></w:p>"
        document.element.body.insert(0, parse_xml(xml))
    (found,) = read(saved(document), "a.docx")
    assert found.text == "Text (the endnote).\n\nText (the footnote)."


def test_each_slide_is_a_document_with_its_notes(read: Read) -> None:
    found = read(slides("Goals", "", "Plan", notes="Speak slowly."), "deck.pptx")
    assert [(d.id, d.text, d.metadata["slide"]) for d in found] == [
        ("deck.pptx#slide=1", "# Goals\n\nAbout Goals\n\nSpeak slowly.", 1),
        ("deck.pptx#slide=3", "# Plan\n\nAbout Plan\n\nSpeak slowly.", 3),
    ]


def test_each_sheet_is_a_document_whose_rows_name_their_columns(read: Read) -> None:
    data = workbook(
        Phones=[
            ["All phones"],
            ["Name", "Phone", "Since", "At"],
            ["Anna", 12.0, datetime(2024, 5, 1), time(9, 30)],
            [],
            ["Bob", None, datetime(2024, 5, 1, 12), True],
        ],
        Numbers=[[1, 2.5], [3, date(2024, 5, 1)]],
        Empty=[],
    )
    found = read(data, "a.xlsx")
    assert [(d.id, d.text, d.metadata["sheet"]) for d in found] == [
        (
            "a.xlsx#sheet=Phones",
            "All phones\nName | Phone | Since | At\n"
            "Name: Anna; Phone: 12; Since: 2024-05-01; At: 09:30:00\n"
            "Name: Bob; Since: 2024-05-01 12:00:00; At: TRUE",
            "Phones",
        ),
        ("a.xlsx#sheet=Numbers", "1 | 2.5\n3 2024-05-01", "Numbers"),
    ]


def test_a_formula_without_a_saved_value_counts_as_it_is_written(read: Read) -> None:
    rows = [["Name", "Price", "Sum", "Note"], ["Tea", 3, "=B2*2", '=IF(B2=3,"","?")']]
    data = workbook(A=rows, B=[["All", "=SUM(A!B:B)"]])
    sheet = "xl/worksheets/sheet1.xml"
    saved = rewritten(data, sheet, b'<c r="D2"><f>', b'<c r="D2" t="str"><f>')
    found = read(saved, "a.xlsx")
    assert [d.text.split("\n")[-1] for d in found] == [
        "Name: Tea; Price: 3; Sum: =B2*2",
        "All | =SUM(A!B:B)",
    ]
    saved = rewritten(saved, sheet, b"<f>B2*2</f><v></v>", b"<f>B2*2</f><v>6</v>")
    assert read(saved, "a.xlsx")[0].text.endswith("Name: Tea; Price: 3; Sum: 6")


def test_a_long_sheet_is_divided_into_parts(read: Read) -> None:
    data = workbook(A=[["Name", "Note"], *([f"n{n}", "ö" * 2000] for n in range(600))])
    found = read(data, "a.xlsx")
    assert [(d.id, d.metadata["sheet"], d.metadata["part"]) for d in found] == [
        (f"a.xlsx#sheet=A#part={n}", "A", n) for n in (1, 2, 3)
    ]
    rows = [line for document in found for line in document.text.split("\n")]
    assert rows[0] == "Name | Note"
    assert [row.partition(";")[0] for row in rows[1:]] == [f"Name: n{n}" for n in range(600)]


RTF = r"""
{\header on every page\par}\pard\b Holidays\b0\par
Thirty days, \u-10179?\u-8704? caf\'e9 {\f1\'cf\'f0\'e8}.\line Ask {\b early}.\par
{\field{\*\fldinst{HYPERLINK "https://a.example"}}{\fldrslt{\ul one}}} and
 {\field{\*\fldinst{HYPERLINK "https://b.example"}}{\fldrslt{\ul two}}}\par
{\pict\pngblip 89504e470d0a1a0a}{\footnote a note}
\trowd Month\cell Days\cell\row\trowd May\cell 3\cell\row
"""
INFO = r"{\title Caf\'e9 \u8364?}{\author Anna}{\revtim\yr2024\mo5\dy1\hr10\min30}"


def test_a_file_of_rich_text_is_a_document(read: Read) -> None:
    (found,) = read(rtf(RTF, INFO), "a.rtf")
    assert found.text == (
        "Holidays\n\nThirty days, 😀 café При.\nAsk early.\n\n"
        'one("https://a.example") and two("https://b.example")\n\n'
        "Month | Days\nMay | 3"
    )
    assert found.metadata == {
        "source": "a.rtf",
        "title": "Café €",
        "author": "Anna",
        "date": "2024-05-01T10:30:00Z",
    }
    (plain,) = read(rtf("One", r"{\title {\b not} plain}{\revtim\yr2024\mo13\dy1}"), "b.rtf")
    assert plain.metadata == {"source": "b.rtf", "title": "b.rtf"}


def test_a_sheet_is_named_as_in_its_file(extractor: Extractor) -> None:
    data = io.BytesIO(workbook(**{"a=b": []}))
    ((_, origin),) = extractor.rows(data, SourceFormat.XLSX, "a.xlsx", "in/a.xlsx")
    assert str(origin) == "in/a.xlsx, sheet a=b"


def encrypted_pdf() -> bytes:
    how = b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (b"00" * 32, b"11" * 32)
    return pdf("A").replace(b"/Root", b"/Encrypt %s /ID [<00> <00>] /Root" % how)


def package(size_bytes: int = 10, num_files: int = 1) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as files:
        for number in range(num_files):
            files.writestr(f"{number}.xml", b"0" * size_bytes)
    return sink.getvalue()


UNREADABLE: dict[str, tuple[str, bytes]] = {
    "in/a.pdf: is encrypted; save it without a password": ("a.pdf", encrypted_pdf()),
    "in/a.docx: is encrypted, or of Off": ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 99),
    "in/a.pdf: is not a readable PDF file": ("a.pdf", pdf("A")[:200]),
    "in/a.docx: is not a whole Office file": ("a.docx", word()[:2000]),
    "in/a.pptx: is not a readable PowerPoint file": ("a.pptx", package()),
    "in/a.xlsx: unpacks to more than 67108864 bytes": ("a.xlsx", package(70 * 2**20)),
    "in/a.xlsx: is a package of more than 10000 files": ("a.xlsx", package(1, PIECES_MAX + 1)),
    "in/a.rtf: is no RTF file": ("a.rtf", word()),
    "in/a.eml: is no e-mail": ("a.eml", b"Hello\n\nyou"),
    "in/a.mbox: is no mailbox": ("a.mbox", mail()),
    "in/a.mbox, message 2: is no e-mail": ("a.mbox", b"From a\n" + mail() + b"\nFrom b\nX: y\n"),
    "in/a.mbox: has more than 10000 messages": ("a.mbox", b"From a\nTo: b\n" * (PIECES_MAX + 1)),
}


@pytest.mark.parametrize("said", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named(said: str, read: Read) -> None:
    path, data = UNREADABLE[said]
    with pytest.raises(InvalidArgument) as caught:
        read(data, path)
    assert caught.value.message.startswith(said)
    assert len(caught.value.message) < 300


def rewritten(package: bytes, name: str, before: bytes, after: bytes) -> bytes:
    """The package with one of its files changed."""
    sink = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(package)) as old,
        zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for file in old.namelist():
            content = old.read(file)
            assert file != name or before in content
            new.writestr(file, content.replace(before, after) if file == name else content)
    return sink.getvalue()


OPEN = b"openxmlformats-officedocument."


@pytest.mark.parametrize(
    ("data", "path", "kind", "other"),
    [
        (word(), "a.docm", b"wordprocessingml.document", b"ms-word.document.macroEnabled"),
        (
            slides("A"),
            "a.pptm",
            b"presentationml.presentation",
            b"ms-powerpoint.presentation.macroEnabled",
        ),
        (slides("A"), "a.ppsx", b"presentationml.presentation", OPEN + b"presentationml.slideshow"),
        (workbook(A=[["A"]]), "a.xlsm", b"spreadsheetml.sheet", b"ms-excel.sheet.macroEnabled"),
    ],
)
def test_files_with_macros_and_slide_shows_are_read_like_others(
    data: bytes, path: str, kind: bytes, other: bytes, read: Read
) -> None:
    before = b"application/vnd." + OPEN + kind + b".main+xml"
    changed = rewritten(data, "[Content_Types].xml", before, b"application/vnd.%s.main+xml" % other)
    assert [d.text for d in read(changed, path)] == [d.text for d in read(data, f"{path[:-1]}x")]


def endless_sheet() -> bytes:
    """A row of a few bytes that stands for 16384 cells, many times."""
    rows = "".join(f'<row r="{n}"><c r="XFD{n}"/></row>' for n in range(2, 100_000))
    sheet = "xl/worksheets/sheet1.xml"
    return rewritten(workbook(A=[[1]]), sheet, b"</row>", b"</row>" + rows.encode())


def huge_page() -> bytes:
    """A page of some 30 KB that PDFium takes more than half a GiB of memory for."""
    text = zlib.compress(b"BT /F1 12 Tf 72 700 Td " + b"(A) Tj " * 3_000_000 + b" ET")
    start, _, rest = pdf("REPLACED").partition(b"stream\n")
    start = start[: start.rindex(b"<<")] + b"<< /Length %d /Filter /FlateDecode >>\n" % len(text)
    return start + b"stream\n" + text + rest[rest.index(b"\nendstream") :]


def test_a_file_that_takes_too_much_is_refused_and_the_next_one_is_read() -> None:
    with Extractor(Limits(cpu_s=2)) as extractor:
        assert extracted(extractor, mail(), "a.eml")
        with pytest.raises(InvalidArgument, match=r"in/a.xlsx: takes more than 2 s of processor"):
            extracted(extractor, endless_sheet(), "a.xlsx")
        assert extracted(extractor, pdf("A"), "a.pdf")
    with Extractor(Limits(memory_bytes=2**29)) as extractor:
        with pytest.raises(InvalidArgument, match=r"in/a.pdf: .* than 536870912 bytes of memory"):
            extracted(extractor, huge_page(), "a.pdf")
        assert extracted(extractor, pdf("A"), "a.pdf")


def nested_word(depth: int) -> bytes:
    start, end = b"<w:sdt><w:sdtContent>" * depth, b"</w:sdtContent></w:sdt>" * depth
    text = b"<w:p><w:r><w:t>Text</w:t></w:r></w:p>"
    return rewritten(word(), "word/document.xml", b"<w:body>", b"<w:body>" + start + text + end)


def test_files_may_be_nested_and_not_without_end(read: Read) -> None:
    assert read(nested_word(20), "a.docx")[0].text.startswith("Text\n\n# Holidays")
    with pytest.raises(InvalidArgument, match=r"in/a\.docx: is n"):
        read(nested_word(5000), "a.docx")


def test_without_the_library_it_is_said_what_to_install(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(InvalidArgument, match=r"^in/a.pdf: .*: pip install 'raygion\[office\]'$"):
        read(pdf("A"), "a.pdf")


def test_what_holds_no_text_is_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_bytes(pdf("A", "", "C"))
    (tmp_path / "in" / "b.pdf").write_bytes(pdf("", ""))
    (tmp_path / "in" / "c.eml.gz").write_bytes(gzip.compress(mail()))
    (tmp_path / "in" / "d.docx").write_bytes(b"damaged")

    def read(skip_errors: bool) -> GroupRead:
        files = find_source_files([str(tmp_path / "in")]).files
        artifacts = Artifacts(open_store(str(tmp_path / "store")))
        return read_group(0, files, artifacts, ReadOptions(skip_errors=skip_errors))

    with pytest.raises(InvalidArgument, match=r"in/d.docx: is not a whole Office file"):
        read(skip_errors=False)
    found = read(skip_errors=True)
    assert [list(part.origins) for part in found.parts] == [
        ["a.pdf#page=1", "a.pdf#page=3", "c.eml.gz"]
    ]
    assert [(left.reason.partition(";")[0], left.examples) for left in found.files_left_out] == [
        ("holds no text", (f"{tmp_path}/in/b.pdf",)),
        ("is not a whole Office file: File is not a zip file", (f"{tmp_path}/in/d.docx",)),
    ]
    assert [left.examples for left in found.documents_left_out] == [
        (f"{tmp_path}/in/a.pdf, page 2",)
    ]
