"""Fetching a model: the real client, a Hub on this machine that takes its time, a real cache."""

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.hub_server import COMMIT, MODEL, Fault
from tuner.base_models import download as downloads
from tuner.base_models.checkpoint import SINGLE
from tuner.base_models.download import Cancelled, FileMeter, download
from tuner.base_models.lookup import find_base_model
from tuner.errors import ModelError
from tuner.starter import STARTER_DIR

TOKEN = "hf_" + "secret" * 6
MB = 1_000_000


@pytest.fixture
def slow_hub(hub, monkeypatch):
    """Serves weights in twenty pieces, and the client takes them as they come."""
    monkeypatch.setattr(downloads, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(downloads, "POLL_SECONDS", 0.02)
    hub.piece_seconds = 0.05
    return hub


def fetch(**given) -> list[tuple[int, int]]:
    """Download the model and return what its progress said."""
    said = []
    download(find_base_model(MODEL), lambda *numbers: said.append(numbers), **given)
    return said


def refusal() -> str:
    base = find_base_model(MODEL)
    with pytest.raises(ModelError) as error:
        download(base, lambda *_: None, TOKEN)
    [problem] = error.value.problems
    assert "\n" not in problem and TOKEN not in problem
    return problem


def paths(hub) -> list[str]:
    return [asked.path for asked in hub.asked]


def test_bytes_grow_to_the_size_of_all_files(slow_hub):
    total = sum(path.stat().st_size for path in slow_hub.folder.iterdir())
    said = fetch()
    assert {of for _, of in said} == {total}
    done = [bytes_ for bytes_, _ in said]
    assert (done[0], done[-1]) == (0, total)
    assert done == sorted(done) and len(set(done)) > 5


def test_a_downloaded_model_loads_without_the_hub(hub, monkeypatch):
    fetch()
    hub.close()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    AutoModelForCausalLM.from_pretrained(MODEL, revision=COMMIT)
    assert AutoTokenizer.from_pretrained(MODEL, revision=COMMIT).chat_template


def test_what_is_not_loaded_is_not_fetched_and_a_pickle_never(hub, cache):
    others = ["pytorch_model.bin", "consolidated.safetensors", "README.md", "modeling_x.py", "o.pt"]
    for name in others:
        (hub.folder / name).write_bytes(b"x" * 99)
    fetch()
    assert not [path for path in paths(hub) if path.endswith(tuple(others))]
    assert {path.name for path in cache.glob("models--*/snapshots/*/*")} == {
        path.name for path in hub.folder.iterdir() if path.name not in others
    }


def test_shards_and_their_index_are_fetched(hub, llama, cache):
    (hub.folder / SINGLE).unlink()
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(hub.folder, max_shard_size="80KB")
    said = fetch()
    assert said[-1][0] == said[-1][1] > 4 * 80_000
    fetched = {path.name for path in cache.glob("models--*/snapshots/*/*")}
    assert fetched == {path.name for path in hub.folder.iterdir()}


def test_a_model_that_is_here_says_nothing_and_costs_one_question(hub):
    fetch()
    base = find_base_model(MODEL)
    hub.asked.clear()
    download(base, lambda *_: pytest.fail("it is here already"))
    assert paths(hub) == [f"/api/models/{MODEL}/revision/{COMMIT}?blobs=true"]


def test_of_a_model_that_is_here_in_part_the_rest_is_fetched(hub, cache):
    fetch()
    for path in cache.glob(f"models--*/snapshots/*/{SINGLE}"):
        path.resolve().unlink()
        path.unlink()
    said = fetch()
    assert said[-1] == ((hub.folder / SINGLE).stat().st_size,) * 2


@pytest.mark.parametrize("name", ["starter", str(STARTER_DIR)])
def test_a_folder_needs_nothing_from_the_hub(hub, name):
    download(find_base_model(name), lambda *_: pytest.fail("nothing is missing"))
    assert hub.asked == []


def test_offline_nobody_is_asked(hub, monkeypatch):
    fetch()
    hub.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch() == []
    assert hub.asked == []


def test_a_hub_that_went_away_leaves_what_was_downloaded_before(hub):
    fetch()
    base = find_base_model(MODEL)
    hub.close()
    download(base, lambda *_: pytest.fail("nothing can come"))


def test_a_hub_that_went_away_with_nothing_here_is_a_sentence(hub):
    base = find_base_model(MODEL)
    hub.close()
    with pytest.raises(ModelError) as error:
        download(base, lambda *_: None)
    assert str(error.value) == (
        f"{MODEL} could not be downloaded: the Hub cannot be reached (ConnectError). Connect to "
        "the internet, and start again: files that are complete are kept."
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(403, "GatedRepo"), f"{MODEL} is gated: its authors want their licence"),
        (Fault(401, message="Invalid credentials"), f"does not let this account read {MODEL}"),
        (Fault(403), f"The Hub does not let this account read {MODEL} (403)"),
    ],
)
def test_weights_that_are_refused_are_a_sentence(hub, monkeypatch, fault, said):
    base = find_base_model(MODEL)
    hub.faults = {SINGLE: fault}
    with pytest.raises(ModelError) as error:
        download(base, lambda *_: None, TOKEN)
    assert said in str(error.value) and TOKEN not in str(error.value)


def test_a_hub_that_hangs_is_not_waited_for(hub, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    base = find_base_model(MODEL)
    hub.faults = {"/api/": Fault(hangs=True)}
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot be reached \(ReadTimeout\)"):
        download(base, lambda *_: None)
    assert time.monotonic() - start < 5


def test_a_disk_without_room_is_refused_before_the_first_byte(hub, cache, monkeypatch):
    free = SimpleNamespace(total=9 * MB, used=9 * MB, free=0)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: free)
    said = refusal()
    assert f"the disk of {cache} has 0.0 GB free. Free some room, or set HF_HOME" in said
    assert not list(cache.glob("models--*/blobs/*"))


def test_a_disk_that_is_full_meanwhile_is_a_sentence(hub, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    assert refusal().startswith(f"{MODEL} could not be downloaded: the disk is full. Free some")


def test_a_token_goes_with_every_request(hub):
    base = find_base_model(MODEL, token=TOKEN)
    download(base, lambda *_: None, TOKEN)
    assert {asked.token for asked in hub.asked} == {f"Bearer {TOKEN}"}


def test_what_the_progress_raises_ends_the_download_at_once_and_leaves_no_torn_file(
    slow_hub, cache
):
    class Stopped(Exception):
        pass

    def stop(done, total):
        if done > total / 5:
            raise Stopped

    base = find_base_model(MODEL)
    slow_hub.piece_seconds = 0.3  # six seconds in all
    start = time.monotonic()
    with pytest.raises(Stopped):
        download(base, stop)
    assert time.monotonic() - start < 4.5
    assert not list(cache.rglob("*.incomplete"))
    assert not list(cache.glob(f"models--*/snapshots/*/{SINGLE}"))
    slow_hub.piece_seconds = 0
    assert fetch()[-1][0] > 0  # the next one starts afresh


def xet_report(written: int, received: int) -> SimpleNamespace:
    return SimpleNamespace(
        total_bytes=10 * MB,
        total_bytes_completed=written,
        total_bytes_completion_rate=None,
        total_transfer_bytes_completed=received,
        total_transfer_bytes_completion_rate=None,
    )


def test_with_xet_the_bytes_received_count_until_they_are_written():
    meter = FileMeter(10 * MB)
    options = {"total": 10 * MB, "log_level": 30, "tqdm_class": meter}
    with XetDownloadProgressReporter(reconstruction_desc="", **options) as reporter:
        done = []
        for written, received in [(0, 0), (0, 3 * MB), (8 * MB, 4 * MB), (10 * MB, 12 * MB)]:
            reporter.update_progress(xet_report(written, received))
            done.append(meter.done)
        assert done == [0, 3 * MB, 8 * MB, 10 * MB]
        meter.cancelled = True
        reporter.update_progress(xet_report(10 * MB, 13 * MB))  # not its thread's to raise


def test_a_cancelled_file_does_not_begin():
    meter = FileMeter(MB)
    meter.cancelled = True
    with pytest.raises(Cancelled):
        meter(total=MB)


def test_a_copy_in_the_cache_that_another_process_made_counts_as_here(hub, cache, tmp_path):
    fetch()
    snapshot = next(cache.glob("models--*/snapshots/*"))
    shutil.rmtree(snapshot)  # its blobs stay: they are linked, and no byte comes
    said = fetch()
    assert said[-1][0] == said[-1][1] > 0
    assert Path(snapshot, SINGLE).exists()
