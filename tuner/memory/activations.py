"""
What a forward pass leaves in memory for the backward pass, tensor by tensor.

PyTorch keeps, for every operation, the inputs its derivative needs. Which these are was read off
autograd itself (torch.autograd.graph.saved_tensors_hooks); tests/memory does so again for
every family, with and without adapters, mixed precision and padding.
Gradient checkpointing, https://arxiv.org/abs/1604.06174: one hidden state per block is kept, and
the rest of one block at a time is computed again.
Not covered: dropout inside the base model (the families covered train without it).
"""

from collections.abc import Iterator

from tuner.base_models.architecture import Architecture
from tuner.levers import GATED_MLP, LORA_LINEAR, RMS_NORM, ROW_ATTENTION
from tuner.memory.forward import FLOAT, Pass
from tuner.memory.kept_by_levers import (
    is_kept_by_attention,
    kept_by_fused_adapters,
    kept_by_fused_mlp,
    kept_by_fused_norms,
    kept_by_row_attention,
)


def kept_by_blocks(model: Architecture, run: Pass) -> int:
    """Bytes that all blocks together keep for their backward."""
    block = (
        _kept_by_norms(model, run)
        + _kept_by_attention(model, run)
        + _kept_by_nonlinearity(model, run)
        + _kept_inputs(model, run)
    )
    by_tokens = run.tokens * (model.blocks * block + _kept_by_adapters(model, run))
    return by_tokens + run.parallel * _per_weight(run)


def kept_by_one_block(model: Architecture, run: Pass) -> int:
    """Bytes that a block keeps; with gradient checkpointing, one at a time does."""
    return kept_by_blocks(model, run) // model.blocks


def checkpoints(model: Architecture, run: Pass) -> int:
    """Bytes of the hidden states that gradient checkpointing keeps, one a block."""
    return run.tokens * model.blocks * model.hidden * run.element


def kept_by_last_norm(model: Architecture, run: Pass) -> int:
    """Bytes that the model's last norm keeps, and its output, which the head reads."""
    rms = model.family.norm == "rms"
    weight_gradient = run.element if run.full and rms else 0
    kept = FLOAT if rms and RMS_NORM not in run.levers else run.element
    return run.tokens * model.hidden * (kept + weight_gradient + run.element)


def dora_norm(run: Pass) -> int:
    """Bytes for DoRA's norms of W + BA by rows, at the largest of its layers.

    peft multiplies an identity matrix through A and B to get BA, scales it and adds it to W.
    """
    if not run.dora:
        return 0
    made = (linear.inputs * (linear.inputs + 3 * linear.outputs) for linear, _ in run.targets)
    return run.parallel * run.element * max(made, default=0)


def _per_weight(run: Pass) -> int:
    """Bytes that don't grow with the tokens."""
    kept = 0
    for linear, blocks in run.targets:
        # Autocast keeps 16-bit copies of the adapter's float32 weights.
        if run.element < FLOAT and LORA_LINEAR not in run.levers:
            kept += blocks * (linear.inputs + linear.outputs) * run.rank * run.element
        if run.dora:
            kept += blocks * 3 * linear.outputs * FLOAT  # norms of W + BA, and what they scale
    return kept


def _kept_by_norms(model: Architecture, run: Pass) -> int:
    """Per token. An RMS norm computes in float32, and keeps that copy of its input."""
    if RMS_NORM in run.levers:
        return kept_by_fused_norms(model, run)
    family = model.family
    if family.norm == "layer":
        inputs = 1 if family.parallel else family.norms  # parallel branches norm the same tensor
        return inputs * model.hidden * run.element + family.norms * 2 * run.element
    width, statistics = family.norms * model.hidden, family.norms
    if family.qk_norm:
        width += model.query + model.key_value
        statistics += 2 if family.qk_norm == "all" else model.heads + model.kv_heads
    return FLOAT * (width + statistics) + (run.element * width if run.full else 0)


def _kept_by_attention(model: Architecture, run: Pass) -> int:
    """Per token: query, key, value, output, the softmax's normaliser, and a mask if any."""
    if ROW_ATTENTION in run.levers:
        return kept_by_row_attention(model, run)
    if model.family.eager:
        # tanh of the scores, their softmax in float32, and that in 16 bit: 8 bytes either way.
        scores = model.heads * run.length * 2 * FLOAT
        return 3 * model.query * run.element + scores
    mask = run.length if run.padded else 0  # sdpa turns the mask into numbers, anew in each block
    numbers = _kept_projections(model, run.padded) + model.query + mask
    return numbers * run.element + model.heads * FLOAT


def _kept_projections(model: Architecture, padded: bool) -> int:
    """Numbers per token of query, key and value. A view of a joint projection keeps all of it."""
    joint = model.query + 2 * model.key_value
    is_joint = model.linears[0].outputs == joint
    if is_joint and not model.family.rope:
        return joint
    if padded and 1 < model.kv_heads < model.heads:
        return 3 * model.query  # with a mask, sdpa wants as many keys as queries
    return model.query + model.key_value + (joint if is_joint else model.key_value)


def _kept_by_nonlinearity(model: Architecture, run: Pass) -> int:
    """Per token: gated, the gate before and after its nonlinearity, and what it gates."""
    if GATED_MLP in run.levers:
        return kept_by_fused_mlp(model, run)
    tensors = 3 if model.family.gated else model.family.activation_tensors
    return tensors * model.intermediate * run.element


def _kept_inputs(model: Architecture, run: Pass) -> int:
    """Per token and block: inputs of linear layers that a weight's gradient needs, each once.

    A frozen layer needs none, except that bitsandbytes' 8-bit layers hold on to theirs.
    """
    shared = run.full or run.int8
    widths = {linear.reads: linear.inputs for linear in model.linears} if shared else {}
    new = (w for reads, w in widths.items() if not is_kept_by_attention(model, run, reads))
    return run.element * sum(new)


def _kept_by_adapters(model: Architecture, run: Pass) -> int:
    """Per token, over all blocks."""
    if LORA_LINEAR in run.levers:
        return kept_by_fused_adapters(model, run)
    total = 0
    for linear, blocks in run.targets:
        total += blocks * run.rank * run.element  # what A hands to B
        total += blocks * (2 * linear.outputs * run.element if run.dora else 0)
    return total + sum(_kept_adapter_inputs(model, run))


def _kept_adapter_inputs(model: Architecture, run: Pass) -> Iterator[int]:
    """Per token: what A multiplies.

    In float32 layers that read the same tensor share it. In mixed precision peft casts every
    adapter's input to float32 and autocast casts it back: a copy for each.
    """
    if run.element < FLOAT or run.dropout:
        for linear, blocks in run.targets:
            mask = FLOAT if run.dropout else 0
            yield blocks * linear.inputs * (run.element + mask)
        return
    if run.int8:
        return  # counted there
    for reads in {linear.reads for linear, _ in run.targets}:
        if not is_kept_by_attention(model, run, reads):
            yield FLOAT * max(b * x.inputs for x, b in run.targets if x.reads == reads)
