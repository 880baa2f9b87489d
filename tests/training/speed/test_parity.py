"""
Each lever, all of them and all but one, against trl's SFTTrainer with peft's LoRA.

The reference is a script of their own classes (tiny_trainers.plain_step) that shares nothing with
this project but weights and rows. In float32: loss and every gradient within 1e-5, relative.
"""

import pytest

from tests.training.speed.tiny_trainers import (
    ROWS,
    differences,
    levers_with,
    our_step,
    recipe_of,
    tiny,
)
from tuner.levers import LEVERS, LORA_LINEAR, PROVEN, ROW_ATTENTION
from tuner.training.model import add_adapter
from tuner.training.speed.levers import choose_levers

WINDOWED = ("gemma3_text", "gemma2")
FAMILIES = (*PROVEN, "gemma2")  # whose logits are capped: not all levers are for it
ALONE = ("llama", "qwen3", "gemma3_text", "phi3", "starcoder2")
# Windows; norms with an offset or a mean; gate and up in one, or no gate; a part rotated.
ASIDE = {
    ("gemma3_text", "row_attention"),
    ("gemma3_text", "context_parallel"),
    ("gemma3_text", "rms_norm"),
    ("phi3", "gated_mlp"),
    ("phi3", "rotary"),
    ("starcoder2", "gated_mlp"),
    ("starcoder2", "rms_norm"),
}
PAIRS = {(family, lever) for family in ALONE for lever in LEVERS}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_levers_a_run_takes_the_step_of_a_plain_script(tmp_path, plain, family):
    ours = our_step(tiny(family), ROWS, tmp_path, levers="none")
    assert max(differences(ours, plain(family))) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_levers_that_a_family_gets_it_takes_that_step_too(tmp_path, plain, family):
    ours = our_step(tiny(family), ROWS, tmp_path, levers="auto")
    assert max(differences(ours, plain(family))) < 1e-5
    levers = choose_levers(add_adapter(tiny(family), recipe_of()), recipe_of())
    assert LORA_LINEAR in levers
    assert (ROW_ATTENTION in levers) == (family not in WINDOWED)


def test_a_llama_gets_every_lever():
    assert choose_levers(add_adapter(tiny(), recipe_of()), recipe_of()).on == set(LEVERS)


@pytest.mark.parametrize(("family", "lever"), sorted(ASIDE))
def test_a_lever_that_does_not_fit_a_family_steps_aside_and_says_why(family, lever):
    levers = levers_with(lever, tiny(family))
    assert lever not in levers and levers.aside[lever]


@pytest.mark.parametrize(("family", "lever"), sorted(PAIRS - ASIDE))
def test_a_lever_with_no_more_than_it_needs_takes_that_step(tmp_path, plain, family, lever):
    levers = levers_with(lever, tiny(family))
    assert lever in levers
    ours = our_step(tiny(family), ROWS, tmp_path, levers=sorted(levers.on))
    assert max(differences(ours, plain(family))) < 1e-5


@pytest.mark.parametrize("left_out", LEVERS)
def test_all_levers_but_one_take_that_step(tmp_path, plain, left_out):
    others = [lever for lever in LEVERS if lever != left_out]
    ours = our_step(tiny(), ROWS, tmp_path, levers=others)
    assert max(differences(ours, plain("llama"))) < 1e-5
