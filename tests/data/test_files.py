"""One file to rows: every type, told by content; and what is said of a file that is broken."""

import codecs
import gzip
import json

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from tests.data.written import ROWS, read, values, write_csv, write_jsonl
from tuner.errors import DatasetError

TABLE = [["question", "answer"], ["What?", "That."], ["Why?", "So."]]
PAIRS = [{"question": "What?", "answer": "That."}, {"question": "Why?", "answer": "So."}]


def as_parquet(path):
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def as_arrow_file(path):
    feather.write_feather(pa.Table.from_pylist(ROWS), str(path), compression="uncompressed")


def as_arrow_stream(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def as_gzip(path):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))


def as_utf16(path):
    text = "".join(json.dumps(row) + "\r\n" for row in ROWS)
    path.write_bytes(codecs.BOM_UTF16_LE + text.encode("utf-16-le"))


WRITERS = {
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "rows.jsonl": lambda path: write_jsonl(path, ROWS),
    "rows.ndjson": lambda path: write_jsonl(path, ROWS),
    "rows.csv": lambda path: write_csv(path, [list(ROWS[0]), *[list(r.values()) for r in ROWS]]),
    "rows.tsv": lambda path: write_csv(
        path, [list(ROWS[0]), *[list(r.values()) for r in ROWS]], "\t"
    ),
    "rows.parquet": as_parquet,
    "rows.arrow": as_arrow_stream,
    "rows.feather": as_arrow_file,
    "rows.jsonl.gz": as_gzip,
    "utf16.jsonl": as_utf16,
    "bom.json": lambda path: path.write_bytes(codecs.BOM_UTF8 + json.dumps(ROWS).encode()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_type_of_file_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    assert values(path) == ROWS


def test_a_saved_datasets_dataset_can_be_read(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert values(next((tmp_path / "saved").glob("*.arrow"))) == ROWS


@pytest.mark.parametrize(
    ("content", "expected", "note"),
    [
        (
            {"a1": PAIRS[0], "b2": PAIRS[1]},
            [{"id": "a1"} | PAIRS[0], {"id": "b2"} | PAIRS[1]],
            "id",
        ),
        ({"a1": {"id": 7, "text": "T"}}, [{"id": 7, "text": "T"}], "keyed by id"),
        ({"version": 1, "data": PAIRS}, PAIRS, '"data"'),
        ({"rows": [{"row_idx": 0, "row": PAIRS[0]}]}, PAIRS[:1], '"rows"'),
        ({"train": PAIRS, "test": PAIRS[:1]}, PAIRS, '"train"'),
        ({"question": ["What?", "Why?"], "answer": ["That.", "So."]}, PAIRS, "columns"),
        ({"question": {"0": "What?"}, "answer": {"0": "That."}}, PAIRS[:1], "columns"),
        (PAIRS[0], PAIRS[:1], None),
        ({"messages": [{"role": "user", "content": "Hi"}]}, 1, None),
    ],
)
def test_a_json_object_is_unwrapped_and_that_is_said(tmp_path, content, expected, note):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    rows, source = read(path)
    assert [row.values for row in rows] == (expected if expected != 1 else [content])
    assert source.notes == [] if note is None else note in source.notes[0]


def test_a_json_object_with_several_lists_is_read_by_the_split_or_refused(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"easy": PAIRS, "hard": PAIRS[:1]}))
    assert values(path, split="hard") == PAIRS[:1]
    with pytest.raises(DatasetError, match=r"several lists of rows: easy, hard.*dataset\.split"):
        values(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.json", "{}\n{}\n".format(*map(json.dumps, PAIRS)), "holds JSON Lines"),
        ("rows.jsonl", json.dumps(PAIRS), "holds one JSON list"),
        ("rows.jsonl", json.dumps(PAIRS, indent=2), "holds one JSON list"),
        ("rows.csv", json.dumps(PAIRS), "holds JSON"),
        ("rows.txt", "{}\n{}\n".format(*map(json.dumps, PAIRS)), "holds JSON"),
    ],
)
def test_content_wins_over_the_extension_and_that_is_said(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    rows, source = read(path)
    assert [row.values for row in rows] == PAIRS
    assert said in source.notes[0]


def test_parquet_under_another_name_is_read_as_parquet(tmp_path):
    as_parquet(tmp_path / "rows.csv")
    rows, source = read(tmp_path / "rows.csv")
    assert len(rows) == 40
    assert source.notes == ["rows.csv holds Parquet and is read as that."]


def test_prose_that_begins_with_a_bracket_stays_prose(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("[a link](x)\n\n{not json}")
    assert values(path) == [{"text": "[a link](x)\n\n{not json}"}]


# Lines and rows


def test_jsonl_rows_know_their_lines_and_blank_lines_are_none(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{json.dumps(PAIRS[0])}\r\n\n\n{json.dumps(PAIRS[1])}")
    assert [(row.file, row.line) for row in read(path)[0]] == [("rows.jsonl", 2), ("rows.jsonl", 5)]


def test_csv_rows_start_where_their_first_line_is(tmp_path):
    path = write_csv(tmp_path / "rows.csv", [["q", "a"], ["one\ntwo\nthree", "x"], ["four", "y"]])
    rows = read(path)[0]
    assert [row.line for row in rows] == [2, 5]
    assert rows[0].values["q"] == "one\ntwo\nthree"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_out(tmp_path, delimiter):
    cells = [["q", "a"], ["Hi, you; all", "So, there."], ["Well", "a|b"], ["x", "y"]]
    assert values(write_csv(tmp_path / "t.csv", cells, delimiter))[0] == {
        "q": "Hi, you; all",
        "a": "So, there.",
    }


def test_a_single_column_of_csv_is_read_whole(tmp_path):
    (tmp_path / "t.csv").write_text("text\nOne line.\nAnother, with a comma\n", encoding="utf-8")
    rows, source = read(tmp_path / "t.csv")
    assert rows[0].values == {"text": "One line."}
    assert source.bad_rows[0].line == 3


def test_columns_without_or_with_the_same_name_stay_apart(tmp_path):
    path = write_csv(tmp_path / "t.csv", [["", " q ", "q"], ["0", "What?", "Why?"]])
    rows, source = read(path)
    assert rows[0].values == {"column 1": "0", "q": "What?", "q.3": "Why?"}
    assert "two columns q" in source.notes[0]


def test_text_is_one_row_and_a_long_one_comes_in_pieces_with_their_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.data.documents.PIECE", 30)
    path = tmp_path / "long.txt"
    paragraphs = [f"Paragraph {n} of some length.\nSecond line." for n in range(5)]
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    rows = read(path)[0]
    assert len(rows) == 5
    assert "".join(row.values["text"] for row in rows) == "\n\n".join(paragraphs)
    assert [row.line for row in rows] == [1, 4, 7, 10, 13]
    assert all(row.document for row in rows)


def test_iterating_again_starts_over(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS, "not a row"])
    source = read(path)[1]
    assert list(source) == list(source)
    assert source.bad_row_count == 1


# Bad rows


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"q": "cut', "cut off"),
        (b'{"q": 1', "cut off"),
        (b"{'q': 1}", "not JSON: Expecting property name"),
        (b"[1, 2]", "a JSON list, not an object"),
        (b'"text"', "a JSON string, not an object"),
        (b"12", "a JSON number, not an object"),
        (b"null", "a JSON null, not an object"),
        (b'{"q": "caf\xe9"}', "byte 0xE9 at byte 11"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"q": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_a_bad_line_is_reported_with_its_number_and_reading_goes_on(tmp_path, line, reason):
    good = json.dumps(PAIRS[0]).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([good, line, good]))
    rows, source = read(path)
    assert [row.line for row in rows] == [1, 3]
    assert [bad.line for bad in source.bad_rows] == [2]
    assert reason in source.bad_rows[0].reason


@pytest.mark.parametrize("line", ["garbage", "[1, 2", '{"q": "cut', "{'q': 1}", "[1]"])
def test_even_the_first_line_may_be_bad(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([line, *map(json.dumps, PAIRS)]))
    rows, source = read(path)
    assert [row.values for row in rows] == PAIRS
    assert [bad.line for bad in source.bad_rows] == [1]


@pytest.mark.parametrize(
    ("text", "lines", "reason"),
    [
        ("q,a\n1,2\n1,2,3\n1\n3,4\n", [3, 4], "fields, not 2"),
        ('q,a\n1,2\n"open,4\n5,6\n', [3], "never closed"),
        ('q,a\n1,2\n"a"b,4\n5,6\n', [3], "closing quote"),
    ],
)
def test_a_bad_record_of_csv_is_reported_with_its_line(tmp_path, text, lines, reason):
    path = tmp_path / "t.csv"
    path.write_text(text)
    source = read(path)[1]
    assert [bad.line for bad in source.bad_rows] == lines
    assert reason in source.bad_rows[0].reason


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("", "cut off"),
        (', {"q": "half', "cut off"),
        (", {'q': 1}]", "not JSON"),
        (' {"q": 1}]', "no comma"),
        ("] trailing", "text after the end"),
    ],
)
def test_a_json_list_is_read_up_to_where_it_breaks(tmp_path, tail, reason):
    path = tmp_path / "rows.json"
    path.write_text('[\n{"q": "a"},\n{"q": "b"}' + tail)
    rows, source = read(path)
    assert [row.values["q"] for row in rows] == ["a", "b"]
    assert source.bad_rows[0].line == 3
    assert reason in source.bad_rows[0].reason
    assert "line 3" in source.bad_rows[0].reason


def test_a_json_list_longer_than_its_buffer_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.data.json_list.CHUNK", 7)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*ROWS, 12345]))
    rows, source = read(path)
    assert [row.values for row in rows] == ROWS
    assert str(source.bad_rows[0]) == "rows.json line 41: a JSON number, not an object"


def test_only_the_first_bad_rows_are_kept_but_all_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.data.rows.BAD_ROWS_KEPT", 3)
    source = read(write_jsonl(tmp_path / "rows.jsonl", [ROWS[0], *range(10)]))[1]
    assert (len(source.bad_rows), source.bad_row_count) == (3, 10)


# Files that hold no rows at all

EMPTY = "is empty"
UNREADABLE = {
    "nothing.json": (b"", EMPTY),
    "blank.csv": (b"\n  \n", EMPTY),
    "bom.jsonl": (codecs.BOM_UTF8, EMPTY),
    "word.csv": (b"%PDF-1.7", "is a PDF"),
    "page.json": (b"<!DOCTYPE html><html>", "is a web page"),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "old.csv": (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office file"),
    "picture.txt": (b"\x89PNG\r\n", "a picture"),
    "rows.pkl": (b"\x80\x04\x95\x00", "pickle"),
    "zeros.txt": (b"ab\x00cd", "binary data"),
    "rows.bin": (b"some text", "of no type that Tuner reads"),
    "table.json": (b"id,name\n1,2\n", "holds no JSON: it begins with 'id,name 1,2'"),
    "text.parquet": (b"id,name\n", "is not Parquet: it holds text"),
    "cut.parquet": (b"PAR1" + b"x" * 50, "damaged or cut off"),
    "cut.arrow": (b"ARROW1" + b"x" * 50, "damaged or cut off"),
    "object.json": (b'{"data": [{"q": 1}, {"q"', "object.json: the JSON is cut off (line 1)"),
    "wrong.json": (b'{"a": \n nope}', "not JSON: Expecting value (line 2, column 2)"),
    "first.json": (b"[nope]", "its first row: not JSON"),
    "latin.csv": ("q,a\nA,B\ncafé,x\n".encode("latin-1"), "byte 0xE9 at position 11 (line 3)"),
    "latin.json": ('{"a": {"q": "café"}}'.encode("latin-1"), "not UTF-8: byte 0xE9 at position 16"),
    "bom.txt": (codecs.BOM_UTF8 + b"ab\ncd\xff", "position 8 (line 2)"),
    "odd.csv": (codecs.BOM_UTF16_LE + b"a\x00b", "cut off"),
    "packed.csv.gz": (gzip.compress(b"q,a\n" * 1000)[:-20], "packed.csv.gz"),
    "twice.gz": (gzip.compress(gzip.compress(b"q,a\n")), "gzip within gzip"),
    "fake.gz": (b"\x1f\x8bnonsense here", "damaged"),
    "rows.tar": (b"x".ljust(257, b"\x00") + b"ustar", "tar archive"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_without_readable_rows_gives_one_sentence_that_names_it(tmp_path, name):
    content, said = UNREADABLE[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError) as error:
        read(path)
    [sentence] = error.value.problems
    assert said in sentence
    assert name.removesuffix(".gz") in sentence
    assert "\n" not in sentence


def test_a_line_without_end_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.data.json_lines.MAX_LINE", 100)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "' + "x" * 200 + '"}\n')
    with pytest.raises(DatasetError, match="line 1 is longer than"):
        read(path)


def test_gzip_that_unpacks_to_far_more_than_data_does_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.data.blobs.RATIO_MATTERS_ABOVE", 1 << 16)
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"0" * (1 << 20)))
    with pytest.raises(DatasetError, match="zip bomb"):
        read(path)
