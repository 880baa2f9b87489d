"""`python -m tuner chat`: what it prints and its exit codes; once with a model, else without."""

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.chat.engines import ECHO, answers_as
from tests.chat.runs import adapter_files, kept_run
from tests.chat.tuned import save_adapter
from tests.tiny_models import tiny_model
from tuner.cli import app
from tuner.cli.panes import Panes, columns, display_width
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore

REPOSITORY = Path(__file__).parents[1]

# The command with an engine that repeats the question.
CHAT = """
import sys
import tuner.chat.client
tuner.chat.client.command = lambda idle: [sys.executable, "-c", sys.argv[1], str(idle)]
from tuner.cli import app
app(sys.argv[2:], prog_name="tuner")
"""


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def chat(store, monkeypatch, tmp_path):
    """Run the command with an engine that repeats the question; returns what click found."""
    answers_as(monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where a failure leaves its log
    kept_run(store, "bot", steps=(20, 40), dataset={"system_prompt": "Be Wren."})
    runner = CliRunner(env={"TUNER_RUNS_DIR": str(store.root)})

    def run(*words, code=0, **options):
        result = runner.invoke(app, ["chat", *words], **options)
        assert result.exit_code == code, result.output
        return result

    return run


def test_a_run_answers_in_json_base_first_by_the_real_engine(tmp_path):
    base = tiny_model(tmp_path)
    store = RunStore(tmp_path / "runs")
    run = store.create(make_recipe({"base_model": str(base), "dtype": "float32"}), "bot")
    save_adapter(base, run.adapter_dir)
    command = [sys.executable, "-m", "tuner", "chat", "bot", "--prompt", "Hello", "--json"]
    done = subprocess.run(
        [*command, "--temperature", "0", "--max-new-tokens", "5", "--seed", "3"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"TUNER_RUNS_DIR": str(store.root), "PYTHONPATH": str(REPOSITORY)},
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document.keys() == {"prompt", "answers"}
    assert [answer["name"] for answer in document["answers"]] == ["base", "bot"]
    assert all(
        answer.keys() == {"name", "text", "tokens", "seconds"} for answer in document["answers"]
    )
    assert all(0 < answer["tokens"] <= 5 for answer in document["answers"])
    assert document["answers"][0]["text"] != document["answers"][1]["text"]


def test_one_prompt_prints_one_answer_under_the_other(chat):
    result = chat("bot", "--prompt", "one two", "--checkpoint", "40")
    assert result.stdout == "── base\none two \n── bot\none two \n── bot · step 40\none two \n"
    assert "Loading starter" in result.stderr


def test_base_only_asks_the_base_alone_even_before_training(chat, store):
    store.create(make_recipe({}), "later")
    answers = json.loads(chat("later", "--base-only", "--prompt", "Hi", "--json").stdout)["answers"]
    assert [answer["name"] for answer in answers] == ["base"]


def test_other_runs_answer_beside(chat, store):
    kept_run(store, "second")
    result = chat("bot", "--with", "second", "--prompt", "Hi", "--json")
    names = [answer["name"] for answer in json.loads(result.stdout)["answers"]]
    assert names == ["base", "bot", "second"]


def test_several_questions_come_from_stdin_until_it_ends_or_quit(chat):
    result = chat("bot", input="one\n\ntwo\n/quit\nthree\n")
    assert result.stdout.count("── base\n") == 2
    assert "three" not in result.stdout


def test_each_voice_remembers_what_it_said(chat, monkeypatch):
    asked = []

    def generate(self, base, rows, request=None):
        asked.append(rows)
        for number, row in enumerate(rows):
            text = f"I am {row.voice.name}"
            yield {
                "row": number,
                "text": text,
                "done": True,
                "tokens": 3,
                "seconds": 1.0,
                "note": "",
            }

    monkeypatch.setattr("tuner.chat.client.ChatClient.generate", generate)
    chat("bot", "--seed", "5", "--temperature", "0.5", input="one\ntwo\n")

    first, second = asked
    assert [message["role"] for message in first[1].messages] == ["system", "user"]
    assert [message["content"] for message in second[1].messages] == [
        "Be Wren.",
        "one",
        "I am bot",
        "two",
    ]
    assert second[0].messages[2]["content"] == "I am base"
    assert {(row.sampling.seed, row.sampling.temperature) for row in second} == {(5, 0.5)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bot", "--json"], "--prompt"),
        (["nobody", "--prompt", "Hi"], "There is no run"),
        (["bot", "--checkpoint", "30", "--prompt", "Hi"], "no checkpoint of step 30"),
        (["bot", "--temperature", "-1", "--prompt", "Hi"], "--temperature"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(chat, words, said):
    assert said in chat(*words, code=2).stderr


def test_an_engine_that_dies_is_a_sentence_and_exit_code_1(chat):
    result = chat("bot", "--prompt", "die", "--json", code=1)
    assert "ended unexpectedly" in json.loads(result.stdout)["error"]
    assert "The engine's log is" in result.stderr


def test_a_question_that_fails_in_a_talk_is_taken_back_and_the_next_works(chat):
    result = chat("bot", input="memory\nHello\n")
    assert "Memory ran out" in result.stderr
    assert "Hello" in result.stdout


def test_an_adapter_that_is_no_run_answers_too(chat, tmp_path):
    folder = adapter_files(tmp_path / "lora")
    result = chat(str(folder), "--prompt", "Hi", "--json")
    names = [answer["name"] for answer in json.loads(result.stdout)["answers"]]
    assert names == ["base", "lora"]


def test_ctrl_c_in_a_terminal_ends_the_answer_and_not_the_talk(store):
    kept_run(store, "bot")
    pid, terminal = pty.fork()
    if not pid:
        os.environ.update(TUNER_RUNS_DIR=str(store.root), PYTHONPATH=str(REPOSITORY), COLUMNS="100")
        os.execv(sys.executable, [sys.executable, "-c", CHAT, ECHO, "chat", "bot"])
    try:
        wait_for(terminal, "\n> ")
        os.write(terminal, b"0.05 " + b"slow " * 200 + b"\n")
        wait_for(terminal, "│ 0.05 slow")
        os.write(terminal, b"\x03")
        wait_for(terminal, "The answer was ended.")
        os.write(terminal, b"quick\n")
        wait_for(terminal, r"quick +│ quick")
        os.write(terminal, b"/quit\n")
        wait_for(terminal, "$^")  # until it ends
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)  # hangs up, if it is there still


def wait_for(terminal, pattern, seconds=20):
    """Read a terminal until a pattern is there, or until its program ends."""
    text, end = "", time.monotonic() + seconds
    while not re.search(pattern, text):
        assert time.monotonic() < end, text[-500:]
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                text += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                return


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_wide_terminal_has_the_answers_side_by_side(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    panes = Panes(stream, ["base", "bot"])
    panes.add(1, "Second. ", False)
    panes.add(0, "First.", True)
    panes.close()

    last = stream.getvalue().rpartition("\x1b[J")[2].splitlines()
    assert [line.split("│")[1].strip() for line in last] == ["bot", "─" * 48, "Second."]
    assert last[2].startswith("First.")


def test_a_narrow_terminal_has_them_one_under_the_other(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    panes = Panes(stream, ["base", "bot"])
    for row, text, done in ((0, "a", False), (1, "x", False), (0, "b", True), (1, "y", True)):
        panes.add(row, text, done)
    panes.close()
    assert stream.getvalue() == "── base\nab\n── bot\nxy\n"


def test_a_model_cannot_command_the_terminal():
    stream = io.StringIO()
    panes = Panes(stream, ["base"])
    panes.add(0, "a\x1b]0;title\x07b\r\x9b2J", True)
    panes.close()
    assert stream.getvalue() == "a]0;titleb2J\n"


@pytest.mark.parametrize(
    "text", ["one two three four five six", "x" * 50, "中文" * 20, "  indented\n\n  code", ""]
)
def test_columns_keep_every_letter_and_their_width(text):
    lines = columns(["a", "b"], [text, text], 10)
    left, right = zip(
        *((f"{line} │ " if "│" not in line else line).split("│")[:2] for line in lines), strict=True
    )
    assert all(display_width(cell.strip()) <= 10 for cell in (*left, *right))
    assert "".join("".join(left[2:]).split()) == "".join(text.split())
