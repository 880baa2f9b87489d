"""The levers that the estimate plans with, beside those that training chooses with the model."""

import json
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny_models import FAMILIES, SHAPE, TOKENS, tiny_config
from tuner.base_models.architecture import read_architecture
from tuner.levers import ROTARY
from tuner.memory.expected_levers import expected_levers
from tuner.recipe import make_recipe
from tuner.training.model import add_adapter
from tuner.training.speed.levers import choose_levers

OTHERS: dict[str, dict[str, Any]] = {
    "olmo2": {},
    "gemma": {"head_dim": 16},
    "phi": {},
    "mistral": {"sliding_window": 4096},
    "qwen2": {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0},
    "starcoder2": {"residual_dropout": 0.1},
    "cohere": {},  # a family that is not in the tables
}
RECIPES: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"adapter": "dora"},
    "dropout": {"lora": {"lora_dropout": 0.1}},
    "noise": {"neftune_noise_alpha": 5.0},
    "few layers": {"lora": {"target_modules": ["q_proj", "query_key_value", "qkv_proj"]}},
    "float16": {"dtype": "float16"},
    "dpo": {"objective": "dpo"},
    "full": {"adapter": "none"},
    "no loss": {"levers": ["row_attention", "gated_mlp", "rms_norm"]},
    "none": {"levers": "none"},
}


def levers_of(config: Any, **settings: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Those that are expected, and those that are chosen; rotary, which holds nothing, apart."""
    recipe = make_recipe({"dtype": "float32", **settings})
    said = json.loads(config.to_json_string(use_diff=True))
    model = add_adapter(AutoModelForCausalLM.from_config(config), recipe)
    chosen = choose_levers(model, recipe).on - {ROTARY}
    return expected_levers(recipe, said, read_architecture(said), "cpu"), chosen


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_levers_that_are_expected_are_those_that_are_chosen(family, settings):
    planned, chosen = levers_of(tiny_config(family), **settings)

    assert planned == chosen


@pytest.mark.parametrize("family", sorted(OTHERS))
def test_of_what_a_config_hardly_shows_no_lever_is_expected_that_is_not_chosen(family):
    config = AutoConfig.for_model(family, **(SHAPE | TOKENS | OTHERS[family]))

    planned, chosen = levers_of(config)

    assert planned <= chosen
    assert chosen - planned <= {"gated_mlp", "rms_norm"}


def test_no_lever_is_expected_on_a_gpu():
    config = tiny_config("llama").to_dict()

    assert not expected_levers(make_recipe({}), config, read_architecture(config), "cuda")
