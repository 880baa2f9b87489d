"""
Bytes of what a training process holds beside its activations: weights, optimizer, logits.

    >>> round(nf4_bits(double_quantization=False) - nf4_bits(), 3)  # QLoRA, section 3
    0.373

bitsandbytes quantizes the linear layers of the blocks. Embeddings, norms, biases and the head stay
in 16 bit (or 32). QLoRA: https://arxiv.org/abs/2305.14314, LLM.int8(): https://arxiv.org/abs/2208.07339,
8-bit optimizers: https://arxiv.org/abs/2110.02861, Adafactor: https://arxiv.org/abs/1804.04235
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tuner.base_models.architecture import Architecture, Linear
from tuner.memory.forward import FLOAT

NF4_BLOCK = 64  # weights that share one absmax
ABSMAX_BLOCK = 256  # absmax values, themselves in 8 bit, that share one more
NF4_TABLES = (16 + 256) * FLOAT + FLOAT  # per layer: both code books, and the mean absmax

OPTIMIZER_BLOCK = 256  # 8-bit states that share one absmax
SMALLEST_8BIT = 4096  # bitsandbytes keeps 32-bit states for smaller tensors

# trl computes the loss in tiles of the logits (TOKEN_CHUNK_SIZE in trl/kernels/chunked_logprob.py,
# _CHUNKED_LOGPROB_CHUNK_SIZE in trl/trainer/utils.py); a test compares these with trl's.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Bytes for each logit of a tile at the top of its backward, without Triton: five float32 tensors
# (logits, scaled logits, log-probabilities, probabilities, gradient), a boolean one, and two
# float32 ones for the expression under way. Softcapping adds its tanh.
TILE_BACKWARD = 7 * FLOAT + 1
TILE_SOFTCAP = FLOAT
# Of our own loss (training/speed/trained_loss.py): logits at once, which become their gradients in
# place; and how many of them are in float32 at a time.
OWN_TILE, OWN_WIDENED = 1 << 24, 1 << 20


@dataclass(frozen=True)
class Trained:
    """Tensors that train, all of one shape.

    Args:
        shape: Rows and columns; a vector has one column.
        count: How many there are.
        embedding: transformers keeps an embedding's optimizer state in 32 bit.
    """

    shape: tuple[int, int]
    count: int
    embedding: bool = False

    @property
    def numbers(self) -> int:
        return self.shape[0] * self.shape[1]


def nf4_bits(double_quantization: bool = True) -> float:
    """Bits per weight, code books apart."""
    if not double_quantization:
        return 4 + 32 / NF4_BLOCK
    return 4 + 8 / NF4_BLOCK + 32 / (NF4_BLOCK * ABSMAX_BLOCK)


def held_weights(model: Architecture, parameters: int, quantization: str, element: int) -> int:
    """Bytes of the base's weights.

    Args:
        parameters: Of the whole model.
        quantization: nf4, int8 or none.
        element: Bytes of one weight that is not quantized.
    """
    if quantization == "none":
        return parameters * element
    quantized = sum(_quantized(linear, quantization) for linear in model.linears)
    return model.blocks * quantized + (parameters - model.linear_weights) * element


def adapter_tensors(
    targets: Sequence[tuple[Linear, int]], rank: int, dora: bool
) -> Iterator[Trained]:
    """A and B of every adapter, and with DoRA the magnitude of each output.

    >>> layer = Linear("self_attn.q_proj", 4096, 4096, False, "attention_norm")
    >>> sum(t.count * t.numbers for t in adapter_tensors([(layer, 32)], rank=8, dora=False))
    2097152
    """
    for linear, blocks in targets:
        yield Trained((rank, linear.inputs), blocks)
        yield Trained((linear.outputs, rank), blocks)
        if dora:
            yield Trained((linear.outputs, 1), blocks)


def model_tensors(model: Architecture, parameters: int) -> Iterator[Trained]:
    """All weights of the model. What is neither linear nor an embedding counts as one vector."""
    for linear in model.linears:
        yield Trained((linear.outputs, linear.inputs), model.blocks)
    embedding = Trained((model.vocab, model.hidden), 1, embedding=True)
    yield embedding
    if not model.tied:
        yield Trained(embedding.shape, 1)
    matrices = model.linear_weights + embedding.numbers * (1 if model.tied else 2)
    yield Trained((max(0, parameters - matrices), 1), 1)


def count_trained(tensors: Iterable[Trained]) -> int:
    """Parameters that train."""
    return sum(tensor.count * tensor.numbers for tensor in tensors)


def optimizer_state(tensors: Iterable[Trained], optim: str, element: int) -> int:
    """Bytes that the optimizer remembers between steps.

    Args:
        optim: A name of transformers, not `auto`.
        element: Bytes of one trained weight; PyTorch's Adam keeps its moments in the same type.
    """
    return sum(tensor.count * _state(tensor, optim, element) for tensor in tensors)


def logits_tile(model: Architecture, tokens: int, element: int, fused: bool) -> int:
    """Bytes for logits at the top of the backward pass, and for the gradient that comes out.

    Args:
        tokens: Of one micro-batch.
        element: Bytes of one activation.
        fused: By trl's Triton kernel (CUDA), which turns a tile into its gradient in place.
    """
    rows, gradient = min(tokens, TILE_TOKENS), tokens * model.hidden * FLOAT
    if fused:
        return rows * TILE_VOCABULARY * element + gradient
    columns = min(model.vocab, TILE_VOCABULARY)
    softcap = TILE_SOFTCAP if model.softcapped_logits else 0
    backward = rows * columns * (TILE_BACKWARD + softcap)
    # In 16 bit, the tile and its part of the head are widened before they are multiplied.
    widened = (rows + model.hidden) * columns * FLOAT if element < FLOAT else 0
    return rows * columns * element + max(backward, widened) + gradient


def own_tile(model: Architecture, tokens: int, element: int) -> int:
    """The same for the loss of training/speed, were all tokens trained.

    A piece of logits is made while the one before it is still held, and then widened bit by bit.
    """
    rows, few = (max(1, numbers // model.vocab) for numbers in (OWN_TILE, OWN_WIDENED))
    one, two = (min(tokens, count * rows) * model.vocab * element for count in (1, 2))
    widened = min(tokens, few) * model.vocab * FLOAT
    held = 2 if element == FLOAT else 3  # float32 logits need no wider copy
    return max(two, one + held * widened) + 2 * tokens * model.hidden * element


def _quantized(linear: Linear, quantization: str) -> int:
    if quantization == "int8":
        return linear.weights + linear.outputs * FLOAT
    blocks = math.ceil(linear.weights / NF4_BLOCK)
    scales = blocks + math.ceil(blocks / ABSMAX_BLOCK) * FLOAT
    return math.ceil(linear.weights / 2) + scales + NF4_TABLES


def _state(tensor: Trained, optim: str, element: int) -> int:
    if optim == "sgd":
        return 0
    if optim == "adafactor":
        rows, columns = tensor.shape
        return FLOAT * (rows + columns if columns > 1 else rows)
    if not optim.endswith("8bit"):
        return 2 * tensor.numbers * (element if optim.startswith("adamw") else FLOAT)
    if tensor.embedding or tensor.numbers < SMALLEST_8BIT:
        return 2 * tensor.numbers * FLOAT
    return 2 * (tensor.numbers + math.ceil(tensor.numbers / OPTIMIZER_BLOCK) * FLOAT)
