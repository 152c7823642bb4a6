"""Which files the sources of an ingest mean, and which of them share a task."""

from __future__ import annotations

import errno
import functools
import gzip
import os
import pickle
import threading
import zipfile
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from actors.documents.reader import plan_groups
from actors.documents.source_files import SourceFile, find_source_files
from actors.documents.source_rows import UNPACKED_BYTES_FREE
from cluster.errors import InvalidArgument
from cluster.metadata import MetadataValue
from cluster.quoting import printable


def content(file: SourceFile) -> bytes:
    with file.open() as opened:
        return opened.read()


def test_folders_are_searched_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    for name in (
        "b.md",
        "a/c.txt",
        "a/.hidden.txt",
        ".git/x.md",
        "a/p.png",
        "q.png",
        "~$c.docx",
        "LICENSE",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    listing = find_source_files([str(tmp_path), f"file://{tmp_path}/b.md"])
    assert [file.path for file in listing.files] == ["a/c.txt", "b.md", "rows.jsonl.gz", "b.md"]
    assert listing.files[0].location == f"{tmp_path}/a/c.txt"
    assert listing.files[0].size_bytes == 7
    assert all(file.is_local for file in listing.files)
    assert {found.reason: (found.count, found.examples) for found in listing.left_out} == {
        "is hidden": (
            3,
            (f"{tmp_path}/.git/x.md", f"{tmp_path}/a/.hidden.txt", f"{tmp_path}/~$c.docx"),
        ),
        "is of a kind that is not read (.png)": (2, (f"{tmp_path}/a/p.png", f"{tmp_path}/q.png")),
        "is of a kind that is not read (no extension)": (1, (f"{tmp_path}/LICENSE",)),
    }


def test_names_are_shown_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    for name in (b"a\x1b[2J.md", b"b\nc.md", b"caf\xe9.md", "é.md".encode(), b"\xff.wps"):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_text("# A")
    listing = find_source_files([str(tmp_path)])
    names = [file.name.removeprefix(f"{tmp_path}/") for file in listing.files]
    assert names == ["a\\x1b[2J.md", "b\\nc.md", "caf\\udce9.md", "é.md"]
    assert [content(file) for file in listing.files] == [b"# A"] * 4
    assert listing.left_out[0].examples == (f"{tmp_path}/\\udcff.wps",)


def test_a_folder_that_may_not_be_looked_into_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("a.md", "locked/b.md"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("# A")
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    # Permissions do not hold back who runs tests as root.
    monkeypatch.setattr(os, "scandir", refuse)
    listing = find_source_files([str(tmp_path)])
    assert [file.path for file in listing.files] == ["a.md"]
    assert [(found.reason, found.examples) for found in listing.left_out] == [
        ("cannot be looked into: Permission denied", (f"{tmp_path}/locked",))
    ]


def test_folders_can_give_values_to_all_documents_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (
        "books/year=2019/lang=en/a.parquet",
        "books/year=__HIVE_DEFAULT_PARTITION__/lang=/b.parquet",
        "books/year=2020/lang=a%3Db/c=.jsonl",
        "mixed/year=2019/a.md",
        "mixed/year=now/b.md",
        "mixed/c.md",
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("")

    def given(*sources: str) -> list[Mapping[str, MetadataValue]]:
        return [file.folder_values for file in find_source_files(sources).files]

    assert given("books") == [
        {"year": 2019, "lang": "en"},
        {"year": 2020, "lang": "a=b"},
        {"year": None, "lang": None},
    ]
    assert given("mixed") == [{}, {"year": "2019"}, {"year": "now"}]
    # What a shell makes of `mixed/*` and of `books/*/*/*` has the folders in the sources' names.
    assert given("mixed/c.md", "mixed/year=2019/", "mixed/year=now") == given("mixed")
    assert given("books/year=2019/lang=en/a.parquet") == [{"year": 2019, "lang": "en"}]


def test_a_folder_that_cannot_give_its_value_is_told(tmp_path: Path) -> None:
    for path in ("my-key=1/text=2/a.md", "my-key=1/b.md", "and=3/c.md", "y=1/z=2/y=3/d.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    with pytest.raises(InvalidArgument, match="two folders for the field 'y'"):
        find_source_files([str(tmp_path)])
    (tmp_path / "y=1/z=2/y=3/d.md").unlink()
    listing = find_source_files([str(tmp_path)])
    assert {file.path: file.folder_values for file in listing.files} == {
        "and=3/c.md": {},
        "my-key=1/b.md": {},
        "my-key=1/text=2/a.md": {},
    }
    assert {found.reason: found.examples for found in listing.folder_values_left_out} == {
        "no metadata field can be called 'and'": (f"{tmp_path}/and=3",),
        "no metadata field can be called 'my-key'": (f"{tmp_path}/my-key=1",),
        "no metadata field can be called 'text'": (f"{tmp_path}/my-key=1/text=2",),
    }


def test_links_in_a_folder_are_not_followed_and_what_is_no_file_is_not_opened(
    tmp_path: Path,
) -> None:
    folder, other = tmp_path / "docs", tmp_path / "other"
    for path in (folder / "in" / "a.md", other / "secret.md"):
        path.parent.mkdir(parents=True)
        path.write_text("# A")
    (folder / "notes.md").symlink_to(other / "secret.md")
    (folder / "linked").symlink_to(other)
    (folder / "gone.md").symlink_to(tmp_path / "nowhere.md")
    os.mkfifo(folder / "pipe.txt")
    listing = find_source_files([str(folder)])
    assert [file.path for file in listing.files] == ["in/a.md"]
    assert {found.reason: found.count for found in listing.left_out} == {
        "is a symbolic link": 3,
        "is no regular file": 1,
    }
    # Who names a link means what it leads to.
    (tmp_path / "root").symlink_to(folder)
    assert [file.path for file in find_source_files([str(tmp_path / "root")]).files] == ["in/a.md"]
    assert [file.path for file in find_source_files([str(folder / "notes.md")]).files] == [
        "notes.md"
    ]


def test_what_is_no_file_is_not_opened_if_it_is_named_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to("pipe.txt")
    for name in ("pipe.txt", "link.txt"):
        with pytest.raises(InvalidArgument, match=rf"{name} is no regular file"):
            find_source_files([str(tmp_path / name)])


def test_colons_in_names_are_part_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cpp").mkdir()
    Path("cpp/std::vector.md").write_text("# vector")
    with gzip.open("cpp/a:b::c.txt.gz", "wb") as packed:
        packed.write(b"packed")
    for source in ("cpp", "./cpp", str(tmp_path / "cpp")):
        files = find_source_files([source]).files
        assert [file.path for file in files] == ["a:b::c.txt.gz", "std::vector.md"]
        again = pickle.loads(pickle.dumps(files))
        assert [content(file) for file in again] == [b"packed", b"# vector"]
    (file,) = find_source_files(["cpp/std::vector.md"]).files
    assert content(file) == b"# vector"


def test_files_inside_of_an_archive_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes/a.md", "# A")
    (file,) = find_source_files([f"zip://notes::{tmp_path}/a.zip"]).files
    assert (file.path, file.is_local) == ("a.md", True)
    assert content(pickle.loads(pickle.dumps(file))) == b"# A"


def test_a_page_of_the_web_is_named_without_the_query_of_its_url(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A")
    (tmp_path / "b.md").write_text("# B")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        (file,) = find_source_files([f"{url}/a.md?version=2#top"]).files
        assert (file.path, content(file)) == ("a.md", b"# A")
        assert [file.path for file in find_source_files([url]).files] == ["a.md", "b.md"]
        server.shutdown()


def test_an_archive_that_unpacks_to_far_more_than_it_has_is_refused(tmp_path: Path) -> None:
    line = b'{"id": "a", "text": "A text that comes again and again."}\n'
    beyond = UNPACKED_BYTES_FREE + 1
    for name, data, is_read in (
        ("small.jsonl.gz", b"\n" * UNPACKED_BYTES_FREE, True),
        ("rows.jsonl.gz", b"".join(b"%d %s" % (n, line) for n in range(beyond // 60)), True),
        ("bomb.jsonl.gz", b"\n" * beyond, False),
    ):
        (tmp_path / name).write_bytes(gzip.compress(data))
        (file,) = find_source_files([str(tmp_path / name)]).files
        if is_read:
            assert content(file) == data
        else:
            with pytest.raises(InvalidArgument, match=r"bomb\.jsonl\.gz: unpacks to more than"):
                content(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_texts_are_read_in_the_encoding_of_their_byte_order_mark(
    tmp_path: Path, encoding: str
) -> None:
    for name, text in (
        ("a.md", "# Größe 😀\r\n"),
        ("b.csv", "id;text\n1;Größe 😀\n"),
        ("c.jsonl", '{"id": "1", "text": "Größe\u2028😀"}\n'),
        ("d.txt.gz", "Größe 😀" * 10_000),
    ):
        data = text.encode(encoding)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        (file,) = find_source_files([str(tmp_path / name)]).files
        with pickle.loads(pickle.dumps(file)).open() as opened:
            for _ in range(2):
                assert opened.read().decode("utf-8-sig") == text
                opened.seek(0)


def test_a_text_that_is_not_what_its_byte_order_mark_says_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfea\x00\x00\xd8")
    (file,) = find_source_files([str(tmp_path / "a.txt")]).files
    with pytest.raises(
        InvalidArgument, match=r"a\.txt: begins with the byte order mark of UTF-16, but"
    ):
        content(file)


def test_a_relative_path_means_the_same_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    for relative, path in (("a.txt", tmp_path / "a.txt"), (".", tmp_path)):
        (file,) = find_source_files([relative]).files
        (same,) = find_source_files([str(path)]).files
        assert file.location == same.location == str(tmp_path / "a.txt")
        assert file.name == ("a.txt" if relative == "a.txt" else "./a.txt")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "does not exist$"),
        ("no\x1b[2Jwhere", r"no\\x1b\[2Jwhere does not exist"),
        ("memory://nowhere", "does not exist, or cannot be reached"),
        ("photo.png", r"photo.png is of a kind that is not read \(.png\); these are read: .jsonl"),
        ("docs.tar.gz", r"is not read \(.tar.gz\); unpack it; these are read"),
        ("old.doc", r"is not read \(.doc\); save it as .docx or .pdf; these are"),
        ("empty", "holds no file"),
        ("nosuch://x", "cannot be opened"),
        ("", "is empty"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "old.doc", "docs.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArgument, match=said) as caught:
        find_source_files([source])
    assert printable(source) in caught.value.message


def test_small_files_share_a_task_and_large_ones_do_not() -> None:
    def files(*sizes: int) -> list[SourceFile]:
        return [
            SourceFile(
                filesystem=None, location="", name="", path=f"p{i}", size_bytes=n, is_local=True
            )
            for i, n in enumerate(sizes)
        ]

    large = 2**30
    assert [len(group) for group in plan_groups(files(1, 2, large, 3, 4))] == [2, 1, 2]
    assert [len(group) for group in plan_groups(files(*[1] * 1025))] == [512, 512, 1]
    assert plan_groups([]) == []
