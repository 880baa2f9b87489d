"""
What a training process holds beside its tensors: code, compiled programs, holes, files.

Measured on runs of bench/estimate.py, with Linux's and glibc's own counts (VmHWM, mallinfo2).
"""

import math

from tuner.base_models.architecture import Architecture
from tuner.base_models.lookup import BaseModel
from tuner.device import Device
from tuner.levers import ROW_ATTENTION
from tuner.memory.forward import FLOAT, Pass
from tuner.recipe import Recipe

MB = 10**6
# What a process takes of a device before it holds one tensor: on a CPU, Python's and torch's code
# (515 MB of torch 2.13, transformers 5.23, peft and trl); on a GPU, the CUDA context and cuBLAS.
PROCESS = {"cpu": 550 * MB, "mps": 550 * MB, "cuda": 0}
# More of it, touched by the first step, and buffers of oneDNN and MKL.
RUNTIME = {"cpu": 40 * MB, "mps": 40 * MB, "cuda": 600 * MB}
# Of oneDNN's compiled programs in bf16, for each further width of a batch (training/trainer.py
# pads to multiples of 32). Batches are between a mean and the longest row wide.
PROGRAMS, WIDTH_STEP, MOST_WIDTHS = 24 * MB, 32, 32
# Where rows have no padding, the sum of a batch's rows is its width, one of LENGTHS in a doubling
# (speed/few_shapes.py): programs for each, and once for parts and trained tokens of any number.
LENGTHS, A_LENGTH, VARIED = 16, 9 * MB, 130 * MB
# glibc keeps freed tensors for others, and these do not fill the holes: at the top of a forward
# pass a fifth to two fifths of its tensors lie free. It gives the end of its heap back once more
# than trim_threshold is free there (device.TRAINING_ENVIRONMENT), and large pieces at once.
HOLES, MOST_HOLES = 3, 48 * MB
TRIM_THRESHOLD = 1 << 26
# Bytes per weight of a layer while bitsandbytes packs it on a CPU: float32 copies and a comparison.
PACKING = {"none": 0, "nf4": 14, "int8": 10}
# A thread that takes rows of its own has a heap of its own, whose end malloc_trim leaves as it is.
END_OF_HEAP = 20 * MB


def runtime(device: Device, run: Pass, spread: float) -> int:
    """Bytes of what computes.

    Args:
        run: The micro-batch that trains.
        spread: Tokens between the mean and the longest row.
    """
    if device.kind != "cpu" or run.element == FLOAT:
        return RUNTIME[device.kind]
    if ROW_ATTENTION in run.levers:
        return RUNTIME["cpu"] + _programs_of_rows(run, spread)
    return RUNTIME["cpu"] + min(round(spread / WIDTH_STEP), MOST_WIDTHS) * PROGRAMS


def _programs_of_rows(run: Pass, spread: float) -> int:
    """Sums of n rows lie within about 2 spread times the root of n."""
    if spread < 1:
        return PROGRAMS
    within = 2 * spread / math.sqrt(run.rows) / max(1.0, run.length - spread)
    lengths = min(round(within * 1.5 * LENGTHS), 2 * LENGTHS)
    return VARIED + lengths * A_LENGTH


def holes(device: Device, run: Pass, activations: int, most: int) -> int:
    """Bytes that are free between tensors in training. On a GPU, PyTorch's count has none.

    Args:
        activations: Bytes of them at this moment.
        most: And when they are most.
    """
    if device.kind == "cuda":
        return 0
    between = min(most // HOLES, MOST_HOLES)
    # Threads of their own give next to nothing back.
    return max(between, most - activations) if run.parallel > 1 else between


def freed(device: Device, run: Pass, activations: int) -> int:
    """Bytes that were activations and stay with the process after its last step."""
    if device.kind == "cuda":
        return 0
    return activations if run.parallel > 1 else min(activations, TRIM_THRESHOLD)


def left(run: Pass, activations: int) -> int:
    """The same when the trained model is let go of, and all heaps are trimmed."""
    return min(activations, run.parallel * END_OF_HEAP) if run.parallel > 1 else 0


def beside_loaded_weights(
    recipe: Recipe, base: BaseModel, model: Architecture, device: Device, element: int
) -> int:
    """Bytes beside the weights of a model that is loaded: their file, and a layer being packed.

    A file in the right precision is mapped, and its pages are the weights. One in another
    precision, or of weights that are quantized, goes when all of it is converted and the rest
    copied (models/loading.py). On its way to a GPU, it passes through the machine's memory.
    """
    if device.kind == "cuda":
        return 0
    serves = round(base.weight_bytes / base.parameters) == element
    file = 0 if serves and recipe.quantization == "none" else base.weight_bytes
    largest = max(linear.weights for linear in model.linears)
    return file + PACKING[recipe.quantization] * largest
