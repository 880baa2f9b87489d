"""The preview: every token in its place, and numbers that are those of the training."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import tiny_tokenizer
from tuner.data.prepare import load_examples, prepare_dataset
from tuner.data.preview import preview, row_preview, tokens_of
from tuner.data.rendering import IGNORE_INDEX, Renderer
from tuner.data.tokenized import tokenize
from tuner.data.tokenizer import complete_tokenizer
from tuner.errors import DatasetError
from tuner.recipe import Recipe, make_recipe

QUESTIONS = [{"question": f"How much is {n} times {n}?", "answer": f"{n * n}."} for n in range(12)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return complete_tokenizer(tiny_tokenizer(), "tiny")


def recipe_for(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> Recipe:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    dataset = {"source": str(path), "eval_fraction": 0.25, **settings.pop("dataset", {})}
    return make_recipe({"max_length": 128, **settings, "dataset": dataset})


def text_of(tokens: list[dict[str, Any]]) -> str:
    return "".join(token["text"] for token in tokens)


def conversation(question: str, answer: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "source": {"file": "rows.jsonl", "line": 1}}


@pytest.mark.parametrize(
    "answer", ["plain words", "Köln liegt am Rhein — 日本語", "👩‍🚀 flies", "  x\n\n"]
)
def test_the_texts_of_the_tokens_joined_are_the_rendered_text(answer: str, tokenizer: Any):
    rendered = Renderer(tokenizer, 512).render(conversation("Where?", answer))
    tokens = tokens_of(rendered)

    assert text_of(tokens) == rendered.text
    assert [token["id"] for token in tokens] == rendered.input_ids


def test_a_character_of_several_tokens_is_shown_once(tokenizer: Any):
    tokens = tokens_of(Renderer(tokenizer, 512).render(conversation("Where?", "日")))

    texts = [token["text"] for token in tokens if token["trained"]]
    assert texts == ["日", "", "", "<|im_end|>"]


def test_a_row_says_what_trains_and_which_token_stops(tokenizer: Any):
    row = row_preview(1, "train", conversation("Where?", "Here."), Renderer(tokenizer, 128))

    assert text_of([token for token in row["tokens"] if token["trained"]]) == "Here.<|im_end|>"
    assert row["stop_token"] == "<|im_end|>"
    assert row["cut_tokens"] == 0
    assert row["problem"] is None


def test_a_row_that_is_cut_has_no_stop_token_and_says_how_much_is_lost(tokenizer: Any):
    example = conversation("Where?", "Over the hills and far away. " * 20)
    whole = row_preview(1, "train", example, Renderer(tokenizer, None))
    cut = row_preview(1, "train", example, Renderer(tokenizer, 64))

    assert len(cut["tokens"]) == 64
    assert cut["cut_tokens"] == len(whole["tokens"]) - 64
    assert cut["stop_token"] is None


def test_a_row_whose_prompt_fills_max_length_says_that_it_does_not_train(tokenizer: Any):
    row = row_preview(1, "train", conversation("Where? " * 50, "Here."), Renderer(tokenizer, 32))

    assert row["problem"] == "the prompt alone fills max_length"


def test_a_pair_shows_the_prompt_once_and_both_answers(tokenizer: Any):
    example = {
        "prompt": [{"role": "user", "content": "Where?"}],
        "chosen": [{"role": "assistant", "content": "Here it is."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "source": {"file": "pairs.jsonl", "line": 7},
    }
    row = row_preview(1, "train", example, Renderer(tokenizer, 128))

    assert "Where?" in text_of(row["tokens"])
    assert text_of(row["tokens"]).endswith("Here it is.<|im_end|>")
    assert row["rejected"] is not None and text_of(row["rejected"]) == "No.<|im_end|>"
    assert row["line"] == 7


def test_the_numbers_are_those_of_the_tokens_that_train(tmp_path: Path, tokenizer: Any):
    recipe = recipe_for(tmp_path, QUESTIONS)
    shown = preview(recipe, tokenizer)
    prepare_dataset(recipe.dataset, "sft", tmp_path / "data", max_length=recipe.max_length)
    renderer = Renderer(tokenizer, recipe.max_length)
    labels = [
        label
        for side in ("train", "eval")
        for row in tokenize(load_examples(tmp_path / "data", side), renderer)[0]
        for label in row["labels"]
    ]

    assert shown["tokens"] == len(labels)
    assert shown["trained_tokens"] == sum(label != IGNORE_INDEX for label in labels)
    assert shown["trained_token_share"] == pytest.approx(
        shown["trained_tokens"] / shown["tokens"], abs=1e-4
    )


def test_every_row_is_accounted_for(tmp_path: Path, tokenizer: Any):
    long = {"question": "Why? " * 80, "answer": "Because."}
    wordy = {"question": "Why?", "answer": "Because of that. " * 40}
    empty = {"question": "And?", "answer": ""}
    rows = [*QUESTIONS, QUESTIONS[0], empty, long, wordy]
    shown = preview(recipe_for(tmp_path, rows), tokenizer)

    assert shown["rows"] == 16
    assert shown["kept"] == shown["train_rows"] + shown["eval_rows"] == 13
    assert shown["duplicates"] == 1
    assert shown["dropped"] == 2
    assert sorted(entry["lines"] for entry in shown["dropped_reasons"].values()) == [[14], [15]]
    assert shown["truncated"] == 1
    assert shown["cut_tokens"] == shown["length"]["max"] - shown["max_length"]
    assert sum(shown["length_histogram"]["counts"]) == shown["kept"]


def test_any_row_can_be_shown_and_none_beyond_the_last(tmp_path: Path, tokenizer: Any):
    recipe = recipe_for(tmp_path, QUESTIONS)
    every = preview(recipe, tokenizer, first_row=1, rows=99)["examples"]
    drawn = preview(recipe, tokenizer, first_row=None, rows=4)["examples"]

    assert [row["row"] for row in every] == list(range(1, 13))
    assert sorted(row["line"] for row in every) == list(range(1, 13))
    assert {row["side"] for row in every} == {"train", "eval"}
    assert len({row["row"] for row in drawn}) == 4
    with pytest.raises(DatasetError, match="rows 1 to 12"):
        preview(recipe, tokenizer, first_row=13)


def test_data_in_which_nothing_would_train_is_refused(tmp_path: Path, tokenizer: Any):
    with pytest.raises(DatasetError, match="max_length=8"):
        preview(recipe_for(tmp_path, QUESTIONS, max_length=8), tokenizer)
