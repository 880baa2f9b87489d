"""Downloads are what belongs to the run and nothing else."""

import os

import pytest

from tuner.ui.files import download, downloads


@pytest.fixture
def adapter(run):
    run.adapter_dir.mkdir()
    (run.adapter_dir / "adapter_config.json").write_text("{}")
    (run.adapter_dir / "adapter_model.safetensors").write_bytes(os.urandom(3_000_000))
    return run.adapter_dir


def test_a_folder_that_is_a_link_is_no_download(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    run.adapter_dir.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert download(run, "adapter.zip") is None


def test_only_what_is_there_can_be_downloaded(run, adapter):
    names = [found.name for found in downloads(run)]
    assert names == ["adapter.zip", "recipe.yaml"]
    run.write_result({"steps": 3})
    assert "result.json" in [found.name for found in downloads(run)]


@pytest.mark.parametrize(
    "name", ["", "..", "status.json", "../recipe.yaml", "data", "recipe.yaml/", "adapter"]
)
def test_other_names_are_no_download(run, adapter, name):
    assert download(run, name) is None


def test_a_file_that_is_a_link_is_no_download(run, tmp_path):
    (tmp_path / "secret").write_text("secret")
    run.log_path.symlink_to(tmp_path / "secret")
    assert download(run, "train.log") is None


def test_a_size_is_told_once_the_file_no_longer_grows(run, adapter):
    run.events_path.write_bytes(b"x" * 70)
    sizes = {
        state: {found.name: found.size(state) for found in downloads(run)}
        for state in ("running", "completed")
    }
    assert (sizes["running"]["events.jsonl"], sizes["completed"]["events.jsonl"]) == (None, 70)
    assert sizes["running"]["adapter.zip"] == 3_000_002


def test_the_log_is_downloaded_without_secrets(run):
    token = "hf_" + "a1" * 17
    lines = "line\n" * 30_000
    run.log_path.write_text(f"{lines}401 for {token}\n{lines}end")
    text = b"".join(download(run, "train.log").chunks()).decode()
    assert token not in text and "401 for [Hub token]\n" in text
    assert text.count("line\n") == 60_000 and text.endswith("end")
