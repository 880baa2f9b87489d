"""
A folder that calls itself a base model or an adapter: nothing in it is ever run, and what is made
to hang, to fetch or to fill the memory is refused in a sentence.
"""

import json
import os
import pickle
import shutil

import pytest
import torch

from tests.chat.tuned import save_adapter
from tests.tiny_models import CHAT_TEMPLATE, tiny_model
from tuner.base_models.architecture import read_architecture, target_linears
from tuner.base_models.lookup import find_base_model
from tuner.chat.adapter_files import read_adapter
from tuner.chat.engine import Engine
from tuner.chat.lineup import find_lineup
from tuner.chat.voices import Base, Row, Sampling, Voice
from tuner.data import chat_template
from tuner.errors import ModelError, RecipeError
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import RunStore
from tuner.service.previewing import preview_document
from tuner.training.callbacks import StopRequest
from tuner.training.prepare import prepare

ASKED = ({"role": "user", "content": "Hi"},)
CODE = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}


class Trap:
    """What does something when it is unpickled."""

    def __init__(self, ran):
        self.ran = ran

    def __reduce__(self):
        return os.mkdir, (str(self.ran),)


def set_traps(folder, ran):
    """Pickles and code under every name that some loader looks for; sound weights stay."""
    for name in (
        "pytorch_model.bin",
        "adapter_model.bin",
        "model.pt",
        "training_args.bin",
        "optimizer.pt",
        "rng_state.pth",
    ):
        (folder / name).write_bytes(pickle.dumps(Trap(ran)))
    code = f"import os; os.mkdir({str(ran)!r})"
    for name in ("evil.py", "modeling_llama.py", "tokenization.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists():
            change(folder / name, auto_map=CODE)


def change(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "base")


@pytest.fixture(scope="module")
def sound_adapter(sound, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(sound, folder, target_modules=["q_proj"])
    return folder


@pytest.fixture
def adapter(sound_adapter, tmp_path):
    return shutil.copytree(sound_adapter, tmp_path / "adapter")


def test_a_trap_of_these_springs_where_somebody_steps_on_it(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "ran")))  # noqa: S301 (our own)
    assert (tmp_path / "ran").is_dir()


def test_base_and_adapter_answer_from_their_safetensors_and_no_trap_beside_them_springs(
    folder, adapter, tmp_path
):
    ran = tmp_path / "ran"
    for place in (folder, adapter):
        set_traps(place, ran)
    engine = Engine(Base(str(folder), None, "none"), torch.device("cpu"))
    voices = [Voice("base"), Voice("tuned", adapter=str(adapter))]
    sampling = Sampling(max_new_tokens=2, temperature=0)
    pieces = list(engine.generate([Row(voice, ASKED, sampling) for voice in voices]))
    assert sum(piece.done for piece in pieces) == 2
    assert not ran.exists()


def test_an_adapter_with_pickled_weights_only_is_refused_by_its_folder(adapter, tmp_path):
    ran = tmp_path / "ran"
    (adapter / "adapter_model.safetensors").unlink()
    set_traps(adapter, ran)
    with pytest.raises(ModelError, match=r"adapter_model\.bin is a pickle, which can run code"):
        find_lineup(str(adapter), RunStore(tmp_path / "runs"))
    with pytest.raises(ModelError, match="can run any program"):
        read_adapter(str(adapter))
    assert not ran.exists()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "evil.safetensors.bin"])
def test_an_index_that_names_a_pickle_among_safetensors_is_refused(folder, file):
    (folder / "model.safetensors").rename(folder / file)  # what it holds may be both at once
    index = {"weight_map": {"lm_head.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="is damaged"):
        find_base_model(str(folder))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "evil", "auto_map": CODE}, "needs program code from its own repository"),
        ({"attn_implementation": "evil/kernel"}, "program code from evil/kernel"),
        ({"_attn_implementation": "evil/kernel@main:run"}, "program code from evil/kernel"),
        ({"attn_implementation": {"": "evil/kernel"}}, "program code from"),
        ({"text_config": {"experts_implementation": "evil/kernel"}}, "program code from evil"),
        ({"layers": [{"attn_implementation": "paged|evil/kernel"}]}, "program code from paged"),
        ({"num_hidden_layers": 10**9}, "1,000,000,000 layers"),
        ({"text_config": {"num_hidden_layers": 10**6}}, "1,000,000 layers"),
        ({"model_type": {"a": 1}}, "damaged"),
        ({"architectures": "LlamaForCausalLM"}, "damaged"),
    ],
    ids=str,
)
def test_a_config_that_brings_code_or_has_no_end_is_refused(folder, settings, said):
    change(folder / "config.json", **settings)
    with pytest.raises(ModelError, match=said):
        find_base_model(str(folder))


def test_training_does_not_begin_on_a_template_without_end(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", 0.3)
    ran, run = tmp_path / "ran", run_on(folder, tmp_path)
    set_traps(folder, ran)
    endless = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(endless + CHAT_TEMPLATE)
    with EventWriter(run.events_path) as events, pytest.raises(ModelError, match="come to an end"):
        prepare(run, events, StopRequest(), tmp_path / "tokens")
    with pytest.raises(ModelError, match="come to an end"):
        Engine(Base(str(folder), None, "none"), torch.device("cpu"))
    with pytest.raises(ModelError, match="come to an end"):
        preview_document(run.recipe())
    assert not ran.exists()


def run_on(base, folder):
    """A run on a base model, queued."""
    data = folder / "rows.jsonl"
    rows = [{"prompt": f"What is {n}?", "answer": f"It is {n}."} for n in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"base_model": str(base), "dataset": {"source": str(data)}, "max_length": 64}
    return RunStore(folder / "runs").create(make_recipe(recipe))


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}, "bias": "all"},
        {"megatron_config": {"x": 1}, "megatron_core": "evil"},
        {"rank_pattern": {"(a+)+$": 8}},
        {"rank_pattern": {"(.*.*)*x": 8}},
        {"alpha_pattern": {".*.*.*.*.*.*x": 8}},
        {"rank_pattern": {"q_proj": "many"}},
        {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {"(": 8}},
        {"r": {"a": 1}},
        {"lora_alpha": "much"},
        {"r": 10**400},
    ],
    ids=str,
)
def test_an_adapters_config_that_brings_code_or_cannot_be_read_is_refused(adapter, settings):
    change(adapter / "adapter_config.json", **settings)
    with pytest.raises(ModelError):
        read_adapter(str(adapter))


def test_an_adapters_config_without_end_is_refused(adapter):
    (adapter / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError):
        read_adapter(str(adapter))


@pytest.mark.parametrize(
    "pattern", [r"(\w+)+x", "(.|.|.)*z", ".*.*.*.*.*.*.*x", "a" * 300, r"(?:(a|a)+)+b"]
)
def test_layers_named_by_a_slow_expression_are_refused_before_they_are_compared(sound, pattern):
    model = read_architecture(json.loads((sound / "config.json").read_text()))
    with pytest.raises(RecipeError, match=r"lora\.target_modules=.* could take for ever"):
        target_linears(model, pattern)
