"""
How long a run takes, to within a factor of two: arithmetic for its tokens, and what comes on top.

Operations per token: two for each weight forward, two more for the gradient of what it reads, two
more for its own where it trains (https://arxiv.org/abs/2001.08361, section 2.1). SHARE, OVERHEAD
and START_SECONDS are measured: bench/estimate.py prints estimated beside measured seconds.
Not covered: downloads, several GPUs that wait for one another, a machine that does other work too.
"""

import math

from tuner.base_models.architecture import Architecture
from tuner.device import Device, matmul_flops
from tuner.recipe import Recipe, chosen_levers
from tuner.schedule import WRITTEN, cadence, held_out_rows, total_steps

# Of the device's matrix multiplication alone, what training reaches; norms, softmax, copies and
# the optimizer take the rest. A CPU's is measured in float32, a GPU's is its data sheet's.
SHARE = {"cpu": 0.5, "mps": 0.3, "cuda": 0.35}
OVERHEAD = {"cpu": 0.04, "mps": 0.06, "cuda": 0.08}  # seconds per micro-batch, however small
START_SECONDS = 12.0  # imports, data, loading, the first try; and at the end, loading again
QUANTIZED = {"none": 1.0, "int8": 1.5, "nf4": 1.4}  # times slower: weights are unpacked to be used
# How much faster the levers of training/speed make a step, padding apart (bench/speed.py).
BY_LEVERS = 1.7
PADDED = 1.5  # tokens computed for one that is not padding, where rows of any length share a batch
TOKENS_A_SECOND = {"cpu": 100.0, "mps": 40.0, "cuda": 25.0}  # of each sample, at most


def training_seconds(
    recipe: Recipe,
    model: Architecture,
    device: Device,
    micro_batch_size: int,
    checkpointing: bool,
    rows: int | None,
    mean_tokens: float,
) -> float | None:
    """Seconds from the start of the process to its result.

    Args:
        rows: That train. With packing, packed sequences.
        mean_tokens: Of a row, padding apart.

    Returns:
        None if neither the number of rows nor of steps is known.
    """
    if rows is None and recipe.max_steps is None:
        return None
    steps = total_steps(recipe, rows or 0)
    levers = uses_levers(recipe, device)
    alone = recipe.packing or micro_batch_size == 1 or levers
    padded = mean_tokens * (1.0 if alone else PADDED)
    forward = 2 * model.parameters * padded / _speed(recipe, device)
    passes = 2 + (recipe.adapter == "none") + checkpointing
    micro_batches = steps * recipe.batch_size / micro_batch_size / device.count
    training = micro_batches * (forward * passes * micro_batch_size + OVERHEAD[device.kind])
    if levers:
        training /= BY_LEVERS
    every = cadence(recipe, steps, rows, mean_tokens)["eval_steps"]
    token = training / max(1.0, steps * recipe.batch_size * mean_tokens)
    once = _evaluation(recipe, rows, forward) + _samples(recipe, device, token)
    return START_SECONDS + training + (1 + math.ceil(steps / every)) * once


def uses_levers(recipe: Recipe, device: Device) -> bool:
    """Whether training takes the levers of training/speed, as far as a recipe tells."""
    wanted = "row_attention" in chosen_levers(recipe)
    random = recipe.lora.lora_dropout or recipe.neftune_noise_alpha
    plain = (recipe.adapter, recipe.objective) == ("lora", "sft") and not random
    return wanted and plain and device.kind == "cpu"


def _speed(recipe: Recipe, device: Device) -> float:
    """Operations per second."""
    return matmul_flops(device) * SHARE[device.kind] / QUANTIZED[recipe.quantization]


def _evaluation(recipe: Recipe, rows: int | None, forward: float) -> float:
    """Seconds for the held-out rows."""
    return forward * held_out_rows(recipe, rows or 0)


def _samples(recipe: Recipe, device: Device, token: float) -> float:
    """Seconds for the samples at their longest; `token` is a training token's."""
    if not recipe.sample_prompts:
        return 0.0
    return recipe.sample_max_new_tokens * max(1 / TOKENS_A_SECOND[device.kind], WRITTEN * token)
