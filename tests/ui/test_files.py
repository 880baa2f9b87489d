"""Downloads hold what belongs to the run and nothing else, and are never whole in memory."""

import io
import os
import tracemalloc
import zipfile

import pytest

from tuner.ui import files
from tuner.ui.files import download, downloads, members, zip_chunks


@pytest.fixture
def adapter(run):
    run.adapter_dir.mkdir()
    (run.adapter_dir / "adapter_config.json").write_text("{}")
    (run.adapter_dir / "adapter_model.safetensors").write_bytes(os.urandom(3_000_000))
    return run.adapter_dir


def unzipped(folder):
    archive = zipfile.ZipFile(io.BytesIO(b"".join(zip_chunks(folder))))
    assert archive.testzip() is None
    return {name: archive.read(name) for name in archive.namelist()}


def test_a_zip_holds_the_folder_byte_for_byte(adapter):
    (adapter / "sub").mkdir()
    (adapter / "sub" / "ünder.txt").write_text("deep")
    (adapter / "empty").write_bytes(b"")
    assert unzipped(adapter) == {
        "adapter/adapter_config.json": b"{}",
        "adapter/adapter_model.safetensors": (adapter / "adapter_model.safetensors").read_bytes(),
        "adapter/empty": b"",
        "adapter/sub/ünder.txt": b"deep",
    }


def test_an_empty_folder_is_an_empty_zip(adapter):
    for path in adapter.iterdir():
        path.unlink()
    assert unzipped(adapter) == {}


def test_links_pipes_and_an_optimizers_state_stay_out_of_a_zip(adapter, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (adapter / "link.json").symlink_to(secret / "key")
    (adapter / "folder").symlink_to(secret, target_is_directory=True)
    (adapter / "loop").symlink_to(adapter, target_is_directory=True)
    os.mkfifo(adapter / "pipe")
    (adapter / "optimizer.pt").write_bytes(b"state")
    (adapter / "rng_state_0.pth").write_bytes(b"state")
    assert sorted(unzipped(adapter)) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ]


def test_a_file_exchanged_for_a_link_while_the_zip_is_made_breaks_it_off(
    adapter, tmp_path, monkeypatch
):
    (tmp_path / "secret").write_text("secret")
    listed = members(adapter)
    (adapter / "adapter_config.json").unlink()
    (adapter / "adapter_config.json").symlink_to(tmp_path / "secret")
    monkeypatch.setattr(files, "members", lambda _: listed)
    with pytest.raises(OSError, match="symbolic links"):
        b"".join(zip_chunks(adapter))


def test_a_folder_that_is_a_link_is_no_download(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    run.adapter_dir.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert download(run, "adapter.zip") is None


def test_a_zip_takes_little_memory_and_leaves_no_file_behind(adapter, tmp_path):
    with open(adapter / "large", "wb") as file:
        file.truncate(200_000_000)
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    total = sum(len(chunk) for chunk in zip_chunks(adapter))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 200_000_000 and peak < 20_000_000
    assert sorted(tmp_path.rglob("*")) == before


def test_files_beyond_the_limit_of_a_plain_zip_are_whole(adapter, monkeypatch):
    # The limit of 2 GB, lowered: what is larger is written as ZIP64.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1_000_000)
    found = unzipped(adapter)
    assert len(found["adapter/adapter_model.safetensors"]) == 3_000_000


def test_a_file_from_before_the_calendar_of_zips_is_packed(adapter):
    os.utime(adapter / "adapter_config.json", (0, 0))
    assert unzipped(adapter)["adapter/adapter_config.json"] == b"{}"


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
