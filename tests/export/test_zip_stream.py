"""A zip holds what is in the folder and nothing else, and is never whole in memory."""

import io
import os
import tracemalloc
import zipfile

import pytest

from tuner.export import zip_stream
from tuner.export.zip_stream import members, zip_chunks


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(3_000_000))
    return folder


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
    monkeypatch.setattr(zip_stream, "members", lambda _: listed)
    with pytest.raises(OSError, match="symbolic links"):
        b"".join(zip_chunks(adapter))


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
