"""Merged weights go to the Hub, come back, and answer without peft."""

import json

import pytest
import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tests.chat.tuned import save_adapter
from tests.hub.conftest import TOKEN
from tests.tiny_models import tiny_model
from tuner.cli import app
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore

REPO = "anna/bot-merged"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    """A completed run on a base in 4 bits, with an adapter that matters."""
    recipe = make_recipe({"base_model": str(base), "quantization": "nf4"})
    run = RunStore(tmp_path_factory.mktemp("store") / "runs").create(recipe, "bot")
    save_adapter(base, run.adapter_dir, r=4)
    AutoTokenizer.from_pretrained(base).save_pretrained(run.adapter_dir)
    run.update_status(state="completed")
    return run


def test_pushed_merged_weights_come_back_and_answer_as_base_and_adapter(
    hub, run, base, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    words = ["push", "bot", REPO, "--merged", "--json", "--runs-dir", str(run.dir.parent)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["commit"] == hub.repos[REPO].at().oid and hub.repos[REPO].private
    assert "Merging the adapter into the base" in result.stderr

    there = snapshot_download(REPO, token=TOKEN, local_dir=tmp_path / "there")
    files = set(hub.repos[REPO].contents())
    assert {"model.safetensors", "config.json", "tokenizer.json", "Modelfile", "README.md"} <= files
    assert not [name for name in files if "adapter" in name]
    ids = torch.arange(2, 40)[None]
    plain = AutoModelForCausalLM.from_pretrained(there)
    assert plain.dtype == torch.bfloat16
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run.adapter_dir)
    with torch.no_grad():
        merged, both = plain.float()(ids).logits, tuned(ids).logits
        alone = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    assert (merged - both).abs().max() < 0.1 * (alone - both).abs().max()
    assert AutoTokenizer.from_pretrained(there)("Where is my order?").input_ids
    assert [path.name for path in run.dir.parent.iterdir()] == [run.dir.name]


def test_a_target_that_is_not_suitable_is_told_before_anything_is_merged(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("tuner.export.merged.merge_run", None)
    words = ["push", "bot", "bea/bot", "--merged", "--runs-dir", str(run.dir.parent)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "anna/bot" in result.stderr
    assert not hub.repos
