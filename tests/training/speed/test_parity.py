"""Each lever, and all of them, against trl's and peft's own way through the same rows."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from tests.tiny_models import tiny_config, tiny_model, tiny_tokenizer
from tuner.base_models.lookup import find_base_model
from tuner.models.loading import load_base
from tuner.recipe import LEVERS, make_recipe
from tuner.training.model import adapters_in_float32, add_adapter
from tuner.training.speed.levers import (
    LORA_LINEAR,
    PROVEN,
    ROW_ATTENTION,
    choose_levers,
    pull,
    release,
)
from tuner.training.trainer import build_trainer

CPU = torch.device("cpu")
FAMILIES = (
    *("llama", "qwen3", "gemma3_text", "phi3", "starcoder2"),
    *("mistral", "qwen2", "smollm3", "granite", "gpt_neox", "gemma2"),
)
WINDOWED = ("gemma3_text", "gemma2")


def row(length: int, trained: int) -> dict[str, list[int]]:
    """Random tokens, the last of which are trained."""
    ids = torch.randint(3, 400, (length,)).tolist()
    return {"input_ids": ids, "labels": [-100] * (length - trained) + ids[length - trained :]}


torch.manual_seed(0)
# Of very different lengths; a row whose answer is its stop token only; a text, all of it trained.
ROWS = [row(7, 3), row(61, 20), row(130, 64), row(33, 1), row(20, 20)]


SETTINGS = {
    "dtype": "float32",
    "max_length": 256,
    "batch_size": 5,
    "micro_batch_size": 5,
    "gradient_checkpointing": False,
    "optim": "adamw_torch",
    "max_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "lora": {"r": 4, "lora_alpha": 8},
}


def recipe_of(**settings: Any) -> Any:
    return make_recipe({**SETTINGS, **settings})


def trainer_of(base: Any, recipe: Any, folder: Any, rows: Any = ROWS) -> Any:
    model = add_adapter(base, recipe)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # where B is zero, A has no gradient
            torch.nn.init.normal_(parameter, std=0.05)
    levers = choose_levers(model, recipe)
    pull(model, levers)
    data = Dataset.from_list(rows)
    trainer = build_trainer(recipe, model, tiny_tokenizer(), data, None, folder, [], levers)
    adapters_in_float32(model)
    return trainer


def fresh(family: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family), dtype=dtype)


def step(trainer: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and adapter gradients of one batch of all rows, as a training step has them."""
    rows = [trainer.train_dataset[at] for at in range(len(trainer.train_dataset))]
    trainer.model.train()
    torch.manual_seed(2)
    batch = trainer.data_collator(rows)
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    named = trainer.model.named_parameters()
    return loss.detach(), {name: p.grad for name, p in named if p.grad is not None}


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Relative distance of the gradient that differs most."""
    assert ours.keys() == theirs.keys() and ours
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def compare(tmp_path: Any, base: Any, levers: Any = "auto", **settings: Any) -> tuple[float, float]:
    """Relative distances of loss and gradients from those without levers."""
    theirs = step(trainer_of(base(), recipe_of(levers="none", **settings), tmp_path))
    ours = step(trainer_of(base(), recipe_of(levers=levers, **settings), tmp_path))
    return float((ours[0] - theirs[0]).abs() / theirs[0]), furthest(ours[1], theirs[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_all_levers_that_a_family_gets_leave_loss_and_gradients_as_they_are(tmp_path, family):
    loss, gradients = compare(tmp_path, lambda: fresh(family))
    assert loss < 1e-5 and gradients < 1e-5
    levers = choose_levers(add_adapter(fresh(family), recipe_of()), recipe_of())
    assert LORA_LINEAR in levers
    assert (ROW_ATTENTION in levers) == (family not in WINDOWED)


@pytest.mark.parametrize(
    "levers", [["trained_loss"], ["trained_loss", "row_attention"], ["lora_linear"]], ids=str
)
def test_a_lever_alone_does_so_too(tmp_path, levers):
    assert max(compare(tmp_path, lambda: fresh("llama"), levers)) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"lora": {"r": 4, "use_rslora": True}},
        {"lora": {"r": 4, "target_modules": ["q_proj", "down_proj"]}},
        {"packing": True},
        {"adapter": "dora"},
        {"adapter": "none"},
    ],
    ids=str,
)
def test_other_settings_do_not_change_that(tmp_path, settings):
    loss, gradients = compare(tmp_path, lambda: fresh("llama"), **settings)
    assert loss < 1e-5 and gradients < 2e-5


def test_dropout_falls_on_the_same_numbers(tmp_path):
    settings = {"lora": {"r": 4, "lora_dropout": 0.3}}
    assert max(compare(tmp_path, lambda: fresh("llama"), **settings)) < 1e-5


def test_packed_4_bit_weights_are_computed_with_as_bitsandbytes_does(tmp_path):
    settings = {"base_model": str(tiny_model(tmp_path)), "quantization": "nf4"}
    recipe = recipe_of(**settings)
    found = find_base_model(recipe.base_model)
    base = lambda: load_base(recipe, found, torch.float32, CPU)  # noqa: E731
    # Products in bfloat16 there, and with padding they are other products.
    assert max(compare(tmp_path, base, ["lora_linear"], **settings)) < 1e-5
    assert max(compare(tmp_path, base, **settings)) < 2e-2


def test_in_bfloat16_the_levers_are_as_close_to_float32_as_autocast_is(tmp_path):
    exact = step(trainer_of(fresh("llama"), recipe_of(levers="none"), tmp_path))
    half = {"dtype": "bfloat16"}
    cast, ours = (
        step(trainer_of(fresh("llama", torch.bfloat16), recipe_of(levers=levers, **half), tmp_path))
        for levers in ("none", "auto")
    )
    assert abs(ours[0] - exact[0]) <= 2 * abs(cast[0] - exact[0]) + 1e-3
    assert furthest(ours[1], exact[1]) <= 1.5 * furthest(cast[1], exact[1])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_curve_with_all_levers_is_the_curve_without(tmp_path, checkpointing):
    curves, rows = [], [row(length, length // 2) for length in range(9, 89, 4)]
    for levers in ("none", "auto"):
        settings = {"levers": levers, "gradient_checkpointing": checkpointing}
        recipe = recipe_of(max_steps=15, batch_size=4, micro_batch_size=2, **settings)
        trainer = trainer_of(fresh("llama"), recipe, tmp_path, rows)
        trainer.try_batch(rows[-2:])
        trainer.train()
        curves.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(curves[0]) == 15
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


def test_what_is_released_is_pefts_own_again(tmp_path):
    trainer = trainer_of(fresh("llama"), recipe_of(), tmp_path)
    layers = [module for module in trainer.model.modules() if hasattr(module, "lora_A")]
    assert all("forward" in vars(layer) for layer in layers)
    release(trainer.model)
    assert layers and not any("forward" in vars(layer) for layer in layers)


@pytest.mark.parametrize("random", [{"lora": {"lora_dropout": 0.1}}, {"neftune_noise_alpha": 5}])
def test_what_is_drawn_at_random_is_drawn_for_the_rows_that_a_plain_script_has(random):
    recipe = recipe_of(**random)
    levers = choose_levers(add_adapter(fresh("llama"), recipe), recipe)
    assert ROW_ATTENTION not in levers and LORA_LINEAR in levers


def test_a_family_that_no_test_here_proves_keeps_the_plain_loss_and_the_plain_batches():
    """HyperCLOVA X multiplies its logits by what Granite divides them by."""
    model = add_adapter(fresh("granite"), recipe_of())
    model.config.model_type = "hyperclovax"
    levers = choose_levers(model, recipe_of())
    assert levers.names() == [LORA_LINEAR]
    assert "not trained_loss: not proven for hyperclovax" in levers.sentence()
    assert set(PROVEN) <= set(FAMILIES)


def test_every_lever_that_is_left_out_says_why():
    model = add_adapter(fresh("gemma2"), recipe_of())
    levers = choose_levers(model, recipe_of(levers=["trained_loss", "row_attention"]))
    assert set(levers.aside) == set(LEVERS) and levers.names() == "none"
    assert "not trained_loss: the logits are capped" in levers.sentence()
    assert "not lora_linear: switched off" in levers.sentence()
