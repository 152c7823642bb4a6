"""E-mails and what is attached to them as documents."""

from __future__ import annotations

import email
import email.policy
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

from actors.documents.office.extractor import Extractor
from actors.documents.office.mail_texts import mail_texts
from actors.documents.reader import ReadOptions, read_group
from actors.documents.source_files import find_source_files
from cluster.artifacts.artifacts import Artifacts
from cluster.errors import InvalidArgument
from cluster.store.object_store import open_store
from tests.support.values.extracted import extracted
from tests.support.values.office_files import mail, pdf, word


def text_of(extractor: Extractor, data: bytes) -> str:
    (found,), left_out = extracted(extractor, data, "a.eml")
    assert left_out == []
    return found.text


def test_a_mail_is_a_document_and_each_mail_of_a_mailbox(extractor: Extractor) -> None:
    (alone,), _ = extracted(extractor, mail(html="<p>Other"), "a.eml")
    assert (alone.id, alone.text) == ("a.eml", "Boiler\n\nThe key is in the kitchen.")
    assert alone.metadata == {
        "source": "a.eml",
        "title": "Boiler",
        "subject": "Boiler",
        "author": "Anna <anna@example.org>",
        "date": "2024-05-01T10:30:00Z",
    }
    box = b"\nFrom anna\n" + mail() + b"\nFrom bob\n" + mail("Re", ">From me\n>>From you")
    box += b"\nFrom here on it is easy.\n"
    found, _ = extracted(extractor, box, "a.mbox")
    assert [(d.id, d.text, d.metadata["message"]) for d in found] == [
        ("a.mbox#message=1", "Boiler\n\nThe key is in the kitchen.", 1),
        ("a.mbox#message=2", "Re\n\nFrom me\n>From you\n\nFrom here on it is easy.", 2),
    ]


HEADERS = b"Subject: S\nContent-Type: text/plain"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Subject: S\n\ncaf\xc3\xa9", "café"),
        (b"Subject: S\n\ncaf\xe9 \x80", "café €"),
        (b"\xef\xbb\xbf\r\nSubject: S\n\ntext", "text"),
        (HEADERS + b"; charset=us-ascii\n\ncaf\xc3\xa9", "café"),
        (HEADERS + b"; charset=x-nobody\n\ncaf\xe9", "café"),
        (HEADERS + b"; charset=iso-8859-1\n\n\x93so\x94", "“so”"),
        (HEADERS + b"; charset=gb2312\n\n\xd6\xec\xe9F", "朱镕"),
        (HEADERS + b"; charset=utf-8\nContent-Transfer-Encoding: base64\n\nY2Fmw6k=", "café"),
        (
            b"Subject: S\nContent-Type: text/html; charset=x-nobody\n\n<h1>K</h1><p>\xc3\xa9",
            "K\n\né",
        ),
    ],
)
def test_a_mail_is_read_in_the_encoding_that_mail_programs_take(
    extractor: Extractor, data: bytes, text: str
) -> None:
    assert text_of(extractor, data) == f"S\n\n{text}"


def multipart(kind: str, *parts: bytes) -> bytes:
    inner = b"".join(b"--B\n" + part + b"\n" for part in parts)
    return b"Content-Type: multipart/%s; boundary=B\n\n%s--B--\n" % (kind.encode(), inner)


PLAIN, PAGE = b"Content-Type: text/plain\n\n", b"Content-Type: text/html\n\n"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (multipart("alternative", PLAIN + b"plain", PAGE + b"<p>page"), "plain"),
        (multipart("alternative", PLAIN + b" \n", PAGE + b"<p>page"), "page"),
        (
            multipart("mixed", PLAIN + b"one", PLAIN + b"two", PAGE + b"<p>three"),
            "one\n\ntwo\n\nthree",
        ),
        (
            multipart("related", PAGE + b"<p>page", b"Content-Type: image/png; name=a.png\n\nx"),
            "page",
        ),
        (multipart("signed", PLAIN + b"one", b"Content-Type: application/x-sig\n\nx"), "one"),
    ],
)
def test_all_texts_of_a_mail_are_read_once(extractor: Extractor, data: bytes, text: str) -> None:
    assert text_of(extractor, b"Subject: S\n" + data) == f"S\n\n{text}"


def test_a_page_that_a_browser_saved_with_its_pictures_is_a_document(extractor: Extractor) -> None:
    page = b"Content-Type: text/html\n\n<meta charset=utf-8><title>T</title><h1>Gr\xc3\xb6\xc3\x9fe"
    style = b"Content-Type: text/css\nContent-Location: cid:1\n\np {}"
    picture = b"Content-Type: image/png\nContent-Location: http://a/b.png\n\nx"
    data = b"Subject: T\n" + multipart("related", page, style, picture)
    found, left_out = extracted(extractor, data, "a.mhtml")
    assert [(d.id, d.text) for d in found] == [("a.mhtml", "T\n\nGröße")]
    assert left_out == []


def test_what_is_attached_are_documents_with_the_mail_as_metadata(extractor: Extractor) -> None:
    forwarded = email.message_from_bytes(
        mail("Minutes", attachments={"minutes.docx": word(title="Own title", author="Carla")}),
        policy=email.policy.default,
    )
    assert isinstance(forwarded, EmailMessage)
    data = mail(
        attachments={
            "plan.pdf": pdf("One", "", "Three"),
            "note.txt": "Grüße".encode("cp1252"),
            "page.html": "<meta charset=koi8-r><title>T</title><p>мир".encode("koi8-r"),
            "fwd": forwarded,
        }
    )
    for path, before, more in (
        ("a.eml", "", {}),
        ("a.mbox", "message=1#", {"message": 1}),
    ):
        found, left_out = extracted(extractor, b"From a\n" * bool(more) + data, path)
        names = "plan.pdf, note.txt, page.html, message.eml"
        assert found[0].metadata["attachments"] == names
        known = {"source": path, "author": "Anna <anna@example.org>", "subject": "Boiler"}
        known |= {"date": "2024-05-01T10:30:00Z", **more}
        assert [(d.id, d.text, d.metadata) for d in found[1:5]] == [
            (
                f"{path}#{before}attachment=1#page=1",
                "One",
                {**known, "title": "plan.pdf", "attachment": "plan.pdf", "page": 1},
            ),
            (
                f"{path}#{before}attachment=1#page=3",
                "Three",
                {**known, "title": "plan.pdf", "attachment": "plan.pdf", "page": 3},
            ),
            (
                f"{path}#{before}attachment=2",
                "Grüße",
                {**known, "title": "note.txt", "attachment": "note.txt"},
            ),
            (
                f"{path}#{before}attachment=3",
                "мир",
                {**known, "title": "T", "attachment": "page.html"},
            ),
        ]
        inner = [(d.id, d.metadata["title"], d.metadata["subject"]) for d in found[5:]]
        assert inner == [
            (f"{path}#{before}attachment=4", "Minutes", "Minutes"),
            (f"{path}#{before}attachment=4#attachment=1", "Own title", "Minutes"),
        ]
        where = f"in/{path}, message 1, " if more else f"in/{path}, "
        assert [text.partition(": ")[0] for text in left_out] == [f"{where}attachment 1, page 2"]


def test_an_attachment_that_cannot_be_read_stops_nothing_and_is_told(tmp_path: Path) -> None:
    attached = {
        "photo.png": b"x",
        "rows.csv": b"id,text\n1,A\n",
        "cut.docx": word()[:2000],
        "binary.txt": b"a\0b",
        "good.md": b"# Good",
    }
    (tmp_path / "a.eml").write_bytes(mail(attachments=attached))
    files = find_source_files([str(tmp_path / "a.eml")]).files
    read = read_group(0, files, Artifacts(open_store(f"{tmp_path}/store")), ReadOptions())
    assert [list(part.origins) for part in read.parts] == [["a.eml", "a.eml#attachment=5"]]
    told = {left.examples[0][-1]: left.reason for left in read.documents_left_out}
    assert told["1"] == "is attached, and is of a kind that is not read (.png)"
    assert told["2"] == "is attached, and is of a kind that is not read (.csv)"
    assert told["3"].startswith("is attached, and is not a whole Office file")
    assert told["4"].startswith("is attached, and has NUL characters")


def test_an_attachment_without_its_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    monkeypatch.delitem(sys.modules, "actors.documents.office.pdf_pages", raising=False)
    found = [*mail_texts(mail(attachments={"a.pdf": pdf("A"), "b.txt": b"B"}))]
    assert found[1].left_out == (
        "is attached, and what reads it is not installed (pip install 'raygion[office]')"
    )
    assert found[2].text == "B"


def nested(depth: int) -> bytes:
    data = mail("0")
    for number in range(1, depth):
        inner = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(inner, EmailMessage)
        data = mail(str(number), attachments={"": inner})
    return data


def nested_parts(depth: int) -> bytes:
    parts = (
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth)
    )
    return b"Subject: Deep\n" + b"".join(parts) + b"\nText"


def test_mails_may_be_nested_and_not_without_end(extractor: Extractor) -> None:
    found, left_out = extracted(extractor, nested(9), "a.eml")
    assert [document.metadata["title"] for document in found] == ["8", "7", "6", "5", "4"]
    assert len(left_out) == 1
    assert "lies in more than 4 e-mails" in left_out[0]
    assert text_of(extractor, nested_parts(20)) == "Deep\n\nText"
    with pytest.raises(InvalidArgument, match=r"a\.eml: is nested too deeply"):
        extracted(extractor, nested_parts(3000), "a.eml")
