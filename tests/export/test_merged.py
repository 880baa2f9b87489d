"""Merged weights compute what base and adapter compute, need no peft, and are whole or absent."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.chat.tuned import save_adapter
from tests.tiny_models import CHAT_TEMPLATE, tiny_model
from tuner.errors import ExportError, ModelError, RunError
from tuner.export import merged
from tuner.export.merge import steps
from tuner.export.merged import merge_run
from tuner.recipe import make_recipe
from tuner.runs.store import Run, RunStore
from tuner.starter import STARTER_DIR

NUMBERS = count(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("store") / "runs")


@pytest.fixture(scope="module")
def tuned(store, base) -> Run:
    """A run with an adapter; tests that change it copy it."""
    return make_run(store, base, r=4)


def make_run(store: RunStore, base: Path, recipe: dict | None = None, **adapter) -> Run:
    run = store.create(
        make_recipe({"base_model": str(base), **(recipe or {})}), f"r{next(NUMBERS)}"
    )
    save_adapter(base, run.adapter_dir, **adapter)
    run.update_status(state="completed")
    return run


def merge_here(run: Run, out: Path) -> tuple[dict, list[dict]]:
    """Merge in this process, which has torch imported already; the result and what was told."""
    told: list[dict] = []
    return steps.merge(run, out, lambda message: told.append(dict(message))), told


def load(folder: Path, dtype: torch.dtype | str = "auto"):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def merged_by_peft(base: Path, run: Run, dtype: torch.dtype):
    """The base as 16 bits hold it, the adapter merged in float32, rounded once."""
    model = PeftModel.from_pretrained(load(base, dtype).float(), run.adapter_dir)
    return model.merge_and_unload(safe_merge=True).to(dtype)


@pytest.mark.parametrize(
    ("recipe", "adapter"),
    [
        ({"quantization": "nf4"}, {"r": 4, "lora_alpha": 16}),
        (
            {"quantization": "int8"},
            {"r": 4, "use_rslora": True, "target_modules": ["q_proj", "up_proj"]},
        ),
        ({"adapter": "dora"}, {"r": 4, "use_dora": True}),
    ],
    ids=["qlora", "int8-rslora", "dora"],
)
def test_merged_weights_are_those_of_the_16_bit_base_and_the_adapter(
    store, base, tmp_path, recipe, adapter
):
    run = make_run(store, base, recipe, **adapter)
    done, _ = merge_here(run, tmp_path / "out")
    written = load(tmp_path / "out")
    expected = merged_by_peft(base, run, torch.bfloat16).state_dict()
    assert written.dtype == torch.bfloat16
    assert "quantization_config" not in written.config.to_dict()
    for name, weight in written.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    assert done["logits_difference"] < 0.02 < done["tolerance"] < done["adapter_effect"]


def test_a_float16_base_stays_float16(store, tmp_path):
    base = tiny_model(tmp_path, dtype=torch.float16)
    done, _ = merge_here(make_run(store, base, r=4), tmp_path / "out")
    assert (done["dtype"], load(tmp_path / "out").dtype) == ("float16", torch.float16)
    assert done["logits_difference"] < 0.002 < done["tolerance"]


def test_a_full_fine_tune_is_rounded_to_16_bits(store, base, tmp_path):
    run = store.create(make_recipe({"base_model": str(base), "adapter": "none"}), "full")
    load(base).save_pretrained(run.model_dir)
    AutoTokenizer.from_pretrained(base).save_pretrained(run.model_dir)
    done, _ = merge_here(run, tmp_path / "out")
    stored, written = load(run.model_dir), load(tmp_path / "out").state_dict()
    assert stored.dtype == torch.float32
    assert all(torch.equal(w.bfloat16(), written[name]) for name, w in stored.state_dict().items())
    assert done["adapter_effect"] is None and done["logits_difference"] < 0.02


def test_the_practice_model_merges_in_a_process_of_its_own(store, tmp_path):
    system = 'You are "Wren".'
    run = make_run(
        store, STARTER_DIR, {"base_model": "starter", "dataset": {"system_prompt": system}}
    )
    with closing(merge_run(run, tmp_path / "out")) as messages:
        told = list(messages)
    done, progress = told[-1], told[:-1]
    assert done["kind"] == "merged" and {message["kind"] for message in progress} == {"progress"}
    stages = list(dict.fromkeys(message["stage"] for message in progress))
    assert stages == [
        merged.STARTING["stage"],
        steps.LOADING,
        steps.ASKING,
        steps.MERGING,
        steps.WRITING,
        steps.CHECKING,
    ]
    assert all(0 <= message["done_bytes"] <= message["total_bytes"] for message in told)
    files = list((tmp_path / "out").iterdir())
    assert done["done_bytes"] == sum(path.stat().st_size for path in files)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(STARTER_DIR).chat_template
    there = load(tmp_path / "out")
    assert there.config.use_cache and there.generation_config.eos_token_id == 4
    expected = merged_by_peft(STARTER_DIR, run, torch.bfloat16).state_dict()
    assert all(torch.equal(w, expected[name]) for name, w in there.state_dict().items())
    modelfile = (tmp_path / "out" / "Modelfile").read_text()
    assert f'SYSTEM """{system}"""' in modelfile and 'PARAMETER stop "<|end|>"' in modelfile


def test_no_file_of_merged_weights_names_a_folder_of_this_machine(tuned, base, tmp_path):
    merge_here(tuned, tmp_path / "out")
    texts = [path for path in (tmp_path / "out").iterdir() if path.suffix != ".safetensors"]
    places = [str(tmp_path), str(base.parent), str(tuned.dir)]
    assert "Modelfile" in [path.name for path in texts]
    assert not [p.name for p in texts for place in places if place in p.read_text()]
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_large_weights_are_written_in_shards(tuned, base, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "SHARD", "100KB")
    merge_here(tuned, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    expected = merged_by_peft(base, tuned, torch.bfloat16).state_dict()
    written = load(tmp_path / "out").state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in written.items())


def lose_the_adapter(adapted, told):
    return adapted.unload()


def merge_twice_as_much(adapted, told):
    for module in adapted.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(2)
    return adapted.merge_and_unload()


@pytest.mark.parametrize("wrong", [lose_the_adapter, merge_twice_as_much])
def test_weights_that_compute_something_else_are_not_kept(tuned, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(steps, "merge_layers", wrong)
    with pytest.raises(ExportError, match=r"differ from base and adapter by \d+\.\d%"):
        merge_here(tuned, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_sum_that_does_not_fit_into_float16_is_refused(store, tmp_path):
    base = tiny_model(tmp_path, dtype=torch.float16)
    run = make_run(store, base, r=4)
    weights = run.adapter_dir / "adapter_model.safetensors"
    save_file({name: weight * 1e4 for name, weight in load_file(weights).items()}, weights)
    with pytest.raises(ExportError, match="do not fit into float16"):
        merge_here(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [base.name]


def test_a_pickled_adapter_is_never_opened(store, base, tmp_path):
    run = make_run(store, base, r=4)
    weights = run.adapter_dir / "adapter_model.safetensors"
    weights.rename(run.adapter_dir / "adapter_model.bin")
    with pytest.raises(ModelError, match="format that can run any program"):
        merge_here(run, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("shutil.disk_usage", SimpleNamespace(free=1000), r"has 0\.0 GB free\. Free some room"),
        ("cpu_limits", (8 * 10**9, 1000, 2), r"of memory, and 0\.0 GB are free"),
    ],
)
def test_too_little_room_is_told_before_anything_is_loaded(
    tuned, tmp_path, monkeypatch, name, answer, said
):
    monkeypatch.setattr(f"tuner.export.merge.room.{name}", lambda *_: answer)
    monkeypatch.setattr(steps, "load_base", None)
    with pytest.raises((RunError, ExportError), match=said):
        merge_here(tuned, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_in_the_middle_ends_in_a_sentence(tuned, tmp_path, monkeypatch):
    def full(self, folder, **_):
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(ExportError, match=r"cannot be written: .*No space left on device\. Free"):
        merge_here(tuned, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten_and_what_was_not_trained_is_not_merged(
    store, tuned, base, tmp_path
):
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="exists, and is not overwritten"):
        next(merge_run(tuned, tmp_path / "out"))
    with pytest.raises(RunError, match="There is no folder"):
        next(merge_run(tuned, tmp_path / "none" / "out"))
    new = store.create(make_recipe({"base_model": str(base)}), "new")
    with pytest.raises(RunError, match="no trained weights to merge"):
        next(merge_run(new, tmp_path / "other"))


def test_closing_the_iterator_ends_the_process_and_leaves_nothing(tuned, tmp_path):
    messages = merge_run(tuned, tmp_path / "out")
    while next(messages)["stage"] != steps.WRITING:
        assert children()
    messages.close()
    assert not children()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_ends_in_a_sentence(tuned, tmp_path):
    messages = merge_run(tuned, tmp_path / "out")
    next(messages)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ExportError, match="killed, often for lack of memory"):
        list(messages)
    assert list(tmp_path.iterdir()) == []


def test_the_process_ends_with_whoever_started_it(tuned, tmp_path):
    half = merged.half_written(tmp_path / "out")
    half.mkdir()
    command = [sys.executable, "-m", "tuner.export.merge", str(tuned.dir), str(tmp_path / "out")]
    child = subprocess.Popen([*command, "--until-stdin-ends"], stdin=subprocess.PIPE)
    assert child.stdin
    child.stdin.close()
    assert child.wait(60) == 1
    assert list(tmp_path.iterdir()) == []


def children() -> list[int]:
    """Processes of ours that merge."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = f"PPid:\t{os.getpid()}\n" in (path / "status").read_text()
            if is_ours and b"tuner.export.merge" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found
