"""Loading a base for answering: bitsandbytes' fast 4-bit form where it fits, and only there."""

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from torch import nn

from tests.tiny_models import tiny_model
from tuner.base_models.lookup import find_base_model
from tuner.models.loading import load_base
from tuner.recipe import make_recipe

CPU = torch.device("cpu")


def load_nf4(folder, **settings) -> nn.Module:
    recipe = make_recipe({"base_model": str(folder), "quantization": "nf4"})
    return load_base(recipe, find_base_model(str(folder)), torch.bfloat16, CPU, **settings).eval()


def packed(model: nn.Module) -> set[str]:
    return {
        name.rpartition(".")[2]
        for name, layer in model.named_modules()
        if getattr(layer, "support_avx512bf16_for_cpu", False)
    }


def test_a_base_that_trains_is_never_repacked(tmp_path):
    assert packed(load_nf4(tiny_model(tmp_path))) == set()


@pytest.mark.skipif(not has_avx512bf16(), reason="this CPU has no fast 4-bit form")
def test_a_base_that_answers_is_repacked_but_for_widths_that_cannot_be(tmp_path):
    folder = tiny_model(tmp_path, intermediate_size=80, num_key_value_heads=1)
    model = load_nf4(folder, for_inference=True)

    # 80 and 16 wide outputs are no multiple of 32; an input of 80 is no whole number of blocks.
    assert packed(model) == {"q_proj", "o_proj"}
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all()


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"intermediate_size": 80},
        {"num_key_value_heads": 1},
        {"hidden_size": 72, "num_attention_heads": 3, "num_key_value_heads": 1},
    ],
    ids=str,
)
def test_a_base_of_any_width_generates_in_4_bits_what_it_would_if_it_were_to_train(tmp_path, shape):
    folder = tiny_model(tmp_path, **shape)
    slow, fast = load_nf4(folder), load_nf4(folder, for_inference=True)
    prompts = {
        "input_ids": torch.tensor([[3, 4, 5, 9, 10], [0, 0, 7, 8, 6]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]),
    }
    written = [
        model.generate(**prompts, max_new_tokens=12, min_new_tokens=12, do_sample=False)
        for model in (slow, fast)
    ]
    # The last of bfloat16's eight bits is 4e-3; both forms round their products on the way.
    with torch.no_grad():
        mine, theirs = (model(**prompts).logits[:, 2:] for model in (fast, slow))
    assert (mine - theirs).norm() < 2e-2 * theirs.norm()
    assert [ids.shape for ids in written] == [(2, 17), (2, 17)]
