"""
What a forward pass by the levers of training/speed leaves in memory for the backward pass.

Each function here takes the place of one in activations.py where its lever is on: norms that keep
their input as it came, attention whose weights are made again, layers and their adapters in one
function. Compared with autograd's own count in tests/memory.
"""

from collections.abc import Iterator

from tuner.base_models.architecture import Architecture
from tuner.levers import GATED_MLP, ROW_ATTENTION
from tuner.memory.forward import FLOAT, Pass


def kept_by_fused_norms(model: Architecture, run: Pass) -> int:
    """Bytes per token and block: the input as it came, and one statistic."""
    width, statistics = model.family.norms * model.hidden, model.family.norms
    if model.family.qk_norm:
        width += model.query + model.key_value
        statistics += model.heads + model.kv_heads
    return run.element * width + FLOAT * statistics


def kept_by_row_attention(model: Architecture, run: Pass) -> int:
    """Bytes per token and block: query, key, value; the output is what its projection reads."""
    joint = model.query + 2 * model.key_value
    is_joint = model.linears[0].outputs == joint
    numbers = model.query + model.key_value + (joint if is_joint else model.key_value)
    return numbers * run.element


def kept_by_fused_mlp(model: Architecture, run: Pass) -> int:
    """Bytes per token and block: what gate and up gave."""
    return 2 * model.intermediate * run.element


def kept_by_fused_adapters(model: Architecture, run: Pass) -> int:
    """Bytes per token, over all blocks: what A hands to B, and what it reads."""
    through_a = sum(blocks * run.rank for _, blocks in run.targets)
    return run.element * (through_a + sum(_adapter_inputs(model, run)))


def _adapter_inputs(model: Architecture, run: Pass) -> Iterator[int]:
    """Numbers per token: what A multiplies, once for all layers that read it.

    Dropout makes a copy for each layer, and a mask.
    """
    if run.dropout:
        yield from (2 * blocks * linear.inputs for linear, blocks in run.targets)
        return
    for reads in {linear.reads for linear, _ in run.targets}:
        inside_mlp = reads == "mlp" and GATED_MLP in run.levers
        if not inside_mlp and not is_kept_by_attention(model, run, reads):
            yield max(b * x.inputs for x, b in run.targets if x.reads == reads)


def is_kept_by_attention(model: Architecture, run: Pass, reads: str) -> bool:
    """Whether a layer reads what attention keeps anyway: sdpa keeps its own output."""
    is_sdpa = not (model.family.eager or ROW_ATTENTION in run.levers)
    return reads == "attention" and is_sdpa and not model.family.concatenated_rope
