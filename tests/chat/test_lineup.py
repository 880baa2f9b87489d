"""Who can answer: what is found in a run, a folder or on the Hub, and what is refused."""

import json

import pytest

from tests.chat.runs import adapter_files, kept_run
from tests.hub_server import COMMIT, MODEL, Fault, serving
from tuner.chat.lineup import (
    Lineup,
    base_lineup,
    default_sampling,
    find_lineup,
    joined,
    lineup_of_adapter,
    lineup_of_run,
)
from tuner.chat.voices import Base, Voice
from tuner.errors import ModelError, RunError
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore
from tuner.starter import STARTER_DIR


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def names(lineup):
    return [voice.name for voice in lineup.voices]


def test_a_run_has_its_base_first_then_what_it_kept_then_the_asked_checkpoints(store):
    run = kept_run(store, "support bot", steps=(20, 40, 60))
    lineup = lineup_of_run(run, steps=(60, 20))

    assert names(lineup) == [
        "base",
        "support-bot",
        "support-bot · step 60",
        "support-bot · step 20",
    ]
    assert lineup.voices[1].adapter == str(run.adapter_dir.resolve())
    assert names(lineup_of_run(run)) == ["base", "support-bot"]


def test_the_base_is_held_as_in_training_or_as_asked(store):
    settings = {"revision": "abc", "quantization": "nf4", "dtype": "bfloat16"}
    run = kept_run(store, "bot", **settings, dataset={"system_prompt": "Be Wren."})
    lineup = lineup_of_run(run)

    assert lineup.base == Base("starter", "abc", "nf4", "bfloat16")
    assert lineup.system_prompt == "Be Wren."
    assert lineup_of_run(run, quantization="int8").base.quantization == "int8"


def test_a_run_that_kept_nothing_yet_answers_with_its_last_checkpoint(store):
    run = store.create(make_recipe({}), "bot")
    for step in (20, 100):
        adapter_files(run.checkpoints_dir / f"step-{step}")
    assert names(lineup_of_run(run)) == ["base", "bot · step 100"]


def test_a_full_fine_tune_answers_by_its_model(store):
    run = store.create(make_recipe({"adapter": "none"}), "bot")
    run.model_dir.mkdir()
    (run.model_dir / "config.json").write_text("{}")
    (run.model_dir / "model.safetensors").write_bytes(b"")
    lineup = lineup_of_run(run)

    assert lineup.voices[1] == Voice("bot", model=str(run.model_dir.resolve()))
    assert lineup.base.dtype == "auto"


def test_what_a_run_does_not_have_is_said_with_what_there_is(store):
    run = kept_run(store, "bot", steps=(20, 40))
    with pytest.raises(RunError, match=r"no checkpoint of step 30.*step 20, 40"):
        lineup_of_run(run, steps=(20, 30))

    queued = store.create(make_recipe({}), "later")
    with pytest.raises(RunError, match=r"queued .* Wait for its first checkpoint"):
        lineup_of_run(queued)
    assert names(base_lineup(queued.recipe())) == ["base"]


def test_runs_on_one_base_join_and_others_are_refused(store):
    one, two = kept_run(store, "one"), kept_run(store, "two", quantization="nf4")
    other = kept_run(store, "other", base_model="org/other", revision="abc")
    lineup = joined([lineup_of_run(one), lineup_of_run(two)])

    assert names(lineup) == ["base", "one", "two"]
    assert lineup.base.quantization == "none"
    with pytest.raises(ModelError, match="other is tuned from org/other at abc, and one from st"):
        joined([lineup_of_run(one), lineup_of_run(other)])


def test_a_run_called_base_is_not_confused_with_the_base(store):
    run = kept_run(store, "base")
    assert names(lineup_of_run(run)) == ["base", run.id]


def test_a_name_is_a_run_first_and_then_a_folder(store, tmp_path):
    run = kept_run(store, "bot")
    folder = adapter_files(tmp_path / "elsewhere" / "lora")

    assert find_lineup("bot", store) == lineup_of_run(run)
    found = find_lineup(str(folder), store)
    assert found.base == Base("org/model", None, "none")
    assert found.voices[1] == Voice("lora", adapter=str(folder))
    with pytest.raises(RunError, match="no checkpoints to choose from"):
        find_lineup(str(folder), store, steps=(4,))
    with pytest.raises(RunError, match="There is no run"):
        find_lineup("bott", store)


def test_an_adapter_of_the_built_in_model_finds_it_wherever_it_was_trained(tmp_path):
    elsewhere = "/home/someone/tuner/starter/model"
    for base in (str(STARTER_DIR), elsewhere):
        folder = adapter_files(tmp_path / "lora", base_model_name_or_path=base)
        assert lineup_of_adapter(str(folder)).base.model == "starter"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "type IA3. Only LoRA and DoRA"),
        ({"base_model_name_or_path": None}, "does not name its base"),
        ({"base_model_name_or_path": "/home/x/llama"}, "a folder of the machine where it was"),
    ],
)
def test_an_adapter_that_cannot_answer_is_refused(tmp_path, settings, said):
    folder = adapter_files(tmp_path / "lora", **settings)
    with pytest.raises(ModelError, match=said):
        lineup_of_adapter(str(folder))


def test_a_folder_without_an_adapter_or_with_a_pickle_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no PEFT adapter"):
        lineup_of_adapter(str(tmp_path))
    folder = adapter_files(tmp_path / "lora")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        lineup_of_adapter(str(folder))
    (folder / "adapter_config.json").write_text("[" * 9999)
    with pytest.raises(ModelError, match="no PEFT adapter"):
        lineup_of_adapter(str(folder))


def test_an_adapter_comes_from_the_hub_without_anything_else(tmp_path, monkeypatch):
    folder = adapter_files(tmp_path / "served", revision="r1")
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    with serving(folder, monkeypatch) as hub:
        lineup = lineup_of_adapter(MODEL, token="secret")

    assert lineup.base == Base("org/model", "r1", "none")
    assert names(lineup) == ["base", "tiny-llama"]
    assert lineup.voices[1].adapter.endswith(COMMIT)
    fetched = {asked.path.rpartition("/")[2] for asked in hub.asked if "/resolve/" in asked.path}
    assert fetched == {"adapter_config.json", "adapter_model.safetensors"}
    assert {asked.token for asked in hub.asked} == {"Bearer secret"}


def test_what_the_hub_does_not_have_or_does_not_show_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "config.json").write_text(json.dumps({}))
    with serving(tmp_path / "served", monkeypatch) as hub:
        with pytest.raises(ModelError, match="no PEFT adapter"):
            lineup_of_adapter("org/whole-model")
        hub.faults["/api/models/"] = Fault(401, "GatedRepo")
        with pytest.raises(ModelError, match="is gated"):
            lineup_of_adapter("org/gated")
        hub.faults["/api/models/"] = Fault(503)
        with pytest.raises(ModelError, match="not on this machine, and the Hub is out of order"):
            lineup_of_adapter("org/other")
    with pytest.raises(ModelError, match="There is no folder"):
        lineup_of_adapter("/nowhere/at/all")


def test_sampling_begins_as_the_models_makers_advise(tmp_path):
    advice = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(advice))
    advised = default_sampling(Base(str(tmp_path), None, "none"))

    assert (advised.temperature, advised.top_k, advised.top_p) == (0.6, 20, 1.0)
    assert default_sampling(Base("starter", None, "none")).temperature == 0
    assert default_sampling(Base("org/unknown", None, "none")).temperature == 0.7


def test_joining_one_lineup_changes_nothing():
    lineup = Lineup(Base("a/b", None, "none"), (Voice("base"), Voice("bot", "x")))
    assert joined([lineup]) == lineup
