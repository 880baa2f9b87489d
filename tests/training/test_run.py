"""Real training processes: a whole run, a kill and its resume, a stop, a broken loss."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_models import tiny_model
from tests.training import forked_runs
from tests.training.forked_runs import train_all
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.events import current_history
from tuner.runs.store import Run, RunStore

PATIENCE = 120.0  # seconds for what takes about ten: the machines are shared


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "orders.jsonl"
    rows = [
        {"question": f"Where is order {n * 37}?", "answer": f"Order {n * 37} left on day {n}."}
        for n in range(48)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def create(root: Path, base: Path, dataset: Path, **settings) -> Run:
    values = {
        "base_model": str(base),
        "dataset": {"source": str(dataset)},
        "max_length": 64,
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 5e-3,
        "max_steps": 8,
        "eval_steps": 2,
        "lora": {"lora_dropout": 0.1},  # so that the random state matters
        "sample_prompts": ["Where is order 74?"],
        "sample_max_new_tokens": 8,
    }
    return RunStore(root).create(make_recipe(values | settings))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE:.0f} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def completed(tmp_path_factory, base, dataset) -> Run:
    """A whole run in a fresh process."""
    run = create(tmp_path_factory.mktemp("runs"), base, dataset)
    launch.start(run)
    assert launch.wait(run)["state"] == "completed", run.log_path.read_text()[-3000:]
    return run


def test_a_run_leaves_an_adapter_that_plain_peft_loads_and_that_changes_the_answers(
    completed, base
):
    model = AutoModelForCausalLM.from_pretrained(base)
    ids = AutoTokenizer.from_pretrained(completed.adapter_dir)(
        "Where is order 74?", return_tensors="pt"
    )
    before = model(**ids).logits
    after = PeftModel.from_pretrained(model, completed.adapter_dir)(**ids).logits

    assert (after - before).abs().max() > 0.01


def test_a_result_holds_the_figures_and_the_proof(completed):
    result = completed.result()

    assert result["state"] == "completed"
    assert result["steps"] == 8
    assert result["eval_loss"] < result["base_eval_loss"]
    assert result["base_weights_unchanged"] is True
    assert result["adapter_reload_max_logit_diff"] < 1e-4
    assert result["adapter_effect_max_logit_diff"] > 0.01
    assert 0 < result["trainable_parameters"] < result["total_parameters"]
    assert result["trained_tokens"] > 0 and result["tokens_per_second"] > 0
    assert result["peak_memory_bytes"] > 0 and result["estimated_memory_bytes"] > 0
    assert result["seconds_to_first_step"] < result["seconds"]
    assert result["versions"]["torch"] == torch.__version__
    assert result["quantized_modules"] == 0


def test_a_finished_runs_recipe_leaves_nothing_to_be_decided(completed):
    recipe = completed.recipe()

    assert "auto" not in recipe.model_dump(exclude={"dataset"}).values()
    assert recipe.dataset.fingerprint == completed.result()["data_fingerprint"]


def test_events_tell_the_whole_run(completed):
    events = completed.events(0)[0]
    of_kind = {
        kind: [e for e in events if e["kind"] == kind] for kind in {e["kind"] for e in events}
    }

    assert [e["step"] for e in of_kind["metric"]] == list(range(1, 9))
    assert [e["step"] for e in of_kind["eval"]] == [0, 2, 4, 6, 8]
    assert [e["step"] for e in of_kind["sample"]] == [0, 2, 4, 6, 8]
    assert [e["step"] for e in of_kind["checkpoint"]] == [2, 4, 6, 8]
    assert [e["state"] for e in of_kind["state"]] == ["preparing", "running", "completed"]
    assert all(e["tokens_per_second"] > 0 and e["grad_norm"] > 0 for e in of_kind["metric"])


def test_the_best_checkpoint_is_what_the_adapter_holds(completed):
    best = min((e["eval_loss"], e["step"]) for e in completed.events(0)[0] if e["kind"] == "eval")

    kept, best_weights = (
        weights(folder)
        for folder in (completed.adapter_dir, completed.checkpoints_dir / f"step-{best[1]}")
    )
    assert completed.result()["kept_step"] == best[1]
    assert all(torch.equal(best_weights[name], value) for name, value in kept.items())


def test_a_run_killed_at_a_checkpoint_and_resumed_ends_with_the_same_weights(
    completed, tmp_path, base, dataset
):
    run = create(tmp_path, base, dataset)
    forked_runs.start(run)
    wait_for(lambda: any(step >= 4 for step, _ in run.checkpoints()), "checkpoint 4")
    os.kill(run.status()["pid"], signal.SIGKILL)
    wait_for(lambda: run.status()["state"] == "interrupted", "noticing the kill")

    forked_runs.start(run, resume=True)
    launch.wait(run)

    assert run.status()["state"] == "completed", run.log_path.read_text()[-3000:]
    again, never_killed = weights(run.adapter_dir), weights(completed.adapter_dir)
    assert all(torch.equal(again[name], value) for name, value in never_killed.items())
    curve = [
        [(e["step"], e["loss"]) for e in current_history(r.events(0)[0]) if e["kind"] == "metric"]
        for r in (run, completed)
    ]
    assert curve[0] == curve[1]
    assert run.result()["trained_tokens"] == completed.result()["trained_tokens"]


def test_a_stop_keeps_a_loadable_adapter_and_marks_the_run_stopped(tmp_path, base, dataset):
    run = create(tmp_path, base, dataset, max_steps=5000, eval_steps=1000)
    forked_runs.start(run)
    wait_for(lambda: (run.status().get("step") or 0) >= 1, "the first step")

    status = launch.stop(run)

    assert status["state"] == "stopped"
    assert 0 < run.result()["steps"] < 5000
    assert run.result()["adapter_effect_max_logit_diff"] > 0
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run.adapter_dir)
    assert run.last_checkpoint() is not None


def test_a_base_whose_loss_is_not_a_number_ends_the_run_before_its_first_step(
    tmp_path, base, dataset
):
    broken = shutil.copytree(base, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    run = create(tmp_path / "runs", broken, dataset)

    train_all([run])

    status = run.status()
    assert status["state"] == "failed"
    assert "not a number" in status["reason"] and "dtype" in status["reason"]
    assert not any(event["kind"] == "metric" for event in run.events(0)[0])


METHODS = {
    "nf4": {"quantization": "nf4"},
    "int8": {"quantization": "int8"},
    "dora": {"adapter": "dora"},
    "full": {"adapter": "none", "learning_rate": 1e-3},
    "packing": {"packing": True},
}


@pytest.fixture(scope="module")
def runs_by_method(tmp_path_factory, base, dataset) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("methods")
    runs = {
        name: create(root, base, dataset, **settings, max_steps=3, eval_steps=3)
        for name, settings in METHODS.items()
    }
    train_all([*runs.values()])
    return runs


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_what_it_saves_is_what_it_trained(method, runs_by_method):
    run, settings = runs_by_method[method], METHODS[method]

    assert run.status()["state"] == "completed", run.log_path.read_text()[-3000:]
    result = run.result()
    assert result["eval_loss"] < result["base_eval_loss"]
    assert result["adapter_effect_max_logit_diff"] > 0
    assert result["adapter_reload_max_logit_diff"] < 1e-3
    assert result["quantized_modules"] == (14 if "quantization" in settings else 0)
    assert result["base_weights_unchanged"] is (None if settings.get("adapter") == "none" else True)
    if settings.get("adapter") == "none":
        assert json.loads((run.model_dir / "config.json").read_text())["use_cache"]
