"""
Bad input: one plain sentence that names the file, row or field, exit code 2, no run left behind.

Everything that can be known without torch is found before a run is made; what only tokens tell is
found by the training process, and its run is taken away again.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.tiny_models import tiny_model
from tuner.cli import app

CONTEXT = 2048  # of the base model; the recipe's default max_length fits
GOOD_ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"It is {n + n}."} for n in range(24)]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models"), context=CONTEXT)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "good.jsonl"
    path.write_text(as_lines(GOOD_ROWS))
    return path


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def train(*arguments: str | Path, runs_dir: Path) -> Result:
    words = ["train", *map(str, arguments), "--runs-dir", str(runs_dir)]
    return CliRunner().invoke(app, words)


def assert_refused(result: Result, runs_dir: Path, *names: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for name in names:
        assert name in result.stderr
    assert "Traceback" not in result.stderr
    assert not runs_dir.exists() or not any(runs_dir.iterdir())


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (["lora.rank=8"], ["lora.rank", "lora.r"]),
        (["max_lenght=512"], ["max_lenght", "max_length"]),
        (["colour=blue"], ["colour is not a recipe setting"]),
        (["r=0"], ["lora.r=0", "1 or more"]),
        (["learning_rate=fast"], ["learning_rate='fast'", "number"]),
        (["max_steps=-1"], ["max_steps=-1"]),
        (["optim=adam9"], ["optim='adam9'"]),
        (["max_steps"], ["--set max_steps"]),
        (["r=0", "learning_rate=fast"], ["lora.r=0", "learning_rate='fast'"]),
        (["adapter=none", "quantization=nf4"], ["adapter=none", "quantization=nf4"]),
        ([f"max_length={CONTEXT + 1}"], [f"max_length={CONTEXT + 1}", f"{CONTEXT}"]),
    ],
    ids=lambda value: value[0] if "=" in value[0] else None,
)
def test_a_setting_that_cannot_be_used_is_named(
    settings: list[str], names: list[str], base_model: Path, data: Path, tmp_path: Path
):
    options = [word for setting in settings for word in ("--set", setting)]
    runs_dir = tmp_path / "runs"
    result = train("--base-model", base_model, "--dataset", data, *options, runs_dir=runs_dir)

    assert_refused(result, runs_dir, *names)


def write(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def into(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return into


LATIN_1 = "question,answer\nWo ist meine Bestellung?,Unterwegs nach Köln.\n".encode("latin-1")
BROKEN_LINES = as_lines(GOOD_ROWS[:6]) + '{"question": "cut\n' + as_lines(GOOD_ROWS[6:]) + "oops\n"
BAD_FILES = {
    "missing": (lambda folder: folder / "nowhere.jsonl", ["nowhere.jsonl"]),
    "empty": (write("empty.jsonl", ""), ["empty.jsonl is empty"]),
    "not what it is called": (write("rows.parquet", "a,b\n1,2\n"), ["rows.parquet is not Parquet"]),
    "a picture": (write("rows.csv", b"\x89PNG\r\n\x1a\n" + bytes(64)), ["rows.csv is a picture"]),
    "truncated JSON": (write("cut.json", json.dumps(GOOD_ROWS)[:-30]), ["cut.json", "cut off"]),
    "wrong encoding": (write("latin.csv", LATIN_1), ["latin.csv is not UTF-8", "line 2"]),
    "bad lines": (
        write("broken.jsonl", BROKEN_LINES),
        ["broken.jsonl", "line 7", "line 26", "--skip-bad-rows"],
    ),
    "no recognisable columns": (
        write("odd.csv", "left,right\nred,blue\ngreen,yellow\n"),
        ["odd.csv", "left, right", "--map"],
    ),
    "empty answers": (
        write("unanswered.jsonl", as_lines([{**row, "answer": " "} for row in GOOD_ROWS])),
        ["unanswered.jsonl", "answers are empty", "answer"],
    ),
}


@pytest.mark.parametrize(("make", "names"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_cannot_be_trained_on_is_named(
    make: Callable[[Path], Path], names: list[str], base_model: Path, tmp_path: Path
):
    runs_dir = tmp_path / "runs"
    result = train("--base-model", base_model, "--dataset", make(tmp_path), runs_dir=runs_dir)

    assert_refused(result, runs_dir, *names)


def test_a_mapping_to_a_column_that_is_not_there_lists_the_columns(
    base_model: Path, data: Path, tmp_path: Path
):
    options = ("--map", "prompt=frage", "--map", "answer=answer")
    runs_dir = tmp_path / "runs"
    result = train("--base-model", base_model, "--dataset", data, *options, runs_dir=runs_dir)

    assert_refused(result, runs_dir, "frage", "question, answer")


def test_bad_lines_are_left_out_and_counted_when_asked(base_model: Path, tmp_path: Path):
    path = write("broken.jsonl", BROKEN_LINES)(tmp_path)
    words = ["preview", "--base-model", str(base_model), "--dataset", str(path), "--json"]
    result = CliRunner().invoke(app, [*words, "--skip-bad-rows", "--set", "max_length=256"])

    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["rows"], shown["kept"], shown["dropped"]) == (26, 24, 2)
    assert [entry["lines"] for entry in shown["dropped_reasons"].values()] == [[7, 26]]


def test_a_base_model_that_does_not_exist_is_named(data: Path, tmp_path: Path):
    runs_dir = tmp_path / "runs"
    result = train("--base-model", tmp_path / "no-model", "--dataset", data, runs_dir=runs_dir)

    assert_refused(result, runs_dir, "no-model")


def test_a_base_model_without_safetensors_is_refused(base_model: Path, data: Path, tmp_path: Path):
    folder = tmp_path / "pickled"
    shutil.copytree(base_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    runs_dir = tmp_path / "runs"
    result = train("--base-model", folder, "--dataset", data, runs_dir=runs_dir)

    assert_refused(result, runs_dir, "pickled", "safetensors")


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", "", "x" * 300])
def test_a_run_name_that_could_leave_the_folder_is_refused(
    name: str, base_model: Path, data: Path, tmp_path: Path
):
    runs_dir = tmp_path / "runs"
    result = train("--base-model", base_model, "--dataset", data, "--name", name, runs_dir=runs_dir)

    assert_refused(result, runs_dir, "name")
    assert not (tmp_path / "elsewhere").exists()


def test_a_runs_folder_that_cannot_be_written_is_named(
    base_model: Path, data: Path, tmp_path: Path
):
    in_the_way = tmp_path / "a-file"
    in_the_way.write_text("not a folder")
    result = train("--base-model", base_model, "--dataset", data, runs_dir=in_the_way / "runs")

    assert result.exit_code == 2
    assert str(in_the_way) in result.stderr
    assert "--runs-dir" in result.stderr
    assert in_the_way.read_text() == "not a folder"


def test_a_disk_without_room_is_refused_before_anything_is_made(
    base_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full = shutil._ntuple_diskusage(total=10**9, used=10**9 - 10**6, free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    runs_dir = tmp_path / "runs"
    result = train("--base-model", base_model, "--dataset", data, runs_dir=runs_dir)

    assert_refused(result, runs_dir, "1 MB free")


def test_all_problems_of_all_kinds_are_told_at_once(base_model: Path, tmp_path: Path):
    bad = write("empty.jsonl", "")(tmp_path)
    options = ("--set", f"max_length={CONTEXT * 2}", "--name", "../x")
    runs_dir = tmp_path / "runs"
    result = train("--base-model", base_model, "--dataset", bad, *options, runs_dir=runs_dir)

    assert_refused(result, runs_dir, "empty.jsonl", "max_length", "../x")
    assert len(result.stderr.strip().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["--dataset", "--preset"]),
        (["--preset", "poetry"], ["poetry", "chatbot"]),
        (["--recipe", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--preset", "code", "--recipe", "a.yaml"], ["--preset", "--recipe"]),
        (["--preset", "code", "--map", "answer"], ["--map answer"]),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_options_that_make_no_recipe_say_so(arguments: list[str], names: list[str], tmp_path: Path):
    result = train(*arguments, runs_dir=tmp_path / "runs")

    assert_refused(result, tmp_path / "runs", *names)


def test_json_has_the_problems_on_stdout_as_well(base_model: Path, tmp_path: Path):
    bad = write("empty.jsonl", "")(tmp_path)
    arguments = ("--base-model", base_model, "--dataset", bad, "--json")
    result = train(*arguments, runs_dir=tmp_path / "runs")

    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["problems"] == [document["error"]]
    assert "empty.jsonl is empty" in document["error"]
    assert document["error"] in result.stderr


def test_rows_that_max_length_empties_are_found_by_training_and_its_run_is_taken_away(
    base_model: Path, data: Path, tmp_path: Path
):
    runs_dir = tmp_path / "runs"
    words = ["train", "--base-model", base_model, "--dataset", data, "--runs-dir", runs_dir]
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *map(str, words), "--set", "max_length=8"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=120,
    )

    assert done.returncode == 2, done.stderr
    assert "max_length=8" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(runs_dir.iterdir()) == []
