"""HTML and Markdown files as documents."""

from __future__ import annotations

import codecs
import contextlib

import pytest

from actors.documents.texts.html_text import html_text
from actors.documents.texts.markdown_title import markdown_title
from cluster.errors import InvalidArgument
from tests.support.values.source_files import read, refusal


def test_html_gives_what_people_read() -> None:
    page = b"""<!doctype html><html><head><meta charset="iso-8859-1"><title> The
      page </title><style>p {}</style><script>var a = "</p>";</script></head>
      <body><!-- hidden --><h1>Caf\xe9</h1><p>One<br>two &amp; <b>thr</b>ee.</p>
      <ul><li>a</li><li>b</li></ul><table><tr><td>x</td><td>y</td></tr></table></body></html>"""
    document = read(page, "p.html")[0]
    assert document.text == "Café\n\nOne\ntwo & three.\n\na\n\nb\n\nx y"
    assert document.metadata == {"source": "p.html", "title": "The page"}


@pytest.mark.parametrize(
    ("page", "text", "title"),
    [
        ("<p>open <b>tags", "open tags", None),
        ("<head><title>t</title><p>no end of head", "no end of head", "t"),
        ("<h1>Only <i>this</i></h1>", "Only this", "Only this"),
        ("<svg><title>icon</title></svg>a</svg></p>b", "a\n\nb", None),
        (
            "<h1>One<br>two<div>three</div>four</h1>",
            "One\ntwo\n\nthree\n\nfour",
            "One two three four",
        ),
        ("<title>How to use </p> and </br></title>a", "a", "How to use </p> and </br>"),
        ("plain & simple < text", "plain & simple < text", None),
        ("<script>x", "", None),
        ("", "", None),
    ],
)
def test_broken_html_is_read_as_far_as_it_goes(page: str, text: str, title: str | None) -> None:
    assert html_text(page) == (text, title)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (
            "<p>Run:</p><pre><code>\ndef f():\n    return 1\n\n    # end\n</code></pre>Then"
            "<textarea>one\n  two</textarea>",
            "Run:\n\ndef f():\n    return 1\n\n    # end\n\nThen\n\none\n  two",
        ),
        ("<pre>a<br>b<div>c</div></pre>d", "a\nb\nc\n\nd"),
        ("<pre>  open to the end", "  open to the end"),
        ("Embed:<textarea><p>Hi</p>\n</br></textarea>", "Embed:\n\n<p>Hi</p>\n</br>"),
        (
            "a<xmp><h1>b</h1>\n c</xmp>d<listing>e\n f</listing>",
            "a\n\n<h1>b</h1>\n c\n\nd\n\ne\n f",
        ),
        ("a<plaintext>b\n <p>c</p>", "a\n\nb\n <p>c</p>"),
        ("a<!-- <textarea> -->b</p>c", "ab\n\nc"),
        (
            "<details><summary>How?</summary>Press.</details><select><option>A<option>B</select>",
            "How?\n\nPress.\n\nA\n\nB",
        ),
        ("<button>Reply</button><button>Forward</button>", "Reply Forward"),
        ("<label>First name</label><input><label>Last</label>: x", "First name Last: x"),
        ("<fieldset><legend>Address</legend>Street</fieldset>", "Address\n\nStreet"),
        ("<center>Middle</center>After", "Middle\n\nAfter"),
        ("<table><caption>C</caption><tr><td>Tea<td>3<tr><td>x</table>", "C\n\nTea 3\n\nx"),
        ("su<b>per</b>script<wbr>ed <i> a </i> b", "superscripted a b"),
        ("a<br><br><br>b</br>c", "a\n\nb\nc"),
        ("<p>a<div>b</div>c</p>d<h1>e</h2>f", "a\n\nb\n\nc\n\nd\n\ne\n\nf"),
        ("<b>a</div>b</b>", "ab"),
        (
            "<head><title>T</title>\n<font>Open <a>daily.</a></font> <b>Closed</b> on Monday.",
            "Open daily. Closed on Monday.",
        ),
        (
            "<head><title>T</title><meta name=a>\nOut of order.<br>Stairs.<p>Sorry.",
            "Out of order.\nStairs.\n\nSorry.",
        ),
        ("<p>a</p><svg><path d='M0'><text>no</text><p>b</p><h2>c</h2>", "a\n\nb\n\nc"),
        ("a <svg><path d='M0'><span>b</span> c<svg><use><img>d", "a b cd"),
        ("a<script>if (x < y) '<p>'</script><style>p{}</style><template>t</template>b", "ab"),
    ],
)
def test_html_is_laid_out_as_browsers_show_it(page: str, text: str) -> None:
    assert html_text(page)[0] == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("All of it<nav><ul><li>Home<li>Jobs</ul></nav>b", "All of it\n\nb"),
        (
            "<body><header><h1>T</h1></header><p>All of it</p><footer>(c) 2024</footer>",
            "T\n\nAll of it",
        ),
        ("<main><p>a</p><footer>By Anna</footer></main><footer>(c)</footer>", "a\n\nBy Anna"),
        (
            "<nav><a>Home</a> <a>Jobs</a></nav><footer>Open daily</footer>",
            "Home Jobs\n\nOpen daily",
        ),
        ("<nav><div>Home</nav><p>All that is told here.", "Home\n\nAll that is told here."),
        ("<p>a<p hidden>b<p>c", "a\n\nc"),
        ("<div hidden>b<div>c</div>d</div>One of all", "One of all"),
        ("a<span style='color: red; Display : none'>b</span>c", "ac"),
        ("a<div hidden=until-found>b</div>", "a\n\nb"),
        ("a<div role=tabpanel hidden>b</div>", "a\n\nb"),
        ("<body style='visibility:hidden'>a<script>b</script>", "a"),
        ("<button>Why?</button><p hidden>For this reason.", "Why?\n\nFor this reason."),
        ("<dialog>Cookies?</dialog>All of it<dialog open>b</dialog>", "All of it\n\nb"),
        ("<title>T</title><div hidden><svg><p>b</p></svg>c</div>And so on", "And so on"),
    ],
)
def test_what_people_do_not_read_on_a_page_is_left_out(page: str, text: str) -> None:
    assert html_text(page)[0] == text


@pytest.mark.parametrize(
    ("label", "data", "text"),
    [
        ("ISO-8859-1", b"He said \x93don\x92t\x94 \x96 5 \x80\x85", "He said “don’t” – 5 €…"),
        ("gb2312", b"\xd6\xec\xe9F\xbb\xf9", "朱镕基"),
        ("Shift_JIS", b"\x87@\x87\x8a\xee\xe0", "①㈱髙"),
        ("euc-jp", b"\xad\xa1\xad\xea \xc6\xfc\xf9\xa1\xfc\xee", "①㈱ 日纊黑"),
        ("x-sjis", "日本語".encode("cp932"), "日本語"),
        ("windows-874", "ไทย".encode("cp874"), "ไทย"),
        ("euc-kr", "똠방각하".encode("cp949"), "똠방각하"),
        ("koi8-r", "мир".encode("koi8-r"), "мир"),
        ("utf-16", "plain é".encode(), "plain é"),
        ("undefined", "plain é".encode(), "plain é"),
        ("punycode", "plain é".encode(), "plain é"),
        ("x-user-defined", b"plain", "plain"),
        ("no-such", b"plain", "plain"),
    ],
)
def test_html_is_read_in_the_encoding_that_browsers_take(
    label: str, data: bytes, text: str
) -> None:
    for meta in (
        f'<meta charset="{label}">',
        f"<META HTTP-EQUIV='Content-Type' CONTENT='text/html; charset={label}'>",
        f"<!-- <meta charset=utf-7> --><meta charset = '{label}' />",
    ):
        page = meta.encode() + b"<p>" + data
        assert read(page, "p.html")[0].text == text
    # A byte order mark counts for more.
    assert read(codecs.BOM_UTF8 + meta.encode() + text.encode(), "p.html")[0].text == text
    wide = codecs.BOM_UTF16_LE + (meta + text).encode("utf-16-le")
    assert read(wide, "p.html")[0].text == text


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<?xml version="1.0" encoding="ISO-8859-1"?><html>', "latin-1"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?><meta charset=utf-8>', "utf-8"),
        ("<!-- " + "x" * 2000 + " --><style>p{}</style><meta charset=windows-1251>", "cp1251"),
        ("<meta charset=no-such><meta charset=koi8-r>", "koi8-r"),
        ("<meta name=x content='charset=koi8-r'>", "utf-8"),
        ("<p data-x='<meta charset=koi8-r>'>", "utf-8"),
        ("<script>write('<meta charset=koi8-r>')</script>", "utf-8"),
        ("<meta/charset='koi8-r'/>", "koi8-r"),
        ("<meta content='text/html; charset = \"koi8-r\"' http-equiv=content-type>", "koi8-r"),
    ],
)
def test_the_encoding_is_declared_where_browsers_look_for_it(head: str, encoding: str) -> None:
    text = "naïve" if encoding == "latin-1" else "мир"
    assert read((head + text).encode(encoding), "p.html")[0].text == text


def test_a_byte_order_mark_goes_before_a_declaration_that_browsers_refuse() -> None:
    page = codecs.BOM_UTF8 + "<meta charset=iso-2022-kr><p>é</p>".encode()
    assert read(page, "p.html")[0].text == "é"


def test_html_in_another_encoding_than_it_says_is_refused() -> None:
    assert "text: p.html: is not utf-8 text (byte 6)" in refusal(b"<p>caf\xc3 \xe9", "p.html")
    assert "p.html: is not cp932" in refusal(b"<meta charset=shift_jis>\xeb\xff", "p.html")
    assert "is not euc_jp text (byte 24)" in refusal(b"<meta charset=euc-jp><p>\xa9\xa1", "p.html")
    assert "browsers refuse" in refusal(b"<meta charset=iso-2022-kr>a", "p.html")


HOSTILE = {
    "tags": "<a " * 20_000,
    "nested tags": "<a <a " * 100_000,
    "comments": "<!--" * 20_000,
    "elements": "<div>" * 200_000,
    "formatting": "".join(f"<b id={n}>" for n in range(3000)) + "<p>x</p>" * 3000,
    "attributes": "<p " + " ".join(f"a{n}=1" for n in range(100_000)) + ">",
    "end tags": "<div>" * 500 + "</b>" * 100_000,
    "drawings": "<svg>" * 400 + "<p></svg>" * 50_000,
    "declarations": "<meta charset" * 50_000,
    "headings": "#" * 500_000 + "x",
    "spaced heading": "# x" + " #" * 300_000 + "x",
    "fences": "`" * 500_000 + "\n" + "```\n" * 100_000,
    "spans": "`" * 500_000 + "x`",
    "front matter": "---\n" + "title: \n" * 100_000,
    "closed front matter": "+++\n" + 'title = "\n' * 100_000 + "+++\n",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pages_take_time_in_proportion_to_their_length(kind: str) -> None:
    """Each takes a second or less; a reader that goes back for every character would take from half
    a minute to hours.
    """
    data = HOSTILE[kind].encode()
    for path in ("p.html", "p.md"):
        with contextlib.suppress(InvalidArgument):
            read(data, path)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (
            "---\ntitle: Holiday policy\n# checked by legal\ntags: [a]\n---\n\n## More",
            "Holiday policy",
        ),
        ("---\ntitle: 'Quoted'\n...\n# Heading", "Quoted"),
        ("---\n# no title\ndate: 1\n---\n# Heading", "Heading"),
        ("---\n# After a line\n", "After a line"),
        ("```sh\n# a comment\n```\n# Heading", "Heading"),
        ("~~~~\n# a\n~~~\n# b\n~~~~\n# Heading", "Heading"),
        ("intro\n\n## The *title* ##\n", "The *title*"),
        ("# About C#", "About C#"),
        ("#hashtag\n####### seven\n#\n# One", "One"),
        ("Title\n=====\ntext", "Title"),
        ("=====\nTitle\n=====\n\n.. note::\n\nMore\n----", "Title"),
        ("Release\nnotes\n---\n# One", "Release notes"),
        ("- a\nb\n---\n> c\n---\n| d |\n---\n    e\n---\n# One", "One"),
        ("---\n\ntext\n\n---\n\n# One", "One"),
        ("* * *\nTitle\n\n---\nunder: a line\n---\n# One", "under: a line"),
        ("    # a comment\n\n# One", "One"),
        ("<!--\n# Licensed to you\n-->\n<!-- b -->\n# One", "One"),
        ("```a``` is code\n\n# One", "One"),
        ("---\ntitle: >-\n  Folded\n  lines\nmore: x\n---\n# One", "Folded lines"),
        ("---\ntitle: 'It''s' # so\n---\n# One", "It's"),
        ("---\ntitle: Raygion: a guide\n---\n# One", "Raygion: a guide"),
        ("---\ntitle:\ntags: [a]\n---\n# One", "One"),
        ("---\ntitle: [a, b]\n---\n# One", "One"),
        ("---\ntitle: null\n---\n# One", "One"),
        ("---\ntitle: ~\n---\n# One", "One"),
        ('+++\n# c\ntitle = "A \\"b\\""\n+++\n# One', 'A "b"'),
        ("+++\n# c\nn = 1\n+++\n# One", "One"),
        ('+++\n[menu]\ntitle = "Short"\n+++\n# One', "One"),
        ("no heading", None),
        ("", None),
    ],
)
def test_the_title_of_a_markdown_file(text: str, title: str | None) -> None:
    assert markdown_title(text) == title
    assert markdown_title(text.replace("\n", "\r\n")) == title
