"""Whole data sets: what trains, what is dropped, and that the report counts just that."""

import gc
import weakref

import pytest
from datasets import Dataset

from tests.tiny_models import tiny_tokenizer
from tuner.data.rendering import IGNORE_INDEX, Renderer
from tuner.data.tokenized import TokenReport, require_trained_rows, tokenize, tokenize_rows
from tuner.data.tokenizer import complete_tokenizer
from tuner.errors import DatasetError


def renderer(max_length: int) -> Renderer:
    return Renderer(complete_tokenizer(tiny_tokenizer(), "tiny"), max_length)


def conversation(question: str, answer: str, line: int) -> dict:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "source": {"file": "rows.jsonl", "line": line}}


ROWS = [
    conversation("Where is it?", "On its way.", 1),
    conversation("And when? " * 20, "Soon.", 2),
    conversation("Why?", "Because of the weather, and then some more. " * 6, 3),
]


def test_the_report_counts_exactly_the_labels_that_train():
    tokens, report = tokenize(Dataset.from_list(ROWS), renderer(64))

    trained = sum(label != IGNORE_INDEX for row in tokens for label in row["labels"])
    assert report.trained_tokens == trained
    assert report.tokens == sum(len(row["input_ids"]) for row in tokens)
    assert report.trained_token_share == trained / report.tokens


def test_rows_that_max_length_empties_are_dropped_by_line_and_cut_ones_counted():
    tokens, report = tokenize(Dataset.from_list(ROWS), renderer(64))

    assert len(tokens) == report.kept == 2
    assert report.dropped == {"the prompt alone fills max_length": {"count": 1, "lines": [2]}}
    assert report.truncated == 1
    assert report.longest > 64


def test_tokens_on_disk_equal_tokens_in_memory(tmp_path):
    rows = Dataset.from_list(ROWS)
    in_memory, _ = tokenize(rows, renderer(512))
    on_disk, _ = tokenize(rows, renderer(512), tmp_path / "train.arrow")

    assert on_disk.cache_files
    assert on_disk.to_list() == in_memory.to_list()


def test_pairs_share_a_prompt_and_keep_both_answers_within_max_length():
    row = {
        "prompt": ROWS[0]["messages"][:1],
        "chosen": ROWS[2]["messages"][1:],
        "rejected": ROWS[0]["messages"][1:],
        "source": {"file": "pairs.json", "line": 1},
    }
    tokens, report = tokenize(Dataset.from_list([row]), renderer(60))

    pair = tokens[0]
    assert len(pair["prompt_ids"]) + len(pair["chosen_ids"]) == 60
    assert len(pair["rejected_ids"]) < len(pair["chosen_ids"])
    assert report.truncated == 1


def test_a_pair_whose_prompt_fills_max_length_is_dropped():
    row = {
        "prompt": ROWS[1]["messages"][:1],
        "completion": ROWS[1]["messages"][1:],
        "label": True,
        "source": {"file": "kto.json", "line": 7},
    }
    tokens, report = tokenize(Dataset.from_list([row]), renderer(40))

    assert len(tokens) == 0
    assert report.dropped["the prompt alone fills max_length"]["lines"] == [7]


def test_one_row_that_the_template_refuses_does_not_take_the_others_with_it():
    chat = renderer(512)
    chat.tokenizer.chat_template = (
        "{% if messages[0]['content'] == 'Why?' %}{{ raise_exception('not that') }}{% endif %}"
        + chat.tokenizer.chat_template
    )

    tokens, report = tokenize(Dataset.from_list(ROWS), chat)

    assert len(tokens) == 2
    assert list(report.dropped.values()) == [{"count": 1, "lines": [3]}]


def test_the_reasons_and_lines_of_many_rows_are_those_of_each_in_its_order(tmp_path):
    chat = renderer(64)
    chat.tokenizer.chat_template = (
        "{% if '7' in messages[0]['content'] %}{{ raise_exception('no sevens') }}{% endif %}"
        + chat.tokenizer.chat_template
    )
    rows = [conversation(f"{n}? " * (1 + n % 40), "Yes. " * (n % 9 + 1), n) for n in range(2300)]
    progress: list[int] = []

    tokens, report = tokenize(Dataset.from_list(rows), chat, tmp_path / "t.arrow", progress.append)

    one_by_one = TokenReport()
    kept = [tokenize_rows([row], chat, one_by_one) for row in rows]
    assert tokens["input_ids"] == [ids for columns in kept for ids in columns["input_ids"]]
    assert tokens["labels"] == [labels for columns in kept for labels in columns["labels"]]
    assert report == one_by_one
    assert len(report.dropped) == 2
    assert (progress[0], progress[-1], report.rows) == (1000, 2300, 2300)


def test_a_side_of_which_nothing_trains_has_its_columns_and_no_row(tmp_path):
    tokens, _ = tokenize(Dataset.from_list(ROWS[1:2]), renderer(40), tmp_path / "eval.arrow")

    assert (len(tokens), tokens.column_names) == (0, ["input_ids", "labels"])


def test_what_ends_the_tokenizing_leaves_no_half_written_file(tmp_path):
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(Dataset.from_list(ROWS), renderer(64), tmp_path / "train.arrow", stop)

    assert list(tmp_path.iterdir()) == []


class Module:
    """Modules and their bound forwards hold each other: only the collector lets go of them."""


@pytest.mark.parametrize("set_aside", [True, False], ids=["imports set aside", "nothing set aside"])
def test_a_model_that_is_loaded_meanwhile_can_be_let_go_of(set_aside):
    gc.unfreeze()
    if set_aside:
        gc.freeze()
    model = Module()
    model.forward_of = model
    held = weakref.ref(model)
    try:
        tokenize(Dataset.from_list(ROWS), renderer(64))
        del model
        gc.collect()
        assert held() is None
        assert gc.isenabled() and bool(gc.get_freeze_count()) is set_aside
    finally:
        gc.unfreeze()


def test_data_in_which_nothing_trains_is_refused_with_the_reason():
    _, report = tokenize(Dataset.from_list(ROWS[1:2]), renderer(40))

    with pytest.raises(DatasetError, match=r"None of the 1 rows .*max_length=40.*prompt alone"):
        require_trained_rows(report, 40)


def test_both_sides_add_up():
    _, one = tokenize(Dataset.from_list(ROWS[:1]), renderer(64))
    _, two = tokenize(Dataset.from_list(ROWS[1:]), renderer(64))

    whole = one.merged(two)

    assert (whole.rows, whole.kept, whole.truncated) == (3, 2, 1)
    assert sum(whole.summary()["length_histogram"]["counts"]) == whole.kept
