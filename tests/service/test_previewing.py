"""A look at data, again and again: read once, read anew when it changed, and never an exception."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import DatasetError, ModelError, RecipeError
from tuner.recipe import Recipe, make_recipe
from tuner.service import previewing
from tuner.service.previewing import (
    PREPARED_KEPT,
    data_key,
    hand_over,
    look,
    prepared_data,
    preview_document,
    write_cleaned,
)

ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"It is {n + n}."} for n in range(24)]


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch):
    previewing._prepared.clear()
    previewing._made_of.clear()
    yield
    for data in previewing._prepared.values():
        data.close()
    previewing._prepared.clear()


@pytest.fixture
def data(tmp_path) -> Path:
    return write(tmp_path / "sums.jsonl", ROWS)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_of(source: Path | str, dataset: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    return make_recipe(
        {"max_length": 128, **settings, "dataset": {"source": str(source), **(dataset or {})}}
    )


def test_a_look_shows_the_numbers_the_rows_and_the_columns(data):
    found = look(recipe_of(data), 5, 2)
    shown = found["preview"]
    assert shown is not None
    assert (shown["rows"], shown["kept"], shown["max_length"]) == (24, 24, 128)
    assert [row["row"] for row in shown["examples"]] == [5, 6]
    assert (found["problems"], found["columns"], found["rows"]) == ([], ["question", "answer"], [])


def test_other_rows_and_other_training_settings_read_nothing_again(data):
    told: list[int] = []
    first = prepared_data(recipe_of(data), told.append)
    assert told
    told.clear()
    for recipe in (
        recipe_of(data),
        recipe_of(data, learning_rate=1e-3, quantization="nf4", seed=7, sample_prompts=["Hi"]),
    ):
        assert prepared_data(recipe, told.append) is first
        assert look(recipe, 3, 1, progress=told.append)["preview"]["examples"][0]["row"] == 3
    assert told == []


@pytest.mark.parametrize(
    ("dataset", "settings"),
    [
        ({}, {"max_length": 64}),
        ({"columns": {"prompt": "answer", "answer": "question"}}, {}),
        ({"system_prompt": "Be brief."}, {}),
        ({"eval_fraction": 0.4}, {}),
        ({"max_rows": 10}, {}),
        ({"seed": 7}, {}),
    ],
)
def test_what_decides_the_tokens_reads_anew(data, dataset, settings):
    before, after = recipe_of(data), recipe_of(data, dataset, **settings)
    assert data_key(before) != data_key(after)
    assert prepared_data(before) is not prepared_data(after)


def test_a_file_that_changed_is_read_anew(data):
    before = data_key(recipe_of(data))
    assert look(recipe_of(data))["preview"]["rows"] == 24
    write(data, ROWS[:20])
    assert look(recipe_of(data))["preview"]["rows"] == 20
    assert data_key(recipe_of(data)) != before


def test_a_file_of_the_project_is_watched_from_whatever_folder_the_page_was_started_in(
    tmp_path, monkeypatch
):
    here = data_key(recipe_of("presets/data/code.jsonl"))
    monkeypatch.chdir(tmp_path)
    assert data_key(recipe_of("presets/data/code.jsonl")) == here
    assert "null" not in here.rpartition("}")[2]


def test_only_the_last_few_stay_prepared_and_the_others_leave_no_folder(data):
    prepared = [prepared_data(recipe_of(data, {"seed": seed})) for seed in range(PREPARED_KEPT + 2)]
    folders = [Path(one._folder.name) for one in prepared]
    assert [folder.exists() for folder in folders] == [False] * 2 + [True] * PREPARED_KEPT
    assert prepared_data(recipe_of(data, {"seed": 2})) is prepared[2]
    prepared_data(recipe_of(data, {"seed": 99}))
    assert [folder.exists() for folder in folders[2:]] == [True, False, True]


def test_rows_that_are_turned_to_most_lately_stay_prepared(data):
    first = prepared_data(recipe_of(data, {"seed": 0}))
    for seed in range(1, PREPARED_KEPT + 3):
        prepared_data(recipe_of(data, {"seed": seed}))
        assert prepared_data(recipe_of(data, {"seed": 0})) is first


def test_columns_that_are_not_recognised_are_a_problem_with_what_solves_it(tmp_path):
    rows = [{"a": "x" * 500, "b": n, "c": None} for n in range(9)]
    found = look(recipe_of(write(tmp_path / "odd.jsonl", rows)))
    assert found["preview"] is None
    [problem] = found["problems"]
    assert "odd.jsonl: its columns are not recognised: a, b, c" in problem
    assert found["columns"] == ["a", "b", "c"]
    assert found["rows"] == [{"a": "x" * 80, "b": str(n), "c": "None"} for n in range(3)]


def test_columns_that_are_not_recognised_come_with_a_guess_that_can_be_used(tmp_path):
    rows = [{"ask the shop": f"Why {n}?", "the shop says": f"So {n}. " * 9} for n in range(24)]
    path = write(tmp_path / "odd.jsonl", rows)
    guess = look(recipe_of(path))["suggestion"]
    assert guess == {"prompt": ["ask the shop"], "answer": ["the shop says"]}
    assert look(recipe_of(path, {"columns": guess}))["preview"]["kept"] == 24


def test_questions_to_ask_while_training_are_of_rows_that_do_not_train(data):
    found = look(recipe_of(data), 1, 24)
    shown = found["preview"]["examples"]
    texts = {
        side: [
            "".join(token["text"] for token in row["tokens"])
            for row in shown
            if row["side"] == side
        ]
        for side in ("train", "eval")
    }
    assert found["prompts"]
    for prompt in found["prompts"]:
        assert any(prompt in text for text in texts["eval"])
        assert not any(prompt in text for text in texts["train"])
    assert look(recipe_of(data, {"eval_fraction": 0}))["prompts"] == []


def test_rows_that_lack_a_column_show_it_empty(tmp_path):
    found = look(recipe_of(write(tmp_path / "odd.jsonl", [{"a": "1"}, {"b": "2"}])))
    assert found["rows"] == [{"a": "1", "b": ""}, {"a": "", "b": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", "", "empty.csv"),
        ("head.csv", "question,answer\n", "head.csv"),
        ("broken.jsonl", '{"question": "a", "answer": "b"}\n{"question": ', "broken.jsonl"),
        ("noise.parquet", "\0\1\2" * 100, "noise.parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_problem(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    found = look(recipe_of(tmp_path / name))
    assert found["preview"] is None
    assert any(said in problem for problem in found["problems"])


def test_a_file_that_is_not_there_is_a_problem_without_columns(tmp_path):
    found = look(recipe_of(tmp_path / "gone.csv"))
    assert found["preview"] is None
    assert not any(found[part] for part in ("columns", "rows", "prompts", "suggestion"))
    assert "gone.csv" in found["problems"][0]


def test_a_mapping_of_columns_that_are_not_there_tells_all_of_them(data):
    found = look(recipe_of(data, {"columns": {"prompt": "questoin", "answer": "answr"}}))
    assert len(found["problems"]) == 2
    assert "Did you mean question?" in found["problems"][0]
    assert found["columns"] == ["question", "answer"]


def test_rows_longer_than_the_models_context_are_a_problem_before_any_is_read(data):
    told: list[int] = []
    found = look(recipe_of(data, max_length=10**6), progress=told.append)
    assert found["problems"][0].startswith("max_length=1000000 exceeds")
    assert told == []


def test_a_base_model_that_is_missing_is_a_problem_of_the_look(data):
    found = look(recipe_of(data, base_model="./no/such/model"))
    assert found["problems"][0].startswith("base_model=./no/such/model")
    assert found["columns"] == ["question", "answer"]


def test_a_row_beyond_the_last_is_a_problem_and_the_data_stays_prepared(data):
    found = look(recipe_of(data), 25)
    assert found["problems"] == ["There is no row 25: the data has rows 1 to 24."]
    assert look(recipe_of(data), 24)["preview"]["examples"][0]["row"] == 24


def test_a_problem_is_not_remembered(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"a": 1, "b": 2}])
    assert look(recipe_of(path))["preview"] is None
    write(path, ROWS)
    assert look(recipe_of(path))["preview"]["rows"] == 24


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"base_model": "./no/such/model"}, ModelError),
        ({"max_length": 10**6}, RecipeError),
        ({"objective": "dpo"}, DatasetError),
    ],
)
def test_a_document_raises_what_a_look_tells(data, settings, kind):
    with pytest.raises(kind) as error:
        preview_document(recipe_of(data, **settings))
    assert look(recipe_of(data, **settings))["problems"] == error.value.problems


def test_a_run_is_given_what_was_previewed_and_nothing_that_was_not(data, tmp_path):
    assert not hand_over(recipe_of(data), tmp_path / "unseen" / "data")
    look(recipe_of(data))
    assert not hand_over(recipe_of(data, {"seed": 7}), tmp_path / "other" / "data")
    assert hand_over(recipe_of(data, learning_rate=1e-3), tmp_path / "run" / "data")
    names = {path.name for path in (tmp_path / "run" / "data").rglob("*") if path.is_file()}
    assert names == {
        "train.jsonl", "eval.jsonl", "report.json", "train.arrow", "eval.arrow", "tokens.json",
    }  # fmt: skip
    assert not list(tmp_path.glob("unseen/*")) + list(tmp_path.glob("other/*"))


def test_a_run_is_not_given_what_was_changed_since(data, tmp_path):
    look(recipe_of(data))
    write(data, ROWS[:20])
    assert not hand_over(recipe_of(data), tmp_path / "run" / "data")


def test_a_run_is_not_given_a_folder_of_which_one_file_was_changed(tmp_path):
    folder = tmp_path / "rows" / "deep"
    folder.mkdir(parents=True)
    write(folder / "a.jsonl", ROWS[:12])
    write(folder / "b.jsonl", ROWS[12:])
    recipe = recipe_of(tmp_path / "rows")
    assert look(recipe)["preview"] is not None
    assert hand_over(recipe, tmp_path / "first" / "data")
    write(folder / "b.jsonl", ROWS[13:])
    assert not hand_over(recipe, tmp_path / "second" / "data")


def test_a_run_that_cannot_be_given_anything_begins_as_ever(data, tmp_path):
    look(recipe_of(data))
    (tmp_path / "run").write_text("no folder")
    assert not hand_over(recipe_of(data), tmp_path / "run" / "data")


def test_cleaned_rows_are_those_that_are_kept_and_train_as_they_stand(tmp_path):
    rows = [*ROWS, ROWS[0], {"question": "And?", "answer": ""}]
    path = write(tmp_path / "rows.jsonl", rows)
    write_cleaned(recipe_of(path), tmp_path / "cleaned.jsonl")
    cleaned = [json.loads(line) for line in (tmp_path / "cleaned.jsonl").open()]
    assert len(cleaned) == 24
    assert all(list(row) == ["messages"] for row in cleaned)
    again = look(recipe_of(tmp_path / "cleaned.jsonl"))["preview"]
    assert (again["kept"], again["dropped"], again["duplicates"]) == (24, 0, 0)
