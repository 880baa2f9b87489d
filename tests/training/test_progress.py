"""Long work before training tells how far it is: rows, and the bytes of a base model."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.hub_server import MODEL, serving
from tests.tiny_models import tiny_model
from tuner.base_models import download as downloads
from tuner.base_models.lookup import find_base_model
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.events import EventWriter, read_events
from tuner.runs.store import RunStore
from tuner.training import progress as telling
from tuner.training.callbacks import StoppedBeforeTraining, StopRequest
from tuner.training.prepare import fetch_base, prepare
from tuner.training.progress import Progress


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def hub(base, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_HUB_CACHE", cache)
    with serving(Path(shutil.copytree(base, tmp_path / "served")), monkeypatch) as server:
        yield server


@pytest.fixture
def events(tmp_path):
    with EventWriter(tmp_path / "events.jsonl") as events:
        yield events


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr(telling.time, "monotonic", lambda: now[0])
    return now


def told(path: Path) -> list[tuple]:
    """(what, done, total, unit) of each progress event."""
    return [
        (event["what"], event["done"], event["total"], event["unit"])
        for event in read_events(path)[0]
        if event["kind"] == "progress"
    ]


def data(folder: Path, rows: int) -> Path:
    path = folder / "orders.jsonl"
    lines = [{"question": f"Where is {n}?", "answer": f"It left on day {n}."} for n in range(rows)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def create(folder: Path, base: str, rows: int = 48, **settings):
    recipe = make_recipe(
        {
            "base_model": base,
            "dataset": {"source": str(data(folder, rows))},
            "max_length": 64,
            "max_steps": 2,
            "batch_size": 2,
            "dtype": "float32",
        }
        | settings
    )
    return RunStore(folder / "runs").create(recipe)


def test_progress_is_written_about_once_a_second_and_once_more_at_the_end(events, clock, tmp_path):
    with Progress(events, StopRequest(), "Reading a.csv", "rows", 100) as progress:
        for done in range(1, 101):
            clock[0] += 0.03
            progress(done)
    lines = told(tmp_path / "events.jsonl")
    assert [done for _, done, _, _ in lines] == [34, 68, 100]
    assert lines[-1] == ("Reading a.csv", 100, 100, "rows")


def test_work_of_less_than_a_second_is_not_worth_a_word(events, clock, tmp_path):
    with Progress(events, StopRequest(), "Reading a.csv", "rows") as progress:
        progress(1000)
        progress(1200, 1200)
    assert told(tmp_path / "events.jsonl") == []


def test_a_last_word_is_not_said_twice_and_not_of_work_that_failed(events, clock, tmp_path):
    with Progress(events, StopRequest(), "a", "rows", 2, at_once=True) as progress:
        progress(2)

    def fail():
        with Progress(events, StopRequest(), "b", "rows", 9, at_once=True) as progress:
            progress(1)
            progress(2)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert [(what, done) for what, done, _, _ in told(tmp_path / "events.jsonl")] == [
        ("a", 2),
        ("b", 1),
    ]


def test_a_stop_is_answered_in_the_middle_of_long_work(events):
    stop = StopRequest()
    progress = Progress(events, stop, "a", "rows")
    progress(1)
    stop.asked = True
    with pytest.raises(StoppedBeforeTraining):
        progress(2)


def test_reading_and_tokenizing_tell_their_rows(base, tmp_path, monkeypatch):
    monkeypatch.setattr(telling, "EVERY_SECONDS", 0.0)
    run = create(tmp_path, str(base), rows=2500)
    with EventWriter(run.events_path) as events:
        prepared = prepare(run, events, StopRequest(), tmp_path / "tokens")
    lines = told(run.events_path)
    reading = [(done, total) for what, done, total, _ in lines if what.startswith("Reading")]
    assert reading == [(1000, None), (2000, None), (2500, 2500)]
    training = [(done, total) for what, done, total, _ in lines if "training rows" in what]
    rows = prepared.tokens.rows
    assert training == [(1000, rows), (2000, rows), (rows, rows)][: len(training)]
    assert training[-1] == (rows, rows)
    assert {unit for *_, unit in lines} == {"rows"}  # a folder is not downloaded


def test_a_stop_while_tokens_are_made_ends_the_preparation(base, tmp_path, monkeypatch):
    monkeypatch.setattr(telling, "EVERY_SECONDS", 0.0)
    run, stop = create(tmp_path, str(base), rows=2500), StopRequest()
    with EventWriter(run.events_path) as events:
        write = events.write

        def stop_at_tokens(kind, **fields):
            stop.asked = stop.asked or "Tokenizing" in str(fields.get("what"))
            return write(kind, **fields)

        monkeypatch.setattr(events, "write", stop_at_tokens)
        with pytest.raises(StoppedBeforeTraining):
            prepare(run, events, stop, tmp_path / "tokens")
    assert told(run.events_path)[-1][1] == 1000


def test_a_download_tells_its_bytes_up_to_the_last(hub, events, tmp_path, monkeypatch):
    monkeypatch.setattr(telling, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(downloads, "PIECE_BYTES", 10_000)
    hub.piece_seconds = 0.05
    total = sum(path.stat().st_size for path in hub.folder.iterdir())
    fetch_base(find_base_model(MODEL), events, StopRequest())
    lines = told(tmp_path / "events.jsonl")
    done = [done for _, done, _, _ in lines]
    assert {(what, of, unit) for what, _, of, unit in lines} == {
        (f"Downloading {MODEL}", total, "bytes")
    }
    assert (done[0], done[-1]) == (0, total)
    assert done == sorted(done) and len(done) > 3


def test_a_model_that_is_in_the_cache_tells_nothing(hub, events, tmp_path):
    downloads.download(find_base_model(MODEL), lambda *_: None)
    fetch_base(find_base_model(MODEL), events, StopRequest())
    assert told(tmp_path / "events.jsonl") == []


def test_a_stop_ends_a_download(hub, events, tmp_path):
    stop = StopRequest()
    stop.asked = True
    with pytest.raises(StoppedBeforeTraining):
        fetch_base(find_base_model(MODEL), events, stop)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_a_run_downloads_its_base_and_names_it_in_the_adapter(hub, tmp_path):
    run = create(tmp_path, MODEL)
    launch.start(run)
    status = launch.wait(run)
    assert status["state"] == "completed", run.log_path.read_text()[-3000:]
    lines = told(run.events_path)
    assert lines[-1][1] == lines[-1][2] > (hub.folder / "model.safetensors").stat().st_size
    adapter = json.loads((run.adapter_dir / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == MODEL
    assert run.recipe().revision == find_base_model(MODEL).revision
