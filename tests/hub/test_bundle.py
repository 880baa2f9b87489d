"""What is published of a run: of a real one on the practice model, and of hand-made ones."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.chat.tuned import save_adapter
from tests.hub.told_runs import told_run
from tests.tiny_models import tiny_model
from tests.training.forked_runs import train_all
from tuner.chat.lineup import lineup_of_adapter
from tuner.errors import HubError
from tuner.hub import local_paths
from tuner.hub.bundle import bundle_files, write_bundle
from tuner.hub.card import make_card
from tuner.presets import load_preset
from tuner.recipe import load_recipe, make_recipe
from tuner.runs.store import RunStore
from tuner.starter import STARTER_DIR

REPO = "anna/bot"
PUBLISHED = {
    *("README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"),
    *("loss.png", "recipe.yaml", "result.json", "tokenizer.json", "tokenizer_config.json"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real run of two steps, its data given by an absolute path."""
    folder = tmp_path_factory.mktemp("trained")
    rows = (local_paths.PROJECT_ROOT / "presets/data/chatbot.jsonl").read_text().splitlines()[:16]
    (folder / "private rows.jsonl").write_text("\n".join(rows))
    values = load_preset("chatbot").values
    values["dataset"] |= {"source": str(folder / "private rows.jsonl")}
    values |= {"max_steps": 2, "eval_steps": 2, "sample_max_new_tokens": 8, "batch_size": 4}
    values["sample_prompts"] = values["sample_prompts"][:3]
    run = RunStore(folder / "runs").create(make_recipe(values), "support bot")
    train_all([run])
    assert run.status()["state"] == "completed", run.log_path.read_text()[-3000:]
    return run


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_bundle(trained, folder, REPO)
    return folder


@pytest.fixture
def run(tmp_path):
    return told_run(tmp_path / "runs")


def bundle(run, tmp_path, **given):
    folder = tmp_path / "published"
    folder.mkdir()
    write_bundle(run, folder, REPO, **given)
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def test_a_trained_run_is_published_whole_and_without_its_rows(trained, published):
    assert names(published) == PUBLISHED
    assert {name for name, _ in bundle_files(trained)} == PUBLISHED
    sizes = {name: size for name, size in bundle_files(trained) if size}
    assert (
        sizes["adapter_model.safetensors"]
        == (published / "adapter_model.safetensors").stat().st_size
    )
    rows = [json.loads(line) for line in (trained.data_dir / "train.jsonl").open()]
    answers = [row["messages"][-1]["content"].encode() for row in rows]
    texts = b"".join(path.read_bytes() for path in published.iterdir())
    assert answers and not any(answer in texts for answer in answers)


def test_no_file_of_a_trained_run_names_a_place_on_this_machine(trained, published):
    places = {str(trained.dir), str(trained.dir.parent.parent), str(STARTER_DIR), "private rows"}
    places |= {str(local_paths.PROJECT_ROOT), f"{Path.home()}/"}
    kept = b"".join(path.read_bytes() for path in trained.dir.rglob("*.*") if path.is_file())
    assert str(STARTER_DIR).encode() in kept, "the search can find"
    for path in published.iterdir():
        content = path.read_bytes()
        allowed = {"private rows"} if path.name in ("README.md", "recipe.yaml") else set()
        assert not [place for place in places - allowed if place.encode() in content], path.name
    assert load_recipe(published / "recipe.yaml").dataset.source == "private rows.jsonl"


def test_a_published_adapter_loads_with_plain_peft_and_answers_as_the_runs_own(trained, published):
    ids = torch.arange(2, 40)[None]
    own, theirs = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(STARTER_DIR), folder)(ids)
        for folder in (trained.adapter_dir, published)
    )
    assert torch.equal(own.logits, theirs.logits)
    assert lineup_of_adapter(str(published)).base.model == "starter"


def test_the_cards_own_code_loads_and_answers_as_the_run_did(trained, published, monkeypatch):
    monkeypatch.chdir(local_paths.PROJECT_ROOT)
    card = (published / "README.md").read_text()
    assert ModelCard(card).data.eval_results[0].metric_value > 0
    code = re.search(r"### transformers and peft\n\n```python\n(.*?)\n```", card, re.DOTALL)[1]
    code = code.replace(f'"{REPO}"', repr(str(published)))
    code = code.replace('dtype="auto"', f'dtype="{trained.recipe().dtype}"')
    assert code.count(str(published)) == 2
    said = []
    # As somebody who copies it would, but for a shorter answer.
    exec(code.replace("=200", "=8"), {"print": said.append})  # noqa: S102
    samples = [e for e in trained.events()[0] if e["kind"] == "sample" and e["step"] == 2]
    assert said[0].strip() == samples[0]["text"]


def test_a_full_fine_tune_is_published_as_a_model(tmp_path):
    run = told_run(tmp_path / "runs", adapter="none")
    shutil.rmtree(run.adapter_dir)
    tiny_model(tmp_path).rename(run.model_dir)
    config = json.loads((run.model_dir / "config.json").read_text())
    config["_name_or_path"] = str(tmp_path / "base")
    (run.model_dir / "config.json").write_text(json.dumps(config))
    folder = bundle(run, tmp_path)
    assert ModelCard.load(folder / "README.md").data.base_model_relation == "finetune"
    assert "_name_or_path" not in json.loads((folder / "config.json").read_text())
    ids = torch.arange(2, 40)[None]
    own, theirs = (AutoModelForCausalLM.from_pretrained(f)(ids) for f in (run.model_dir, folder))
    assert torch.equal(own.logits, theirs.logits)
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_a_base_of_the_hub_is_named_and_pinned_in_the_adapter(tmp_path):
    commit = "d4" * 20
    base = tiny_model(tmp_path)
    run = told_run(tmp_path / "runs", base_model="org/tiny", revision=commit)
    save_adapter(base, run.adapter_dir)
    assert config_of(run.adapter_dir)["base_model_name_or_path"] == str(base)
    folder = bundle(run, tmp_path)
    config = config_of(folder)
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", commit)
    assert PeftConfig.from_pretrained(folder).base_model_name_or_path == "org/tiny"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    assert any(p.abs().sum() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_pickles_links_and_what_is_not_needed_stay(run, tmp_path):
    (tmp_path / "secret.json").write_text('{"api": "key"}')
    for name in ("training_args.bin", "optimizer.pt", "model.py", "notes.csv", ".hidden.json"):
        (run.adapter_dir / name).write_bytes(b"x")
    (run.adapter_dir / "linked.json").symlink_to(tmp_path / "secret.json")
    (run.adapter_dir / "folder.json").mkdir()
    os.mkfifo(run.adapter_dir / "pipe.json")
    folder = bundle(run, tmp_path)
    assert names(folder) == PUBLISHED - {"tokenizer.json"}
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())


def test_words_of_a_vocabulary_that_look_like_a_home_are_left_as_they_are(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(Path, "home", lambda: Path("/root"))
    vocabulary = '{"model": {"vocab": {"/root": 5, "/root/x": 6}}}'
    (run.adapter_dir / "tokenizer.json").write_text(vocabulary)
    added = {"added_tokens_decoder": {"7": {"content": "/root"}}, "name_or_path": "/root/models/x"}
    (run.adapter_dir / "tokenizer_config.json").write_text(json.dumps(added))
    folder = bundle(run, tmp_path)
    assert (folder / "tokenizer.json").read_text() == vocabulary
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings == {"added_tokens_decoder": {"7": {"content": "/root"}}}


@pytest.mark.parametrize("name", ["vocab.txt", "chat_template.jinja", "adapter_model.safetensors"])
def test_a_file_that_names_a_place_and_cannot_be_changed_is_not_published(run, tmp_path, name):
    path = run.adapter_dir / name
    if path.suffix == ".safetensors":
        header = json.dumps({"__metadata__": {"from": str(run.dir)}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    else:
        path.write_text(f"from {run.dir}/x")
    with pytest.raises(HubError, match=rf"{name} names {re.escape(str(run.dir))}, a folder of"):
        bundle(run, tmp_path)


def test_an_edited_card_is_published_as_it_is_unless_it_names_a_place(run, tmp_path):
    card = make_card(run, REPO) + "\nMine.\n"
    folder = bundle(run, tmp_path, card=card)
    assert (folder / "README.md").read_text() == card
    shutil.rmtree(folder)
    with pytest.raises(HubError, match=r"README\.md names .*Take it out"):
        bundle(run, tmp_path, card=f"See {run.dir}/events.jsonl")


def test_a_run_that_kept_no_safetensors_has_nothing_to_publish(run, tmp_path):
    weights = run.adapter_dir / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(HubError, match="has kept no weights as safetensors"):
        bundle(run, tmp_path)
    shutil.rmtree(run.adapter_dir)
    with pytest.raises(HubError, match="nothing to publish"):
        bundle_files(run)


def test_damaged_settings_are_a_sentence(run, tmp_path):
    (run.adapter_dir / "adapter_config.json").write_text("{")
    with pytest.raises(HubError, match="is no JSON"):
        bundle(run, tmp_path)


def test_a_run_of_recipe_status_and_adapter_alone_is_enough(run, tmp_path):
    for left in (run.result_path, run.events_path):
        left.unlink()
    shutil.rmtree(run.data_dir)
    folder = bundle(run, tmp_path)
    assert names(folder) == PUBLISHED - {"loss.png", "result.json", "tokenizer.json"}


def test_bundling_leaves_the_runs_own_weights_apart(run, tmp_path):
    weights = run.adapter_dir / "adapter_model.safetensors"
    before = weights.read_bytes()
    folder = bundle(run, tmp_path)
    shutil.rmtree(folder)
    assert weights.read_bytes() == before
