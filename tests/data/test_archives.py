"""Zips and folders: what is read of them, what is left out and said, and what is refused."""

import gzip
import json
import stat
import struct
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.written import ROWS, read, source_of, values, write_jsonl, write_zip
from tuner.errors import DatasetError

LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def test_all_data_files_of_a_zip_are_read_in_place(tmp_path):
    path = write_zip(tmp_path / "data.zip", {"a.jsonl": LINES, "deep/b.json": json.dumps(ROWS)})
    rows, source = read(path)
    assert [row.values for row in rows] == ROWS + ROWS
    assert {row.file for row in rows} == {"a.jsonl", "deep/b.json"}
    assert source.description == "data.zip (2 files)"
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.zip"]


def test_parquet_and_gzip_within_a_zip_are_read(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    files = {
        "rows.parquet": (tmp_path / "rows.parquet").read_bytes(),
        "rows.jsonl.gz": gzip.compress(LINES.encode()),
    }
    assert values(write_zip(tmp_path / "data.zip", files)) == ROWS + ROWS


def test_documents_are_read_where_there_are_no_rows(tmp_path):
    path = write_zip(tmp_path / "docs.zip", {"one.md": "# One", "two.txt": "Two."})
    assert values(path) == [{"text": "# One"}, {"text": "Two."}]


def test_what_is_left_out_is_said(tmp_path):
    files = {
        "rows.jsonl": LINES,
        "README.md": "# Read me",
        "inner.zip": "PK",
        "__MACOSX/._rows.jsonl": "x",
        ".hidden/rows.jsonl": "x",
    }
    rows, source = read(write_zip(tmp_path / "data.zip", files))
    assert len(rows) == 40
    assert source.notes == [
        "data.zip: archives inside it are left out (inner.zip).",
        "data.zip: not read: README.md.",
    ]


def test_of_files_named_after_splits_only_the_wanted_one_is_read(tmp_path):
    files = {
        "data/train-00000-of-1.jsonl": LINES,
        "data/test-00000-of-1.jsonl": '{"q": "held out"}\n',
    }
    path = write_zip(tmp_path / "data.zip", files)
    assert values(path) == ROWS
    assert values(path, split="test") == [{"q": "held out"}]


def test_a_folder_is_read_like_a_zip_and_its_links_are_not_followed(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    write_jsonl(folder / "sub" / "rows.jsonl", ROWS)
    outside = write_jsonl(tmp_path / "outside.jsonl", [{"secret": "no"}])
    (folder / "link.jsonl").symlink_to(outside)
    assert values(folder) == ROWS


def test_a_link_in_a_zip_is_not_read(tmp_path):
    path = write_zip(tmp_path / "data.zip", {"rows.jsonl": LINES})
    link = zipfile.ZipInfo("link.jsonl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert values(path) == ROWS


@pytest.mark.parametrize(
    "name",
    ["../evil.jsonl", "a/../../evil.jsonl", "/etc/evil.jsonl", "C:\\evil.jsonl", "..\\e.jsonl"],
)
def test_names_that_lead_out_of_a_zip_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "data.zip", {"rows.jsonl": LINES, name: LINES})
    with pytest.raises(DatasetError, match=r"data\.zip holds a file named .*leads out"):
        source_of(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("rows.jsonl", "w") as member,
    ):
        for _ in range(100):
            member.write(b"0" * (1 << 20))
    with pytest.raises(DatasetError, match=r"bomb\.zip unpacks to more than .*zip bomb"):
        source_of(path)


def test_a_zip_that_lies_about_its_sizes_is_stopped_while_reading(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "liar.zip", {"rows.jsonl": LINES * 200})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24  # the uncompressed size in the central directory
    content[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"rows\.jsonl cannot be unpacked"):
        read(path)


def test_a_zip_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.data.archives.MAX_FILES", 3)
    path = write_zip(tmp_path / "many.zip", {f"{n}.jsonl": LINES for n in range(4)})
    with pytest.raises(DatasetError, match="holds 4 files, more than 3"):
        source_of(path)


BROKEN = {
    "cut.zip": (lambda data: data[:-30], "damaged or cut off"),
    "text.zip": (lambda _: b"no zip at all", "not a readable zip archive"),
    "empty.zip": (lambda _: b"", "not a readable zip archive"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_zip_gives_a_sentence(tmp_path, name):
    damage, said = BROKEN[name]
    path = write_zip(tmp_path / name, {"rows.jsonl": LINES})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=f"{name}.*{said}"):
        source_of(path)


def test_a_damaged_member_gives_a_sentence(tmp_path):
    path = write_zip(tmp_path / "data.zip", {"rows.jsonl": LINES})
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"rows\.jsonl cannot be unpacked: it is damaged"):
        read(path)


def test_a_password_gives_a_sentence(tmp_path):
    path = write_zip(tmp_path / "data.zip", {"rows.jsonl": LINES})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="protected by a password"):
        source_of(path)


@pytest.mark.parametrize(
    ("member", "said"),
    [("xl/workbook.xml", "an Excel workbook"), ("word/document.xml", "a Word document")],
)
def test_an_office_file_is_named_for_what_it_is_whatever_it_is_called(tmp_path, member, said):
    path = write_zip(tmp_path / "table.csv", {"[Content_Types].xml": "", member: ""})
    with pytest.raises(DatasetError, match=rf"table\.csv is {said}\. Save"):
        source_of(path)


def test_an_archive_without_data_says_what_would_be_read(tmp_path):
    path = write_zip(tmp_path / "pictures.zip", {"a.png": "x"})
    with pytest.raises(DatasetError, match=r"pictures\.zip holds no file that Tuner reads"):
        source_of(path)


def test_a_file_that_may_not_be_read_gives_a_sentence(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)  # root, who runs some tests, may read all
    with pytest.raises(DatasetError, match="Permission denied"):
        read(path)
