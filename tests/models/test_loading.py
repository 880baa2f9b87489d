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
