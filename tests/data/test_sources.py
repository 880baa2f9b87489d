"""What dataset.source means: a path here, a path of the project, a repository, a Hub id."""

import pytest

from tests.data.written import ROWS, read, source_of, write_jsonl
from tuner.data.hub import hub_id
from tuner.data.sources import local_path, open_source
from tuner.errors import DatasetError
from tuner.recipe import DatasetSettings


def test_a_path_that_is_not_here_is_looked_up_in_the_project(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(tmp_path)
    assert local_path("presets/data/chatbot.jsonl") == repository / "presets/data/chatbot.jsonl"
    rows = list(open_source(DatasetSettings(source="presets/data/chatbot.jsonl")))
    assert rows[0].file == "chatbot.jsonl"


def test_a_path_from_here_comes_before_the_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets/data").mkdir(parents=True)
    write_jsonl(tmp_path / "presets/data/chatbot.jsonl", ROWS)
    assert len(list(open_source(DatasetSettings(source="presets/data/chatbot.jsonl")))) == 40


@pytest.mark.parametrize(
    "source", ["data/rows.csv", "rows.jsonl", "/no/such/file", "x" * 5000, "\0"]
)
def test_a_file_that_does_not_exist_is_named(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="There is no file or folder"):
        open_source(DatasetSettings(source=source))


def test_the_nearest_file_is_offered(tmp_path):
    write_jsonl(tmp_path / "support.jsonl", ROWS)
    with pytest.raises(DatasetError, match=r"Did you mean support\.jsonl\?"):
        source_of(tmp_path / "suport.jsonl")


def test_an_empty_source_says_what_to_give():
    with pytest.raises(DatasetError, match=r"dataset\.source is empty"):
        open_source(DatasetSettings(source=" "))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("openai/gsm8k", "openai/gsm8k"),
        ("https://huggingface.co/datasets/openai/gsm8k/tree/main", "openai/gsm8k"),
        ("hf://datasets/openai/gsm8k", "openai/gsm8k"),
        ("gsm8k", None),
        ("a/b/c", None),
        ("../gsm8k", None),
        ("a b/c", None),
    ],
)
def test_hub_ids_are_told_from_paths(source, expected):
    assert hub_id(source) == expected


def test_a_folder_of_mostly_code_is_a_repository_unless_told_otherwise(tmp_path):
    (tmp_path / "shop.py").write_text("def total(items):\n    return sum(items)\n")
    (tmp_path / "cart.py").write_text(
        "def add(cart, item):\n    cart.append(item)\n    return cart\n"
    )
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert source_of(tmp_path).description == f"code repository {tmp_path.name}"
    rows, source = read(tmp_path, kind="file")
    assert [row.values for row in rows] == ROWS
    assert "not read: cart.py, shop.py" in source.notes[0]


def test_a_folder_of_mostly_rows_is_data_although_a_script_lies_in_it(tmp_path):
    (tmp_path / "convert.py").write_text("def total(items):\n    return sum(items)\n")
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert len(read(tmp_path)[0]) == 40


def test_a_single_file_of_code_is_a_repository(tmp_path):
    path = tmp_path / "shop.py"
    path.write_text("def total(items):\n    return sum(items)\n")
    assert [row.values["name"] for row in read(path)[0]] == ["total"]
