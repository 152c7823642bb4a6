"""CSV files as documents."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.values.source_files import plain, read, refusal


def test_csv_cells_get_the_type_that_all_cells_of_their_column_have() -> None:
    data = (
        "id,text,year,price,open,code,note\n"
        '1,"Hello, ""you""\nthere",1999,2.5,true,007,\n'
        "2,B,,3,false,8,\n"
        "\n"
    )
    assert plain(read(data.encode(), "d.csv")) == [
        (
            "1",
            'Hello, "you"\nthere',
            {"year": 1999, "price": 2.5, "open": True, "code": "007", "note": None},
        ),
        ("2", "B", {"year": None, "price": 3.0, "open": False, "code": "8", "note": None}),
    ]
    long = "x" * 500_000
    assert read(f"id,text\n1,{long}".encode(), "d.csv")[0].text == long
    as_object = 'id,text,metadata\n1,A,"{""x"": 1}"\n'
    assert plain(read(as_object.encode(), "d.csv")) == [("1", "A", {"x": 1})]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1.9", "1.10", "2.0"], ["1.9", "1.10", "2.0"]),
        (["12E4", "34E2"], ["12E4", "34E2"]),
        (["10.00", "2.50", ""], [10.0, 2.5, None]),
        (["3", "2.5", "-0.25"], [3.0, 2.5, -0.25]),
        (["1.0", "1e-05", "2.5"], [1.0, 1e-05, 2.5]),
        (["1.2E-05", "3"], [1.2e-05, 3.0]),
        (["1e+05", "100001", "-0.5"], [1e05, 100001.0, -0.5]),
        (["1e-1", "0.1"], ["1e-1", "0.1"]),
        (["100000", "2.5"], [100000.0, 2.5]),
        (["0.1234567890123456789", "1"], ["0.1234567890123456789", "1"]),
        (["9223372036854775807", "1"], [2**63 - 1, 1]),
        (["9223372036854775808", "1"], ["9223372036854775808", "1"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["1e999", "1"], ["1e999", "1"]),
        (["9" * 5000], ["9" * 5000]),
        (["true", "1"], ["true", "1"]),
        (["007", "7"], ["007", "7"]),
        (["-0", "1"], [-0.0, 1.0]),
    ],
)
def test_a_csv_column_is_numbers_only_where_nothing_is_lost(
    cells: list[str], values: list[object]
) -> None:
    data = "id,text,x\n" + "".join(f"{n},T,{cell}\n" for n, cell in enumerate(cells))
    read_values = [document.metadata["x"] for document in read(data.encode(), "d.csv")]
    assert repr(read_values) == repr(values)


@example(["0", "-0"])
@example(["0", "0e-0"])
@example(["0.1", "1e-1"])
@example(["1e-05", "1E-05", "10e-06", "0.00001"])
@example(["1e+05", "100000"])
@given(
    st.lists(st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?", fullmatch=True))
)
def test_different_csv_cells_stay_different(cells: list[str]) -> None:
    data = "id,text,x\n" + "".join(f"{n},T,{cell}\n" for n, cell in enumerate(cells))
    values = [document.metadata["x"] for document in read(data.encode(), "d.csv")]
    assert len(set(map(repr, values))) == len(set(cells))


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("id,text,price", "1,A; b,2.5"),
        ("id;text;price", "1;A, b;2.5"),
        ('"id";"text";"price"', '1;"A; b";2.5'),
        ("id\ttext\tprice", "1\tA, b; c\t2.5"),
        ("id, text, price", '1, "A, b", 2.5'),
        ("\n\r\nid;text;price", "\n1;A;2.5"),
        ("id;text;price;;", "1;A;2.5;;"),
        ("sep=;\nid;text;price", "1;A;2.5"),
    ],
)
def test_the_header_says_what_stands_between_cells(header: str, row: str) -> None:
    for path in ("d.csv", "d.tsv"):
        (document,) = read(f"{header}\n{row}\n".encode(), path)
        assert document.text.startswith("A")
        assert document.metadata == {"price": 2.5}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"id,text\n1,A\n2\n", "d.csv, row 2: has 1 cells under 2 columns"),
        (b"id,body\n1,A\n", "text: d.csv, row 1: is missing; the columns here are: id, body"),
        (b"id,text,text\n1,A,B\n", "names a column twice"),
        (b"title;text\nA;B\n", "id: d.csv, row 1: is missing; the columns here are: title, text"),
        (b",id,text\n0,a,A\n", "d.csv, row 1: has a cell in column 1, which has no name"),
        (b"id,text,,\n1,A,,\n2,B,,C\n", "d.csv, row 2: has a cell in column 4, which has no"),
        (b",".join(b"%d" % n for n in range(99_999)) + b"\n" + b"," * 99_998, "18, 19, ..."),
        (b'id,text\n1,"A\n', "d.csv, row 1: unexpected end of data"),
        (b"id,text\n1,A\n2,\xff\n", "d.csv: is not UTF-8 text"),
        (b"id,text,metadata\n1,A,x\n", "metadata: d.csv, row 1: must be a JSON object"),
        (b'id,text,metadata\n1,A,"{""x"": 1, ""x"": 2}"\n', "the key 'x' stands twice"),
    ],
)
def test_a_bad_csv_is_named(data: bytes, said: str) -> None:
    assert said in refusal(data, "d.csv")
