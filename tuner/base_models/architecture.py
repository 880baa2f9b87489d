"""
What a model is made of, read from its config.json alone: every linear layer, every parameter.

    >>> llama = read_architecture(LLAMA_7B)
    >>> f"{llama.parameters:,}"
    '6,738,415,616'

Exact for the families in families.py. Any other model is taken for a Llama of its dimensions,
which `exact` then denies.
Not covered: mixtures of experts, state-space layers, vision towers.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuner.base_models.families import FAMILIES, LLAMA, Family
from tuner.base_models.patterns import may_take_for_ever
from tuner.errors import ModelError, RecipeError

Config = Mapping[str, Any]
Reads = Literal["attention_norm", "attention", "mlp_norm", "mlp"]

LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}


@dataclass(frozen=True)
class Linear:
    """One linear layer of a block.

    Args:
        name: Inside its block, as in `self_attn.q_proj`.
        reads: The activation it multiplies. Layers that read the same one share its copy.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool
    reads: Reads

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Architecture:
    """A model's dimensions and layers. All blocks are alike in the families covered.

    Args:
        linears: Of one block.
        positions: Rows of a learnt position embedding; 0 with rotary positions.
        exact: The family is known, so that counts are exact.
    """

    family: Family
    hidden: int
    intermediate: int
    vocab: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    linears: tuple[Linear, ...]
    positions: int
    tied: bool
    softcapped_logits: bool
    exact: bool

    @property
    def parameters(self) -> int:
        """Every parameter of the model, tied weights once."""
        return self.blocks * self.block_parameters + self.outer_parameters

    @property
    def block_parameters(self) -> int:
        biases = sum(linear.outputs for linear in self.linears if linear.bias)
        norms = self.family.norms * self._norm + self._qk_norm
        return sum(linear.weights for linear in self.linears) + biases + norms

    @property
    def outer_parameters(self) -> int:
        """Embeddings, last norm, head: what bitsandbytes leaves in 16 bit, beside the blocks'."""
        embeddings = (self.vocab + self.positions) * self.hidden
        head = 0 if self.tied else self.vocab * self.hidden
        return embeddings + head + self.vocab * self.family.head_bias + self._norm

    @property
    def linear_weights(self) -> int:
        """Weights in the linear layers of all blocks: what bitsandbytes quantizes."""
        return self.blocks * sum(linear.weights for linear in self.linears)

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def _norm(self) -> int:
        return self.hidden * (2 if self.family.norm == "layer" else 1)

    @property
    def _qk_norm(self) -> int:
        widths = {"": 0, "head": 2 * self.head_dim, "all": self.query + self.key_value}
        return widths[self.family.qk_norm]


def read_architecture(config: Config) -> Architecture:
    """Derive the layers of a model from its config.json.

    Raises:
        ModelError: The config does not say how large the model is.
    """
    config = {**config, **config.get("text_config", {})}
    family = _family(config)
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    heads = _number(config, "num_attention_heads", "n_head", "num_heads")
    head_dim = config.get("head_dim") or (family and family.head_dim) or hidden // heads
    sizes = {
        "hidden": hidden,
        "intermediate": _intermediate(config, hidden),
        "heads": heads,
        "kv_heads": _kv_heads(config, family, heads),
        "head_dim": head_dim,
    }
    shape = family or LLAMA
    return Architecture(
        family=shape,
        vocab=_number(config, "vocab_size"),
        blocks=_number(config, "num_hidden_layers", "n_layer", "num_layers"),
        linears=tuple(_linears(config, shape, **sizes)),
        positions=0 if shape.rope else _number(config, "n_positions", "max_position_embeddings"),
        tied=bool(config.get("tie_word_embeddings", shape.tied)),
        softcapped_logits=bool(config.get("final_logit_softcapping", shape.eager)),
        exact=family is not None,
        **sizes,
    )


def target_linears(
    model: Architecture, target_modules: str | list[str]
) -> list[tuple[Linear, int]]:
    """The layers of a block that get an adapter, each with how many blocks give it one.

    Matches as peft does: `all-linear`, a regular expression for the whole path, or name endings.

    Raises:
        RecipeError: The expression is none.
    """
    if isinstance(target_modules, str):
        _require_expression(target_modules)
    if target_modules == "all-linear":
        return [(linear, model.blocks) for linear in model.linears]
    counted = [
        (linear, sum(_is_target(path, target_modules) for path in _paths(model, linear)))
        for linear in model.linears
    ]
    return [(linear, blocks) for linear, blocks in counted if blocks]


def _require_expression(target_modules: str) -> None:
    try:
        re.compile(target_modules)
    except re.error as error:
        raise RecipeError(
            f"lora.target_modules={target_modules} is no regular expression: {error}. "
            "Name layers as a list, or use all-linear."
        ) from None
    if may_take_for_ever(target_modules):
        raise RecipeError(
            f"lora.target_modules={target_modules[:80]} could take for ever to compare with the "
            "names of layers. Repeat no group, or name layers as a list, or use all-linear."
        )


def _is_target(path: str, target_modules: str | list[str]) -> bool:
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in target_modules)


def _paths(model: Architecture, linear: Linear) -> Iterator[str]:
    for block in range(model.blocks):
        yield f"{model.family.blocks}.{block}.{linear.name}"


def _family(config: Config) -> Family | None:
    """None where the model has parts that its family's table does not describe."""
    experts = config.get("num_local_experts") and config.get("model_type") == "granitemoehybrid"
    kinds = set(config.get("layer_types") or ())
    if experts or "mamba" in kinds or config.get("qk_layernorm"):
        return None
    return FAMILIES.get(str(config.get("model_type")))


def _kv_heads(config: Config, family: Family | None, heads: int) -> int:
    if config.get("multi_query"):
        return 1
    if config.get("num_key_value_heads"):
        return int(config["num_key_value_heads"])
    # An explicit null means "as many as heads"; a missing key means the family's default.
    default = None if "num_key_value_heads" in config else family and family.kv_heads
    return default or heads


def _intermediate(config: Config, hidden: int) -> int:
    names = ("shared_intermediate_size", "intermediate_size", "n_inner", "ffn_dim")
    return next((int(config[name]) for name in names if config.get(name)), 4 * hidden)


def _number(config: Config, *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    raise ModelError(
        f"config.json does not say {names[0]}, so this model's size is unknown. "
        "Choose a model whose config.json is complete."
    )


def _linears(
    config: Config,
    family: Family,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
) -> Iterator[Linear]:
    query, key_value = heads * head_dim, kv_heads * head_dim
    *qkv, output = family.attention.split()
    widths = [query, key_value, key_value] if len(qkv) == 3 else [query + 2 * key_value]
    bias = _says(config, family.qkv_bias)
    for name, width in zip(qkv, widths, strict=True):
        yield Linear(name, hidden, width, bias, "attention_norm")
    yield Linear(output, query, hidden, _says(config, family.output_bias), "attention")

    *up, down = family.mlp.split()
    fused = family.gated and len(up) == 1
    bias = _says(config, family.mlp_bias)
    one_norm = family.parallel and family.norms == 1
    reads: Reads = "attention_norm" if one_norm else "mlp_norm"
    for name in up:
        yield Linear(name, hidden, intermediate * (2 if fused else 1), bias, reads)
    yield Linear(down, intermediate, hidden, bias, "mlp")


def _says(config: Config, fact: bool | tuple[str, bool]) -> bool:
    return fact if isinstance(fact, bool) else bool(config.get(*fact))
