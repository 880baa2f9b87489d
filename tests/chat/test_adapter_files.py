"""What is no plain LoRA adapter is refused with its reason, before anything is computed with it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.chat.tuned import save_adapter
from tests.tiny_models import tiny_model
from tuner.chat.adapter_files import read_adapter
from tuner.errors import ModelError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base, tmp_path):
    save_adapter(base, tmp_path / "a", target_modules=["q_proj"])
    return tmp_path / "a"


def change(adapter, **settings) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "LOHA"}, "is a LOHA adapter"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias=all"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"something_of_next_year": True}, "something_of_next_year"),
        ({"r": 3}, "r=3"),
        ({"use_dora": True}, "use_dora=True"),
    ],
)
def test_settings_that_compute_something_else_are_named(adapter, settings, reason):
    change(adapter, **settings)

    with pytest.raises(ModelError, match=reason):
        read_adapter(str(adapter))


def test_pickled_weights_are_refused(adapter):
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.unlink()

    with pytest.raises(ModelError, match="can run any program"):
        read_adapter(str(adapter))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files_are_named(adapter, name):
    (adapter / name).unlink()

    with pytest.raises(ModelError, match=f"has no {name}"):
        read_adapter(str(adapter))


@pytest.mark.parametrize("content", [b"{", b"\xff\x00", b"[]"])
def test_a_configuration_that_is_none_is_refused(adapter, content):
    (adapter / "adapter_config.json").write_bytes(content)

    with pytest.raises(ModelError):
        read_adapter(str(adapter))


def test_weights_cut_off_in_mid_file_are_refused(adapter):
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(ModelError, match="cannot be read"):
        read_adapter(str(adapter))


def test_weights_that_are_not_numbers_are_refused_as_they_would_spread(adapter):
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, weights)

    with pytest.raises(ModelError, match="diverged"):
        read_adapter(str(adapter))


def test_tensors_that_are_no_lora_weights_are_named(adapter):
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights) | {"base_model.model.lm_head.weight": torch.ones(2, 2)}, weights)

    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        read_adapter(str(adapter))
