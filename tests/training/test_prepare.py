"""What is done before the model is loaded: beside it where it can be, and not twice."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.hub_server import MODEL, serving
from tests.tiny_models import tiny_model
from tests.training.forked_runs import train_all
from tuner.base_models import download as downloads
from tuner.base_models.lookup import find_base_model
from tuner.data.data_report import load_report
from tuner.data.preview import PreviewedData
from tuner.data.tokenizer import load_tokenizer
from tuner.errors import DatasetError, RecipeError
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter, read_events
from tuner.runs.run import Run
from tuner.runs.store import RunStore
from tuner.training.callbacks import StopRequest
from tuner.training.prepare import Prepared, is_on_this_disk, prepare

ROWS = [{"question": f"Where is order {n}?", "answer": f"It left on day {n}."} for n in range(40)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def hub(base, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)
    with serving(Path(shutil.copytree(base, tmp_path / "served")), monkeypatch) as server:
        yield server


def create(folder: Path, base: str, rows: list[dict] = ROWS, **settings) -> Run:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"base_model": base, "dataset": {"source": str(path)}, "max_length": 64}
    return RunStore(folder / "runs").create(make_recipe(values | settings))


def prepared(run: Run, base_known=None) -> Prepared:
    with EventWriter(run.events_path) as events:
        tokens_dir = run.data_dir / "tokens"
        return prepare(run, events, StopRequest(), tokens_dir, base_known=base_known)


def test_the_base_is_made_known_before_any_row_is_read(base, tmp_path):
    run = create(tmp_path, str(base))
    known = []
    prepared(run, lambda recipe, found: known.append((recipe, found, load_report(run.data_dir))))
    [(recipe, found, report)] = known
    assert (recipe.base_model, found.folder, report) == (str(base), base, None)


def test_a_base_that_must_be_downloaded_is_not_made_known_and_one_in_the_cache_is(hub, tmp_path):
    known = []
    prepared(create(tmp_path, MODEL), lambda _, found: known.append(found))
    assert known == []
    assert is_on_this_disk(find_base_model(MODEL))
    prepared(create(tmp_path, MODEL), lambda _, found: known.append(found))
    assert [found.name for found in known] == [MODEL]


def test_a_cache_that_lacks_a_file_of_weights_is_not_on_this_disk(hub, tmp_path):
    found = find_base_model(MODEL)
    downloads.download(found, lambda *_: None)
    [weights] = (tmp_path / "cache").rglob("model.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": weights.name}}
    assert is_on_this_disk(found)
    weights.rename(weights.with_name("model-00001-of-00002.safetensors"))
    weights.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_on_this_disk(found)


def test_a_base_that_cannot_train_so_is_not_made_known(base, tmp_path):
    known = []
    with pytest.raises(RecipeError, match="max_length"):
        prepared(create(tmp_path, str(base), max_length=100_000), known.append)
    assert known == []


def test_what_a_loader_raises_at_once_ends_the_preparation(base, tmp_path):
    def fail(*_):
        raise DatasetError("no room")

    with pytest.raises(DatasetError, match="no room"):
        prepared(create(tmp_path, str(base)), fail)


def hand_over(run: Run) -> None:
    recipe = run.recipe()
    data = PreviewedData(recipe, load_tokenizer(recipe.base_model))
    data.hand_over(run.data_dir)
    data.close()


def test_a_run_with_what_the_preview_made_has_the_same_rows_tokens_and_recipe(base, tmp_path):
    rows = [*ROWS, {"question": "Why? " * 90, "answer": "So."}, {"question": "?", "answer": ""}]
    plain, given = (create(tmp_path, str(base), rows) for _ in range(2))
    hand_over(given)
    one, other = prepared(plain), prepared(given)
    assert other.train.to_list() == one.train.to_list()
    assert other.evaluation.to_list() == one.evaluation.to_list()
    assert other.tokens == one.tokens
    assert given.recipe() == plain.recipe()
    for name in ("train.jsonl", "eval.jsonl", "report.json"):
        assert (given.data_dir / name).read_bytes() == (plain.data_dir / name).read_bytes()
    warnings = [
        [
            event["message"]
            for event in read_events(run.events_path)[0]
            if event["kind"] == "warning"
        ]
        for run in (plain, given)
    ]
    assert warnings[0] == warnings[1] != []
    work = [event["what"] for event in read_events(given.events_path)[0] if "what" in event]
    assert work == [], "Nothing was read or tokenized again."


def test_a_run_whose_handed_over_tokens_are_broken_makes_its_own(base, tmp_path):
    plain, given = (create(tmp_path, str(base)) for _ in range(2))
    hand_over(given)
    tokens = given.data_dir / "tokens" / "train.arrow"
    tokens.unlink()
    tokens.write_bytes(b"half of it")
    assert prepared(given).train.to_list() == prepared(plain).train.to_list()


def test_the_tokens_that_were_handed_over_go_when_the_run_ends(base, tmp_path):
    run = create(tmp_path, str(base), max_steps=1, batch_size=2, sample_prompts=[])
    hand_over(run)
    train_all([run])
    assert run.status()["state"] == "completed", run.log_path.read_text()[-3000:]
    assert not (run.data_dir / "tokens").exists()
    assert any("preview" in str(event.get("message")) for event in read_events(run.events_path)[0])
