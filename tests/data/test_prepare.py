"""A data set to two files and a report: every row accounted for, none on both sides."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.written import ROWS, write_csv, write_jsonl
from tuner.data.inspection import inspect_dataset
from tuner.data.prepare import load_examples, load_report, prepare_dataset
from tuner.errors import DatasetError
from tuner.recipe import DatasetSettings


def prepare(path, directory, objective="sft", max_length=1024, progress=None, **settings):
    dataset = DatasetSettings(source=str(path), **settings)
    return prepare_dataset(dataset, objective, directory, max_length=max_length, progress=progress)


def stored(directory: Path, side: str) -> list[dict]:
    lines = (directory / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def rows(tmp_path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", ROWS)


def test_every_row_is_on_exactly_one_side_and_knows_its_line(rows, tmp_path):
    report = prepare(rows, tmp_path / "data")
    train, held_out = stored(tmp_path / "data", "train"), stored(tmp_path / "data", "eval")
    lines = [example["source"]["line"] for example in train + held_out]
    assert (len(train), len(held_out)) == (report["train_rows"], report["eval_rows"]) == (32, 8)
    assert sorted(lines) == list(range(1, 41))
    assert train[0] == {
        "messages": [
            {"role": "user", "content": "Say 1."},
            {"role": "assistant", "content": "1!"},
        ],
        "source": {"file": "rows.jsonl", "line": 1},
    }


def test_the_report_accounts_for_every_row(tmp_path):
    mixed = [*ROWS, ROWS[3], ROWS[3], {"instruction": "Q", "output": ""}, "bad", {"output": "x"}]
    path = write_jsonl(tmp_path / "rows.jsonl", mixed)
    report = prepare(path, tmp_path / "data", skip_bad_rows=True)
    assert report["rows"] == 45
    assert report["kept"] == 40
    assert report["duplicates"] == 2
    assert report["dropped"] == {
        "the answer is empty": {"count": 1, "lines": [43]},
        "the prompt is empty": {"count": 1, "lines": [45]},
    }
    assert report["bad_rows"] == [
        {"file": "rows.jsonl", "line": 44, "reason": "a JSON string, not an object"}
    ]
    assert report["recognised"] == {
        "format": "alpaca",
        "reason": "Columns instruction and output are Alpaca's.",
        "columns": {"prompt": ["instruction"], "answer": ["output"]},
        "all_columns": ["instruction", "output"],
    }
    assert report["warnings"] == [
        "Left out: unreadable, 1 row (rows.jsonl line 44: a JSON string, not an object).",
        "Left out: the answer is empty, 1 row (line 43).",
        "Left out: the prompt is empty, 1 row (line 45).",
        "Left out: repeats of an earlier row, 2 rows.",
    ]
    assert load_report(tmp_path / "data") == report


def test_a_directory_without_prepared_data_has_no_report(tmp_path):
    assert load_report(tmp_path) is None


def test_bad_rows_are_an_error_that_names_the_first_ten_and_the_remedy(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS, *range(12)])
    with pytest.raises(DatasetError) as error:
        prepare(path, tmp_path / "data")
    first, *lines = error.value.problems
    assert first.startswith("rows.jsonl has 12 rows that cannot be read. Repair it, or")
    assert "--skip-bad-rows" in first
    assert lines[0] == "rows.jsonl line 41: a JSON number, not an object"
    assert (len(lines), lines[-1]) == (11, "and 2 more")
    assert list((tmp_path / "data").iterdir()) == []


def test_only_bad_rows_are_an_error_even_when_they_may_be_skipped(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [[1], [2], [3]])
    with pytest.raises(DatasetError, match="3 rows that cannot be read"):
        prepare(path, tmp_path / "data", skip_bad_rows=True)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", "[]", "rows.json holds no rows"),
        ("rows.csv", "question,answer\n", "rows.csv holds no rows"),
        (
            "rows.csv",
            "question,answer\nWhat?,\nWhy?, \n",
            "rows.csv: all 2 answers are empty (column answer). Choose another column",
        ),
        (
            "rows.csv",
            "question,answer\nWhat?,\n,Because\n",
            "rows.csv: none of its 2 rows can be used. the answer is empty, 1 row (line 2); "
            "the prompt is empty, 1 row (line 3).",
        ),
    ],
)
def test_data_that_leaves_nothing_to_train_on_is_an_error(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=re.escape(said)):
        prepare(tmp_path / name, tmp_path / "data")


def test_duplicates_are_used_once_and_so_are_on_one_side(tmp_path):
    spaced = [{key: f"  {text}\n" for key, text in row.items()} for row in ROWS]
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS + spaced + ROWS)
    report = prepare(path, tmp_path / "data")
    contents = [
        e["messages"][0]["content"] for s in ("train", "eval") for e in stored(tmp_path / "data", s)
    ]
    assert report["duplicates"] == 80
    assert len(contents) == len(set(contents)) == 40


def test_rows_with_the_same_prompt_are_on_the_same_side(tmp_path):
    answers = [{"question": f"What is {n % 30}?", "answer": f"Answer {n}."} for n in range(120)]
    prepare(write_jsonl(tmp_path / "rows.jsonl", answers), tmp_path / "data", eval_fraction=0.2)
    train, held_out = (
        {example["messages"][0]["content"] for example in stored(tmp_path / "data", side)}
        for side in ("train", "eval")
    )
    assert train
    assert held_out
    assert not train & held_out


def test_the_same_settings_write_the_same_bytes_in_any_process(rows, tmp_path):
    program = (
        "import sys; from pathlib import Path; from tuner.data.prepare import prepare_dataset;"
        "from tuner.recipe import DatasetSettings;"
        "prepare_dataset(DatasetSettings(source=sys.argv[1]), 'sft', Path(sys.argv[2]))"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", program, str(rows), str(tmp_path / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
        )
    for name in ("train.jsonl", "eval.jsonl", "report.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_fingerprint_follows_content_order_and_side_but_not_the_file(rows, tmp_path):
    first = prepare(rows, tmp_path / "1")["fingerprint"]
    moved = write_jsonl(tmp_path / "other.jsonl", ROWS)
    assert prepare(moved, tmp_path / "2")["fingerprint"] == first
    assert prepare(rows, tmp_path / "3", seed=7)["fingerprint"] != first
    turned = write_jsonl(tmp_path / "turned.jsonl", ROWS[::-1])
    assert prepare(turned, tmp_path / "4")["fingerprint"] != first
    assert re.fullmatch("[0-9a-f]{64}", first)


def test_rows_that_changed_since_the_recipe_was_made_are_noticed(rows, tmp_path):
    fingerprint = prepare(rows, tmp_path / "1")["fingerprint"]
    assert prepare(rows, tmp_path / "2", fingerprint=fingerprint)["warnings"] == []
    write_jsonl(rows, ROWS[:-1])
    assert (
        "fingerprint differs"
        in prepare(rows, tmp_path / "3", fingerprint=fingerprint)["warnings"][0]
    )


def test_max_rows_are_drawn_by_seed_and_then_split(rows, tmp_path):
    one, two = (prepare(rows, tmp_path / str(s), max_rows=30, seed=s) for s in (1, 2))
    assert (one["kept"], one["train_rows"] + one["eval_rows"]) == (40, 30)
    assert one["fingerprint"] != two["fingerprint"]


def test_nothing_is_held_out_when_not_asked_for(rows, tmp_path):
    report = prepare(rows, tmp_path / "data", eval_fraction=0)
    assert (report["train_rows"], report["eval_rows"]) == (40, 0)
    assert len(load_examples(tmp_path / "data", "eval")) == 0
    assert load_examples(tmp_path / "data", "eval").column_names == ["messages", "source"]


def test_a_system_prompt_is_put_where_there_is_none(tmp_path):
    own = [{"role": "system", "content": "Own."}, {"role": "user", "content": "Q"}]
    answer = [{"role": "assistant", "content": "A"}]
    path = write_jsonl(
        tmp_path / "rows.jsonl", [{"messages": own + answer}, {"messages": own[1:] + answer}]
    )
    prepare(path, tmp_path / "data", system_prompt="Given.")
    systems = [example["messages"][0]["content"] for example in stored(tmp_path / "data", "train")]
    assert systems == ["Own.", "Given."]


def test_long_documents_become_pieces_that_know_their_lines(tmp_path):
    path = tmp_path / "book.md"
    paragraphs = [f"# Chapter {n}\n\nIt was a dark and stormy night, the {n}th." for n in range(30)]
    path.write_text("\n\n".join(["", "", *paragraphs]), encoding="utf-8")
    report = prepare(path, tmp_path / "data", max_length=20, eval_fraction=0)
    pieces = stored(tmp_path / "data", "train")
    lines = path.read_text(encoding="utf-8").split("\n")
    assert report["kind"] == "text"
    assert report["rows"] == 1
    assert len(pieces) == report["train_rows"] == 30
    for piece in pieces:
        assert len(piece["text"]) <= 80
        assert lines[piece["source"]["line"] - 1] == piece["text"].split("\n")[0]


def test_long_texts_of_a_table_are_cut_too(tmp_path):
    path = write_csv(tmp_path / "t.csv", [["text"], ["One sentence. " * 30], ["Short."]])
    report = prepare(path, tmp_path / "data", max_length=20, eval_fraction=0, system_prompt="S")
    assert {piece["source"]["line"] for piece in stored(tmp_path / "data", "train")} == {2, 3}
    assert "system_prompt is not used" in report["warnings"][-1]


PAIRS = [
    {"prompt": f"Q{n}", "chosen": f"good {n}", "rejected": f"bad {n}", "score": n}
    for n in range(40)
]
LABELLED = [{"prompt": f"Q{n // 2}", "completion": f"A{n}", "label": n % 2 == 0} for n in range(40)]


@pytest.mark.parametrize(
    ("objective", "data", "columns"),
    [
        ("dpo", PAIRS, ["prompt", "chosen", "rejected", "source"]),
        ("kto", LABELLED, ["prompt", "completion", "label", "source"]),
        ("sft", PAIRS, ["messages", "source"]),
        ("sft", LABELLED, ["messages", "source"]),
    ],
)
def test_every_objective_gets_its_examples_back(tmp_path, objective, data, columns):
    path = write_jsonl(tmp_path / "rows.jsonl", data)
    prepare(path, tmp_path / "data", objective)
    for side in ("train", "eval"):
        examples = load_examples(tmp_path / "data", side)
        assert examples.column_names == columns
        assert examples.to_list() == stored(tmp_path / "data", side)
        assert len(examples)


def test_labels_that_all_say_the_same_are_noticed(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", LABELLED[::2])
    assert "same label (True)" in prepare(path, tmp_path / "data", "kto")["warnings"][0]


def test_loaded_examples_lie_in_a_memory_mapped_file_with_a_fingerprint_of_their_content(
    rows, tmp_path
):
    prints = set()
    for number in (1, 2):
        prepare(rows, tmp_path / str(number))
        examples = load_examples(tmp_path / str(number), "train")
        [file] = {Path(entry["filename"]).name for entry in examples.cache_files}
        assert file.startswith("train-")
        prints.add(examples._fingerprint)
    assert len(prints) == 1


def test_examples_are_loaded_anew_when_their_file_was_edited(rows, tmp_path):
    prepare(rows, tmp_path / "data")
    before = load_examples(tmp_path / "data", "train")
    path = tmp_path / "data" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    after = load_examples(tmp_path / "data", "train")
    assert (len(before), len(after)) == (32, 3)
    assert before._fingerprint != after._fingerprint


def test_letters_of_all_kinds_survive(tmp_path):
    odd = 'Zürich 東京 🙂 \u2028 \x85 \x00 \\u2028 , "source": {}'
    rows = [{"question": f"{n} {odd}", "answer": odd} for n in range(9)]
    prepare(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "data")
    assert len(stored(tmp_path / "data", "train")) == 6
    for example in load_examples(tmp_path / "data", "train"):
        assert example["messages"][1]["content"] == odd


def test_names_that_cannot_be_written_are_caught(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    write_jsonl(Path(odd), ROWS)
    assert prepare(odd, tmp_path / "data")["source"] == "caf?.jsonl"
    path = write_jsonl(tmp_path / "rows.jsonl", [{"half \ud800": "x", "text": "T"}])
    with pytest.raises(DatasetError, match="holds half a character"):
        prepare(path, tmp_path / "data")


def test_preparing_again_replaces_what_was_there_and_leaves_nothing_aside(rows, tmp_path):
    prepare(rows, tmp_path / "data", seed=1)
    report = prepare(rows, tmp_path / "data", seed=2)
    assert load_report(tmp_path / "data") == report
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "eval.jsonl",
        "report.json",
        "train.jsonl",
    ]


def test_a_disk_that_is_full_is_said_in_a_sentence(rows, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tuner.data.spool.Spool.add", full)
    with pytest.raises(DatasetError, match=r"No space left on device. Check the free disk space"):
        prepare(rows, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_progress_is_told_while_reading(tmp_path):
    told: list[int] = []
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS * 60)
    prepare(path, tmp_path / "data", progress=told.append)
    assert told == [1000, 2000]


PEAK = """
import sys
from pathlib import Path
from tuner.data.prepare import prepare_dataset
from tuner.recipe import DatasetSettings

prepare_dataset(DatasetSettings(source=sys.argv[1]), "sft", Path(sys.argv[2]))
# Not ru_maxrss, which begins at the size of the process that started this one.
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own count")
def test_ten_times_the_rows_need_hardly_more_memory(tmp_path):
    peaks = []
    for count in (2_000, 20_000):
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            for n in range(count):
                file.write(
                    json.dumps({"question": f"{n} " + "w " * 500, "answer": "a" * 800}) + "\n"
                )
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path), str(tmp_path / str(count))],
            check=True,
            capture_output=True,
        )
        peaks.append(int(done.stdout))  # KB
    assert (tmp_path / "20000.jsonl").stat().st_size > 35 << 20
    assert peaks[1] - peaks[0] < 8 << 10


# Looking before anything is written


def test_inspecting_shows_columns_rows_and_what_they_were_taken_for(rows):
    seen = inspect_dataset(DatasetSettings(source=str(rows)), "sft", examples=2)
    assert seen.columns == ["instruction", "output"]
    assert seen.format is not None
    assert (seen.format.name, seen.problem) == ("alpaca", None)
    assert len(seen.rows) == 40
    assert [e["messages"][0]["content"] for e in seen.examples] == ["Say 1.", "Say 2."]


def test_inspecting_unknown_columns_is_a_problem_to_correct_not_an_error(tmp_path):
    path = write_csv(tmp_path / "t.csv", [["foo", "bar"], ["1", "2"]])
    seen = inspect_dataset(DatasetSettings(source=str(path)), "sft")
    assert (seen.columns, seen.format, seen.examples) == (["foo", "bar"], None, [])
    assert "not recognised" in str(seen.problem)
    mapped = DatasetSettings(source=str(path), columns={"prompt": "foo", "answer": "bar"})
    assert len(inspect_dataset(mapped, "sft").examples) == 1
