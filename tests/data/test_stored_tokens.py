"""Prepared rows with their tokens, handed on: the very ones, or none."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import CHAT_TEMPLATE, tiny_tokenizer
from tuner.data.preview import PreviewedData
from tuner.data.rendering import Renderer
from tuner.data.stored import load_examples
from tuner.data.stored_tokens import FACTS, FOLDER, load_tokens, tokens_mark
from tuner.data.tokenized import tokenize
from tuner.data.tokenizer import complete_tokenizer
from tuner.recipe import Recipe, make_recipe

ROWS = [{"question": f"How much is {n} times {n}?", "answer": f"{n * n}."} for n in range(40)]
LENGTH = 128


def tokenizer(template: str = CHAT_TEMPLATE) -> Any:
    return complete_tokenizer(tiny_tokenizer(template), "tiny")


def recipe_of(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Recipe:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_recipe({"max_length": LENGTH, "dataset": {"source": str(path)}})


@pytest.fixture
def handed_over(tmp_path) -> Path:
    data = PreviewedData(recipe_of(tmp_path), tokenizer())
    data.hand_over(tmp_path / "run" / "data")
    data.close()
    return tmp_path / "run" / "data"


def taken(data_dir: Path, renderer: Renderer | None = None, side: Any = "train") -> Any:
    mark = tokens_mark(data_dir, renderer or Renderer(tokenizer(), LENGTH))
    return load_tokens(data_dir / FOLDER, side, mark)


@pytest.mark.parametrize("side", ["train", "eval"])
def test_what_is_taken_equals_what_the_run_would_have_made(handed_over, side):
    tokens, report = taken(handed_over, side=side)
    own, own_report = tokenize(load_examples(handed_over, side), Renderer(tokenizer(), LENGTH))

    assert tokens.to_list() == own.to_list()
    assert report == own_report
    assert len(tokens) > 0


def test_tokens_of_another_length_or_template_or_tokenizer_are_not_taken(handed_over):
    other = tokenizer()
    other.backend_tokenizer.pre_tokenizer = None
    assert taken(handed_over) is not None
    assert taken(handed_over, Renderer(tokenizer(), LENGTH - 1)) is None
    assert taken(handed_over, Renderer(tokenizer(CHAT_TEMPLATE + " "), LENGTH)) is None
    assert taken(handed_over, Renderer(other, LENGTH)) is None


def test_tokens_of_rows_that_were_edited_since_are_not_taken(handed_over):
    with (handed_over / "train.jsonl").open("a") as rows:
        rows.write(json.dumps({"messages": [], "source": {"file": "x", "line": 1}}) + "\n")

    assert taken(handed_over) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (FACTS, None),
        (FACTS, b"{"),
        (FACTS, b"[]"),
        (FACTS, b'{"mark": 1, "reports": {"train": {"rows": 1, "colour": 2}}}'),
        ("train.arrow", None),
        ("train.arrow", b""),
        ("train.arrow", b"no arrow at all"),
    ],
)
def test_what_is_broken_or_missing_is_passed_over(handed_over, name, content):
    path = handed_over / FOLDER / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    assert taken(handed_over) is None


def test_tokens_cut_short_are_passed_over(handed_over):
    path = handed_over / FOLDER / "train.arrow"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 2])

    assert taken(handed_over) is None


def test_a_run_that_has_data_is_left_as_it_is(tmp_path):
    kept = tmp_path / "run" / "data" / "train.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("its own")
    data = PreviewedData(recipe_of(tmp_path), tokenizer())

    with pytest.raises(OSError, match=r"not empty|exists"):
        data.hand_over(kept.parent)

    data.close()
    assert kept.read_text() == "its own"
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["data", "train.jsonl"]


def test_rows_of_a_run_are_its_own_copy(tmp_path):
    data = PreviewedData(recipe_of(tmp_path), tokenizer())
    for name in ("first", "second"):
        data.hand_over(tmp_path / name / "data")
        (tmp_path / name / "data" / "train.jsonl").write_text("edited")
    data.hand_over(tmp_path / "third" / "data")
    data.close()

    assert taken(tmp_path / "third" / "data") is not None
