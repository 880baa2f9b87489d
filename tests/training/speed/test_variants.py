"""Heads, biases and adapters of other kinds: levers fit or step aside, and the step is the same."""

import pytest
import torch
from torch import nn

from tests.tiny_models import tiny_model
from tests.training.speed.tiny_trainers import (
    ADAPTER,
    CPU,
    ROWS,
    differences,
    our_step,
    our_trainer,
    recipe_of,
    tiny,
)
from tuner.base_models.lookup import find_base_model
from tuner.levers import LEVERS, LORA_LINEAR, PROVEN, ROW_ATTENTION, TRAINED_LOSS
from tuner.models.loading import load_base
from tuner.training.model import add_adapter
from tuner.training.speed.levers import Levers, choose_levers, release


def chosen(base: nn.Module, **settings) -> Levers:
    return choose_levers(add_adapter(base, recipe_of(**settings)), recipe_of(**settings))


def compare(tmp_path, base=tiny, **settings) -> float:
    """How far loss and gradients with all levers are from those without."""
    theirs, ours = (
        our_step(base(), ROWS, tmp_path, levers=levers, **settings) for levers in ("none", "auto")
    )
    return max(differences(ours, theirs))


@pytest.mark.parametrize(
    "shape",
    [
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 32},
        {"hidden_act": "gelu"},
    ],
    ids=str,
)
def test_a_base_of_another_shape_takes_the_same_step(tmp_path, shape):
    assert compare(tmp_path, lambda: tiny(**shape)) < 1e-5


def test_what_granite_multiplies_and_divides_by_is_in_the_step(tmp_path):
    shape = {"logits_scaling": 4.0, "attention_multiplier": 0.5}
    shape |= {"embedding_multiplier": 12.0, "residual_multiplier": 0.2}
    assert compare(tmp_path, lambda: tiny("granite", **shape)) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"lora": {**ADAPTER, "use_rslora": True}},
        {"lora": {**ADAPTER, "target_modules": ["q_proj", "down_proj"]}},
        {"lora": {**ADAPTER, "target_modules": ["k_proj", "v_proj", "up_proj"]}},
        {"lora": {**ADAPTER, "target_modules": ["q_proj", "embed_tokens"]}},
        {"lora": {**ADAPTER, "lora_dropout": 0.3}},
        {"neftune_noise_alpha": 5},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "lora": {**ADAPTER, "lora_dropout": 0.3}},
        {"adapter": "dora"},
        {"adapter": "none"},
    ],
    ids=str,
)
def test_other_settings_leave_the_step_as_it_is(tmp_path, settings):
    assert compare(tmp_path, **settings) < 1e-5


@pytest.mark.parametrize("family", ["gemma3_text", "phi3", "gpt_neox"])
def test_recomputed_activations_leave_the_step_as_it_is(tmp_path, family):
    assert compare(tmp_path, lambda: tiny(family), gradient_checkpointing=True) < 1e-5


def test_8_bit_weights_have_no_fused_adapter_and_take_the_same_step(tmp_path):
    settings = {"base_model": str(tiny_model(tmp_path)), "quantization": "int8"}
    recipe, found = recipe_of(**settings), find_base_model(settings["base_model"])

    def base() -> nn.Module:
        return load_base(recipe, found, tiny().dtype, CPU)

    levers = chosen(base(), **settings)
    assert LORA_LINEAR not in levers and ROW_ATTENTION in levers
    assert compare(tmp_path, base, **settings) < 1e-5


@pytest.mark.parametrize("random", [{"lora": {"lora_dropout": 0.1}}, {"neftune_noise_alpha": 5}])
def test_what_is_drawn_at_random_is_drawn_for_the_rows_that_a_plain_script_has(random):
    levers = chosen(tiny(), **random)
    assert ROW_ATTENTION not in levers and LORA_LINEAR in levers


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("llama", {"attention_dropout": 0.1}),
        ("starcoder2", {"residual_dropout": 0.1, "embedding_dropout": 0.1}),
        ("phi3", {"resid_pdrop": 0.1}),
        ("gpt_neox", {"hidden_dropout": 0.1}),
    ],
    ids=str,
)
def test_so_is_the_dropout_that_a_base_brings_along(tmp_path, family, shape):
    assert compare(tmp_path, lambda: tiny(family, **shape)) < 1e-5


def test_a_family_that_no_test_here_proves_keeps_the_plain_loss_and_the_plain_batches():
    """HyperCLOVA X multiplies its logits by what Granite divides them by."""
    model = add_adapter(tiny("granite"), recipe_of())
    model.config.model_type = "hyperclovax"
    levers = choose_levers(model, recipe_of())
    assert not {TRAINED_LOSS, ROW_ATTENTION} & levers.on and LORA_LINEAR in levers
    assert "not trained_loss: not proven for hyperclovax" in levers.sentence()
    assert "hyperclovax" not in PROVEN


def test_every_lever_that_is_left_out_says_why():
    model = add_adapter(tiny("gemma2"), recipe_of())
    levers = choose_levers(model, recipe_of(levers=["trained_loss", "row_attention"]))
    assert set(levers.aside) == set(LEVERS) and levers.names() == "none"
    assert "not trained_loss: the logits are capped" in levers.sentence()
    assert "not lora_linear: switched off" in levers.sentence()


def test_an_adapter_that_is_switched_off_leaves_the_base(tmp_path):
    ids = {"input_ids": torch.tensor([ROWS[1]["input_ids"]])}
    model = our_trainer(tiny(), recipe_of(), tmp_path).model.eval()
    with torch.no_grad():
        wanted, tuned = tiny().eval()(**ids).logits, model(**ids).logits
        with model.disable_adapter():
            torch.testing.assert_close(model(**ids).logits, wanted, rtol=0, atol=1e-6)
    assert (tuned - wanted).abs().max() > 1e-3


def test_what_is_released_is_pefts_own_again(tmp_path):
    trainer = our_trainer(tiny(), recipe_of(), tmp_path)
    layers = [module for module in trainer.model.modules() if hasattr(module, "lora_A")]
    assert all("forward" in vars(layer) for layer in layers)
    release(trainer.model)
    assert layers and not any("forward" in vars(layer) for layer in layers)
