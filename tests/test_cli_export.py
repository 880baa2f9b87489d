"""`export` from outside: each form, what it prints, and what it leaves alone."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tests.chat.tuned import save_adapter
from tests.tiny_models import tiny_model
from tuner.cli import app
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    """A completed run with an adapter that matters, made by hand."""
    recipe = make_recipe({"base_model": str(base), "dataset": {"source": "sums.jsonl"}})
    run = RunStore(tmp_path_factory.mktemp("store") / "runs").create(recipe, "bot")
    save_adapter(base, run.adapter_dir, r=4)
    run.update_status(state="completed")
    return run


@pytest.fixture
def shell(run, tmp_path, monkeypatch):
    """Runs `export bot` in a folder of its own; the answer on stdout, and what it says beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_RUNS_DIR", str(run.dir.parent))

    def export(*words, code=0):
        result = CliRunner().invoke(app, ["export", "bot", *words])
        assert result.exit_code == code, result.output
        return result.stdout, result.stderr

    return export


def logits(model):
    return model(torch.arange(2, 40)[None]).logits


def test_an_adapter_is_a_zip_that_plain_peft_loads_when_it_is_unpacked(shell, run, base, tmp_path):
    document = json.loads(shell("--as", "adapter", "--json")[0])
    assert (document["as"], document["path"], document["files"]) == (
        "adapter",
        "bot-adapter.zip",
        1,
    )
    packed = (tmp_path / "bot-adapter.zip").read_bytes()
    assert document["bytes"] == len(packed)
    zipfile.ZipFile(io.BytesIO(packed)).extractall(tmp_path / "there")
    there = tmp_path / "there" / "bot"
    texts = [p for p in there.rglob("*") if p.is_file() and p.suffix in (".json", ".md", ".yaml")]
    assert "adapter_config.json" in [path.name for path in texts]
    assert not [path.name for path in texts if str(base.parent) in path.read_text()]
    plain = AutoModelForCausalLM.from_pretrained
    unpacked, kept = (PeftModel.from_pretrained(plain(base), at) for at in (there, run.adapter_dir))
    assert torch.equal(logits(unpacked), logits(kept))
    assert [path.name for path in tmp_path.iterdir() if path.name != "there"] == ["bot-adapter.zip"]


def test_merged_weights_are_told_with_their_figures_and_notes(shell, tmp_path, monkeypatch):
    """The process that merges is replaced by its messages; tests/export has the real one."""

    def merge(run, out):
        yield {"stage": "Loading the model", "done_bytes": 0, "total_bytes": 0}
        yield {"stage": "Writing the weights", "done_bytes": 3_000_000, "total_bytes": 3_000_000}
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"x" * 3_000_000)
        done = {"stage": "Merged", "done_bytes": 3_000_000, "total_bytes": 3_000_000}
        figures = {"dtype": "bfloat16", "logits_difference": 0.003, "tolerance": 0.0625}
        yield {**done, **figures, "adapter_effect": 0.4, "notes": ["Ollama does not."], "files": 1}

    monkeypatch.setattr("tuner.export.merged.merge_run", merge)
    out, err = shell("--as", "merged")
    assert out.startswith("Wrote bot-merged (1 file, 3 MB).\nbfloat16; its logits differ")
    assert "0.30%" in out and out.endswith("Ollama does not.\n")
    assert "Loading the model\nWriting the weights: 3 of 3 MB\n" in err
    document = json.loads(shell("--as", "merged", "--to", "weights", "--json")[0])
    assert (document["path"], document["bytes"]) == ("weights", 3_000_000)
    assert (document["adapter_effect"], document["notes"]) == (0.4, ["Ollama does not."])


@pytest.mark.parametrize("form", ["adapter", "merged", "script", "notebook"])
def test_what_exists_is_never_overwritten(shell, tmp_path, form):
    (tmp_path / "mine").write_text("mine")
    assert "mine exists, and is not overwritten" in shell("--as", form, "--to", "mine", code=2)[1]
    assert "There is no folder none" in shell("--as", form, "--to", "none/x", code=2)[1]
    assert (tmp_path / "mine").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("form", "path"), [("script", "bot-script"), ("notebook", "bot.ipynb")])
def test_script_and_notebook_are_written_whole(shell, tmp_path, monkeypatch, form, path):
    files = {"train.py": "print()\n", "data/train.jsonl": b"{}\n"}
    monkeypatch.setattr("tuner.export.script.training_script", lambda _: files)
    monkeypatch.setattr("tuner.export.notebook.notebook", lambda _: '{"cells": []}')
    assert f"Wrote {path}" in shell("--as", form)[0]
    assert [found.name for found in tmp_path.iterdir()] == [path]
    written = tmp_path / path
    if form == "script":
        assert (written / "train.py").read_text() == files["train.py"]
        assert (written / "data" / "train.jsonl").read_bytes() == files["data/train.jsonl"]
    else:
        assert json.loads(written.read_text()) == {"cells": []}


def test_a_disk_that_refuses_is_told_and_nothing_half_written_stays(shell, tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.export.script.training_script", lambda _: {"a": "x", "b": "y"})

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said = shell("--as", "script", code=2)[1]
    assert "bot-script cannot be written: No space left on device" in said
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_weights_and_an_unknown_form_are_bad_input(shell, run, base, tmp_path):
    RunStore(run.dir.parent).create(make_recipe({"base_model": str(base)}), "new")
    result = CliRunner().invoke(app, ["export", "new", "--as", "merged"])
    assert result.exit_code == 2 and "no trained weights to merge" in result.stderr
    assert "--as" in shell("--as", "gguf", code=2)[1]
    assert list(tmp_path.iterdir()) == []
