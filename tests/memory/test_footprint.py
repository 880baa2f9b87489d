"""Weights and optimizer states, beside what bitsandbytes and PyTorch really hold."""

from itertools import accumulate
from typing import Any

import pytest
import torch
import trl.trainer.utils
from bitsandbytes.nn import Int8Params, Params4bit
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM
from trl.kernels import chunked_logprob

from tests.tiny_models import tiny_config, tiny_model
from tuner.base_models.architecture import Architecture, read_architecture, target_linears
from tuner.base_models.lookup import find_base_model
from tuner.memory.estimate import PROOF_TOKENS
from tuner.memory.footprint import (
    OWN_TILE,
    OWN_WIDENED,
    TILE_TOKENS,
    TILE_VOCABULARY,
    Trained,
    adapter_tensors,
    count_trained,
    held_weights,
    model_tensors,
    nf4_bits,
    optimizer_state,
    own_tile,
)
from tuner.memory.overhead import PACKING
from tuner.models.loading import load_base
from tuner.recipe import make_recipe
from tuner.training import verify
from tuner.training.speed.trained_loss import (
    LOGITS_AT_ONCE,
    WIDENED_AT_ONCE,
    summed_loss_of,
)

SHAPE = {"hidden_size": 192, "intermediate_size": 448}  # blocks of 64 and 256 are not all full


def architecture(family: str = "llama", **shape: Any) -> Architecture:
    return read_architecture(tiny_config(family, **shape).to_dict())


def held(model: torch.nn.Module) -> int:
    """Bytes of all parameters, with the scales and tables of quantized ones."""
    total = 0
    for parameter in model.parameters():
        total += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            tensors = [state.absmax, state.code, state.offset]
            total += sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
            state = state.state2
        scales = getattr(parameter, "SCB", None)
        total += scales.nbytes if scales is not None else 0
    return total


def test_double_quantization_saves_what_the_qlora_article_says():
    assert nf4_bits(double_quantization=False) - nf4_bits() == pytest.approx(0.373, abs=5e-4)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_weights_take_the_bytes_that_a_loaded_model_holds(family, quantization, tmp_path):
    folder = tiny_model(tmp_path, family, **SHAPE)
    recipe = make_recipe({"base_model": str(folder), "quantization": quantization})
    base = find_base_model(str(folder))
    model = load_base(recipe, base, torch.bfloat16, torch.device("cpu"))
    layers = architecture(family, **SHAPE)

    estimated = held_weights(layers, base.parameters, quantization, element=2)

    assert estimated == pytest.approx(held(model), rel=0.005)


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_have_the_parameters_that_peft_gives_them(dora):
    config = tiny_config("llama")
    settings = LoraConfig(target_modules="all-linear", r=8, use_dora=dora, task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_config(config), settings)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)

    targets = target_linears(architecture(), "all-linear")

    assert count_trained(adapter_tensors(targets, 8, dora)) == trained


@pytest.mark.parametrize(
    ("optim", "make"),
    [
        ("adamw_torch", torch.optim.AdamW),
        ("adamw_torch_fused", lambda tensors: torch.optim.AdamW(tensors, fused=True)),
        ("adamw_8bit", None),
        ("sgd", torch.optim.SGD),
        ("adafactor", None),
    ],
)
def test_an_optimizer_remembers_the_bytes_that_are_estimated(optim, make):
    # Below and above the size from which bitsandbytes keeps 8-bit states, and a vector.
    shapes = [(16, 64), (512, 300), (96, 1)]
    tensors = [torch.nn.Parameter(torch.randn(shape).squeeze(-1)) for shape in shapes]
    optimizer = (make or OTHERS[optim])(tensors)
    sum((tensor**2).sum() for tensor in tensors).backward()
    optimizer.step()

    estimated = optimizer_state([Trained(shape, 1) for shape in shapes], optim, element=4)

    assert estimated == pytest.approx(remembered(optimizer), rel=0.02, abs=100)


def adam_8bit(tensors: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(tensors)


def adafactor(tensors: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    from transformers import Adafactor

    return Adafactor(tensors)


OTHERS = {"adamw_8bit": adam_8bit, "adafactor": adafactor}


def remembered(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the states of all parameters; a table that they share is passed over."""
    values = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not name.startswith("qmap")
    ]
    return sum(value.nbytes for value in values)


def test_a_model_that_trains_whole_trains_all_its_parameters():
    for family in ("llama", "gemma2", "gpt_neox"):
        layers = architecture(family)

        assert count_trained(model_tensors(layers, layers.parameters)) == layers.parameters


def test_the_tiles_of_the_logits_are_those_of_trl_and_of_our_loss():
    assert (LOGITS_AT_ONCE, WIDENED_AT_ONCE) == (OWN_TILE, OWN_WIDENED)
    assert PROOF_TOKENS == verify.ROWS * verify.TOKENS
    assert chunked_logprob.TOKEN_CHUNK_SIZE == TILE_TOKENS
    assert trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE == TILE_VOCABULARY


@pytest.mark.parametrize("tokens", [300, 700, 1700], ids=["one piece", "two", "four"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_our_loss_takes_the_memory_that_is_estimated(dtype, tokens):
    layers = architecture(vocab_size=32768)
    hidden = torch.randn(1, tokens, layers.hidden, dtype=dtype, requires_grad=True)
    weight = torch.randn(layers.vocab, layers.hidden, dtype=dtype)
    targets = torch.randint(layers.vocab, (1, tokens))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        summed_loss_of(hidden, targets, weight)

    estimated = own_tile(layers, tokens, dtype.itemsize)

    assert estimated == pytest.approx(most_at_once(profiled), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_packing_a_layer_takes_no_more_than_is_estimated(quantization, dtype):
    weight = torch.randn(512, 768, dtype=dtype)
    packed = {
        "nf4": lambda: Params4bit(weight, requires_grad=False, quant_type="nf4").to("cpu"),
        "int8": lambda: Int8Params(weight, requires_grad=False).to("cpu"),
    }
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        packed[quantization]()

    taken = most_at_once(profiled) / weight.numel()

    assert 0.7 * PACKING[quantization] < taken < 1.02 * PACKING[quantization]


def most_at_once(profiled: Any) -> int:
    """Bytes of tensors that were made while the profiler looked, when they were most."""
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events))
