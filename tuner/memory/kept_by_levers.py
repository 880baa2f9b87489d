"""
What a forward pass by the levers of training/speed leaves in memory for the backward pass.

As activations.py, for SFT with LoRA or QLoRA on a CPU: rows without padding, attention whose
weights are made again, layers and their adapters in one function, norms that keep their input as
it came. Compared with autograd's own count in tests/memory, for every family that gets all of it.
"""

from collections.abc import Iterator

from tuner.base_models.architecture import Architecture
from tuner.memory.forward import FLOAT, Pass

GATED_MLP = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}


def kept_with_levers(model: Architecture, run: Pass) -> int:
    """Bytes that all blocks together keep for their backward."""
    block = (
        _by_norms(model, run)
        + run.element * (_by_attention(model) + _by_nonlinearity(model, run))
        + run.element * sum(_adapter_inputs(model, run))
    )
    through_a = sum(blocks * run.rank * run.element for _, blocks in run.targets)
    return run.tokens * (model.blocks * block + through_a)


def _by_norms(model: Architecture, run: Pass) -> int:
    """Per token and block: the input as it came, and one statistic."""
    family = model.family
    width, statistics = family.norms * model.hidden, family.norms
    if family.norm == "layer":
        inputs = 1 if family.parallel else family.norms
        return run.element * (inputs * model.hidden + 2 * statistics)
    if family.qk_norm:
        width += model.query + model.key_value
        statistics += 2 if family.qk_norm == "all" else model.heads + model.kv_heads
    element = FLOAT if family.offset_norm else run.element
    return element * width + FLOAT * statistics


def _by_attention(model: Architecture) -> int:
    """Numbers per token and block: query, key, value; the output is what its projection reads."""
    joint = model.query + 2 * model.key_value
    is_joint = model.linears[0].outputs == joint
    return model.query + model.key_value + (joint if is_joint else model.key_value)


def _by_nonlinearity(model: Architecture, run: Pass) -> int:
    """Numbers per token and block."""
    if is_fused(model, run):
        return 2 * model.intermediate
    tensors = 3 if model.family.gated else model.family.activation_tensors
    return tensors * model.intermediate


def _adapter_inputs(model: Architecture, run: Pass) -> Iterator[int]:
    """Numbers per token and block: what A multiplies, once for all layers that read it."""
    read = {linear.reads: linear.inputs for linear, _ in run.targets}
    for reads, width in read.items():
        if not (reads == "mlp" and is_fused(model, run)):
            yield width


def is_fused(model: Architecture, run: Pass) -> bool:
    """Whether its MLP, with an adapter on each of its layers, is one function."""
    return {linear.name for linear, _ in run.targets} >= GATED_MLP
