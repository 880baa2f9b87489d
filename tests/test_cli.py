"""The command line from outside: what it prints, its exit codes, and what it leaves on disk."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.tiny_models import tiny_model
from tuner.cli import app
from tuner.cli.progress import CLEAR_LINE, Progress
from tuner.cli.recipe_options import RecipeOptions, recipe_from_options
from tuner.data.sources import PROJECT_ROOT
from tuner.recipe import to_yaml

ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"It is {n + n}."} for n in range(24)]
TINY = ("--set", "max_length=128", "--set", "batch_size=4", "--set", "eval_fraction=0.2")


class Shell:
    """Runs commands as a person does, in a folder with a base model, data and a runs folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.runs_dir = folder / "runs"
        self.base_model = tiny_model(folder)
        (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(PROJECT_ROOT),
            "TUNER_RUNS_DIR": str(self.runs_dir),
            "HF_HUB_OFFLINE": "1",
        }

    @property
    def recipe(self) -> list[str]:
        return ["--base-model", str(self.base_model), "--dataset", "sums.jsonl", *TINY]

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tuner", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=180)
        assert process.returncode == code, err
        assert "Traceback" not in err
        return out, err

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code)[0])

    def wait_for_step(self, run: str, step: int) -> None:
        until = time.monotonic() + 120
        while self.json("show", run)["status"]["step"] < step:
            assert time.monotonic() < until
            time.sleep(0.5)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("shell"))


@pytest.fixture(scope="module")
def trained(shell: Shell) -> tuple[Any, str]:
    """A run of four steps in the foreground: its document and what was said meanwhile."""
    options = ("--name", "sums", "--set", "max_steps=4", "--set", 'sample_prompts=["What is 2?"]')
    out, err = shell.run("train", *shell.recipe, *options, "--json")
    return json.loads(out), err


def test_train_tells_its_progress_and_answers_with_the_result(trained: tuple[Any, str]):
    document, said = trained

    assert document.keys() == {"run", "dir", "state", "result"}
    assert document["state"] == "completed"
    assert document["result"]["steps"] == 4
    assert "step 4 of 4   loss " in said
    assert "tokens/s" in said


def test_train_writes_the_run_directory_of_the_design(trained: tuple[Any, str]):
    folder = Path(trained[0]["dir"])

    names = {path.name for path in folder.iterdir()}
    assert names >= {"recipe.yaml", "data", "status.json", "events.jsonl", "train.log"}
    assert names >= {"checkpoints", "adapter", "result.json"}
    assert (folder / "checkpoints" / "step-4").is_dir()
    assert json.loads((folder / "result.json").read_text()) == trained[0]["result"]


def test_runs_and_show_tell_of_a_run_by_its_name(shell: Shell, trained: tuple[Any, str]):
    rows = shell.json("runs")
    shown = shell.json("show", "sums")

    row = next(row for row in rows if row["run"] == trained[0]["run"])
    assert row["state"] == shown["status"]["state"] == "completed"
    assert row["steps"] == 4
    assert row.keys() >= {"preset", "base_model", "created", "eval_loss"}
    assert shown["recipe"]["max_steps"] == 4
    assert shown["result"] == trained[0]["result"]
    assert shown["events"][-1]["kind"] == "state"


def test_show_compares_an_answer_before_and_after(shell: Shell, trained: tuple[Any, str]):
    out, _ = shell.run("show", "sums")

    assert "4 steps" in out
    assert "before: " in out and "after:  " in out
    assert str(Path(trained[0]["dir"]) / "adapter") in out


def test_a_completed_run_cannot_be_resumed_or_stopped(shell: Shell, trained: tuple[Any, str]):
    assert "completed" in shell.run("resume", "sums", code=2)[1]
    assert "completed" in shell.run("stop", "sums", code=2)[1]


@pytest.fixture(scope="module")
def stopped(shell: Shell) -> tuple[str, Any]:
    """A detached run that was stopped: its id and the answer of `stop`."""
    options = ("--name", "long", "--set", "max_steps=100000", "--set", "eval_steps=100000")
    begun = shell.json("train", *shell.recipe, *options, "--detach")
    shell.wait_for_step(begun["run"], 2)
    return begun["run"], shell.json("stop", "long")


def test_detach_returns_at_once_and_stop_keeps_the_adapter(shell: Shell, stopped: tuple[str, Any]):
    run, answer = stopped

    assert answer["state"] == "stopped"
    folder = shell.runs_dir / run
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    assert json.loads((folder / "status.json").read_text())["state"] == "stopped"


def test_interrupting_a_resumed_run_in_the_foreground_stops_it_with_exit_code_3(
    shell: Shell, stopped: tuple[str, Any]
):
    run, _ = stopped
    before = shell.json("show", run)["status"]["step"]
    process = shell.start("resume", run, "--json")
    shell.wait_for_step(run, before + 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 3, err
    document = json.loads(out)
    assert document["state"] == "stopped"
    assert document["result"]["steps"] > before
    assert "the adapter is kept" in err
    assert shell.json("show", run)["status"]["resumed_from"] == before


def test_delete_asks_and_then_takes_the_whole_folder(shell: Shell, stopped: tuple[str, Any]):
    run, _ = stopped
    runner = CliRunner(env={"TUNER_RUNS_DIR": str(shell.runs_dir)})

    assert runner.invoke(app, ["delete", run], input="n\n").exit_code == 1
    assert runner.invoke(app, ["delete", run, "--json"]).exit_code == 2
    assert (shell.runs_dir / run).is_dir()
    assert runner.invoke(app, ["delete", run], input="y\n").exit_code == 0
    assert not (shell.runs_dir / run).exists()
    assert "There is no run" in runner.invoke(app, ["show", run]).stderr


def test_dry_run_checks_estimates_and_creates_nothing(shell: Shell, tmp_path: Path):
    runs_dir = tmp_path / "not-made"
    document = shell.json("train", *shell.recipe, "--dry-run", "--runs-dir", str(runs_dir))

    assert document["recipe"]["max_length"] == 128
    assert document["estimate"]["fits"] is True
    assert list(tmp_path.iterdir()) == []


def test_estimate_has_the_figures_that_decide(shell: Shell):
    figures = shell.json("estimate", *shell.recipe, "--set", "r=4")

    assert figures["fits"] is True
    assert 0 < figures["estimated_memory_bytes"] < figures["available_memory_bytes"]
    assert 0 < figures["trainable_parameters"] < figures["total_parameters"]
    assert sum(figures["breakdown"].values()) == figures["estimated_memory_bytes"]
    assert figures["estimated_seconds"] > 0


def test_preview_shows_the_tokens_that_train(shell: Shell):
    shown = shell.json("preview", *shell.recipe, "--rows", "2")

    assert (shown["rows"], shown["kept"], shown["truncated"], shown["dropped"]) == (24, 24, 0, 0)
    assert len(shown["examples"]) == 2
    tokens = shown["examples"][0]["tokens"]
    trained = "".join(token["text"] for token in tokens if token["trained"])
    assert trained == "It is 0.<|im_end|>"


def test_preview_marks_the_answer_in_text(shell: Shell):
    out, _ = shell.run("preview", *shell.recipe, "--row", "3")

    assert "▕It is 4.<|im_end|>▏" in out
    assert "stop token <|im_end|>" in out
    assert "24 rows · 24 kept" in out


def test_options_win_over_the_preset_and_set_wins_over_options():
    options = RecipeOptions(
        preset="code",
        dataset="other.jsonl",
        base_model="some/model",
        settings=["base_model=starter", "r=8", "max_steps=60"],
    )
    recipe = recipe_from_options(options)

    assert recipe.preset == "code"
    assert recipe.dataset.source == "other.jsonl"
    assert (recipe.base_model, recipe.lora.r, recipe.max_steps) == ("starter", 8, 60)


def test_another_dataset_keeps_the_system_prompt_and_drops_the_mapping(tmp_path: Path):
    own = recipe_from_options(
        RecipeOptions(
            dataset="mine.csv",
            columns=["prompt=q", "answer=a"],
            settings=["dataset.system_prompt=Be brief.", "dataset.max_rows=10"],
        )
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(own))
    other = recipe_from_options(
        RecipeOptions(recipe_file=path, dataset="other.csv", columns=["prompt=x", "prompt=y,z"])
    )

    assert other.dataset.source == "other.csv"
    assert other.dataset.columns == {"prompt": "x,y,z"}
    assert other.dataset.system_prompt == "Be brief."
    assert other.dataset.max_rows == 10


def test_paths_in_a_recipe_hold_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("a,b\n")
    recipe = recipe_from_options(RecipeOptions(dataset="rows.csv", base_model="org/model"))

    assert recipe.dataset.source == str(tmp_path / "rows.csv")
    assert recipe.base_model == "org/model"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def metric(step: int) -> dict[str, Any]:
    return {
        "kind": "metric",
        "step": step,
        "max_steps": 9,
        "loss": 2.0,
        "tokens_per_second": 100.0,
        "eta_seconds": 60.0,
    }


def test_progress_rewrites_one_line_in_a_terminal_and_keeps_what_was_said():
    stream = Terminal()
    progress = Progress(stream)
    for event in (metric(1), metric(2), {"kind": "eval", "step": 2, "eval_loss": 1.5}, metric(3)):
        progress(event)
    progress.close()

    written = stream.getvalue()
    assert written.count(CLEAR_LINE) == 3
    assert written.count("\n") == 3
    assert "step 2   eval loss 1.50\n" in written


def test_progress_tells_a_step_now_and_then_and_the_last_one_in_a_file():
    stream = io.StringIO()
    progress = Progress(stream)
    for step in range(1, 10):
        progress(metric(step))

    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1", "9"]
