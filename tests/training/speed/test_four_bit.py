"""
Levers on packed 4-bit weights: no further from float32 products of the unpacked weights than
bitsandbytes' own way, and no gradient lost after an evaluation or a sample.
"""

from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training.speed.test_sixteen_bits import BATCHES, RATIO, gradient_error, mean_square
from tests.training.speed.tiny_trainers import (
    CPU,
    ROWS,
    differences,
    levers_with,
    our_step,
    our_trainer,
    recipe_of,
)
from tuner.base_models.lookup import find_base_model
from tuner.data.rendering import Renderer
from tuner.levers import LEVERS, LORA_LINEAR
from tuner.models.loading import load_base
from tuner.training.sampling import Sampler


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("base")))


def settings_of(folder: str, **settings) -> dict:
    return {"base_model": folder, "quantization": "nf4", **settings}


def packed(folder: str, dtype: str = "float32") -> nn.Module:
    recipe = recipe_of(**settings_of(folder))
    return load_base(recipe, find_base_model(folder), getattr(torch, dtype), CPU)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_weights_cost_no_more_precision_with_levers_than_without(folder, tmp_path, dtype):
    far: dict[str, list[float]] = {"none": [], "auto": []}
    for rows in BATCHES:
        exact = our_step(packed(folder).dequantize().float(), rows, tmp_path, levers="none")
        for levers, errors in far.items():
            settings = settings_of(folder, dtype=dtype, levers=levers)
            step = our_step(packed(folder, dtype), rows, tmp_path, **settings)
            errors.append(gradient_error(step, exact))
    assert mean_square(far["auto"]) < RATIO * mean_square(far["none"])


@pytest.mark.parametrize("lever", LEVERS)
def test_each_lever_reads_packed_weights_as_bitsandbytes_does(folder, tmp_path, lever):
    # Products are bfloat16's: a last bit of one is 4e-3, and gradients then differ by as much.
    levers = sorted(levers_with(lever, packed(folder)).on)
    theirs, ours = (
        our_step(packed(folder), ROWS, tmp_path, **settings_of(folder, levers=chosen))
        for chosen in ("none", levers)
    )
    loss, gradients = differences(ours, theirs)
    assert loss < 1e-5 and gradients < 2e-2


def test_the_fused_adapter_is_on_for_packed_weights(folder):
    assert LORA_LINEAR in levers_with(LORA_LINEAR, packed(folder))


@pytest.mark.parametrize("levers", ["none", "auto", *LEVERS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation_and_a_sample_leave_gradients_as_they_were(folder, tmp_path, levers, dtype):
    """On CPUs with AVX512-BF16, bitsandbytes would repack weights into a form without backward."""
    if levers in LEVERS:
        levers = sorted(levers_with(levers, packed(folder)).on)
    settings = settings_of(folder, dtype=dtype, levers=levers, micro_batch_size=2)
    settings["lora"] = {"r": 4, "target_modules": ["q_proj", "down_proj"]}  # others have no adapter
    trainer = our_trainer(
        packed(folder, dtype), recipe_of(**settings), tmp_path, evaluation=ROWS[:3]
    )
    before = gradients_of(trainer)
    trainer.evaluate()
    Sampler(Renderer(tiny_tokenizer(), 64), None, 4).answer(trainer.model, ["Where is it?"])
    after = gradients_of(trainer)
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))


def gradients_of(trainer: Any) -> list[torch.Tensor]:
    """Of the embedded tokens, whose way leads through every frozen weight, and of the adapter."""
    embedded: list[torch.Tensor] = []
    hook = trainer.model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: embedded.append(output.requires_grad_())
    )
    trainer.model.train()
    if hasattr(trainer.data_collator, "threads"):
        trainer.data_collator.threads = 1  # what is embedded in threads is not in this one's graph
    batch = trainer.data_collator([trainer.train_dataset[at] for at in range(len(ROWS))])
    # As in training: the trainer asks for it only where it trains or evaluates.
    with torch.autocast("cpu", torch.bfloat16, enabled=trainer.args.bf16):
        loss = trainer.compute_loss(trainer.model, batch)
    hook.remove()
    adapter = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, [*embedded, *adapter])
    assert len(embedded) == 1 and all(gradient.any() for gradient in gradients)
    return list(gradients)
