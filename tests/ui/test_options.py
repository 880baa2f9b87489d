"""How the page is started: the command line over the environment over the defaults."""

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from tuner.ui.options import Options, in_a_space, read_options, size

NAMES = ("SPACE_ID", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "TUNER_RUNS_DIR")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in (*NAMES, "TUNER_MAX_UPLOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_by_default_only_this_machine_can_open_the_page(tmp_path):
    assert read_options([]) == Options(
        host="127.0.0.1",
        port=7860,
        runs_dir=tmp_path / "runs",
        max_upload_bytes=500_000_000,
        share=False,
        mcp=False,
    )


def test_the_environment_is_heard(monkeypatch):
    for name, value in {
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": "7861",
        "TUNER_RUNS_DIR": "/somewhere/runs",
        "TUNER_MAX_UPLOAD": "2gb",
    }.items():
        monkeypatch.setenv(name, value)
    found = read_options([])
    assert (found.host, found.port) == ("0.0.0.0", 7861)
    assert (found.runs_dir, found.max_upload_bytes) == (Path("/somewhere/runs"), 2_000_000_000)


def test_the_command_line_has_the_last_word(monkeypatch, tmp_path):
    for name, value in zip(NAMES, ("a/b", "0.0.0.0", "1", "/elsewhere"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TUNER_MAX_UPLOAD", "1kb")
    arguments = "--host ::1 --port 80 --runs-dir mine --max-upload 3mb --share --mcp".split()
    assert read_options(arguments) == Options("::1", 80, tmp_path / "mine", 3_000_000, True, True)


def test_a_space_listens_to_its_proxy_and_keeps_runs_where_a_restart_leaves_them(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("SPACE_ID", "me/tuner")
    storage = tmp_path / "data"
    monkeypatch.setenv("TUNER_DATA_DIR", str(storage))
    assert in_a_space()
    assert read_options([]).host == "0.0.0.0"
    assert read_options([]).runs_dir == tmp_path / "runs"  # it has no storage
    storage.mkdir()
    assert read_options([]).runs_dir == storage / "runs"
    assert read_options(["--host", "127.0.0.1"]).host == "127.0.0.1"


def test_a_data_folder_outside_a_space_is_somebody_elses(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNER_DATA_DIR", str(tmp_path))
    assert not in_a_space()
    assert read_options([]).runs_dir == tmp_path / "runs"
    assert read_options([]).runs_dir.parent == Path.cwd()


def test_a_home_is_found_and_a_folder_does_not_move_with_the_working_directory(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert read_options(["--runs-dir", "~/runs"]).runs_dir == tmp_path / "home" / "runs"
    assert read_options(["--runs-dir", "here"]).runs_dir.is_absolute()


@pytest.mark.parametrize(
    ("arguments", "is_open"),
    [
        ([], False),
        (["--host", "localhost"], False),
        (["--host", "::1"], False),
        (["--host", "0.0.0.0"], True),
        (["--host", "192.168.1.5"], True),
        (["--share"], True),
    ],
)
def test_a_page_that_others_can_reach_knows_it(arguments, is_open):
    assert read_options(arguments).open_to_others is is_open


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("500mb", 500_000_000),
        (" 1.5 GB ", 1_500_000_000),
        ("10kb", 10_000),
        ("2048", 2048),
        (".5mb", 500_000),
    ],
)
def test_a_size_is_read_as_people_write_it(text, bytes_):
    assert size(text) == bytes_


@pytest.mark.parametrize(
    "text", ["", "mb", "lots", "-5mb", "0", "0.1", "1.2.3mb", ".", "5 tb", "inf", "nan", "9" * 400]
)
def test_what_is_no_size_is_a_sentence(text):
    with pytest.raises(ArgumentTypeError, match=r"is no size; write for example 500mb\.$"):
        size(text)


@pytest.mark.parametrize(
    ("name", "value"), [("GRADIO_SERVER_PORT", "http"), ("TUNER_MAX_UPLOAD", "lots")]
)
def test_an_environment_that_makes_no_sense_is_told_and_not_a_traceback(
    monkeypatch, capsys, name, value
):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        read_options([])
    assert value in capsys.readouterr().err


def test_an_empty_environment_is_none(monkeypatch):
    for name in (*NAMES, "TUNER_MAX_UPLOAD"):
        monkeypatch.setenv(name, "")
    assert read_options([]).port == 7860
    assert not in_a_space()
