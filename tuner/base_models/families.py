"""
The model families whose every layer is known: how each one names, joins and norms its layers.

The names are transformers' own, so that lora.target_modules means the same here and there.
architecture.py turns a Family and a config.json into layers; tests/memory compares all of
them with transformers. To add one, print a tiny model of it, and fill in what differs from Llama.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """What the models of one `model_type` have in common.

    Args:
        attention: Layer names, with q, k and v in one or in three.
        mlp: Layer names: gate, up and down (the first two perhaps in one), or up and down.
        qkv_bias, output_bias, mlp_bias: A fact, or the config's key and its default.
        norm: How it is written decides what autograd keeps of it: see memory/activations.py.
        norms: Per block; the parameters of each are `hidden` (twice that with a bias).
        qk_norm: Query and key are normed, per head or over all heads.
        activation_tensors: Tensors that the MLP's nonlinearity keeps for its backward.
        concatenated_rope: Rotated and passed-through parts are joined, which changes the layout of
            query and key, so that the attention's output is copied before it is projected.
        offset_norm: RMS norms multiply by 1 + w, in float32.
        eager: Attention scores are held in memory (softcapping, which sdpa does not do).
    """

    attention: str = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
    mlp: str = "mlp.gate_proj mlp.up_proj mlp.down_proj"
    gated: bool = True
    qkv_bias: bool | tuple[str, bool] = False
    output_bias: bool | tuple[str, bool] = False
    mlp_bias: bool | tuple[str, bool] = False
    head_bias: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norms: int = 2
    qk_norm: Literal["", "head", "all"] = ""
    parallel: bool = False
    rope: bool = True
    concatenated_rope: bool = False
    offset_norm: bool = False
    eager: bool = False
    activation_tensors: int = 1
    tied: bool = False
    kv_heads: int | None = None
    head_dim: int | None = None
    blocks: str = "model.layers"
    embeddings: str = "model.embed_tokens"


ATTENTION_BIAS = ("attention_bias", False)
MLP_BIAS = ("mlp_bias", False)
USE_BIAS = ("use_bias", True)
LLAMA = Family(qkv_bias=ATTENTION_BIAS, output_bias=ATTENTION_BIAS, mlp_bias=MLP_BIAS)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "granite": LLAMA,
    "smollm3": Family(
        qkv_bias=ATTENTION_BIAS,
        output_bias=ATTENTION_BIAS,
        mlp_bias=MLP_BIAS,
        tied=True,
        kv_heads=4,
    ),
    "granitemoehybrid": Family(
        mlp="shared_mlp.input_linear shared_mlp.output_linear",
        qkv_bias=ATTENTION_BIAS,
        output_bias=ATTENTION_BIAS,
    ),
    "mistral": Family(kv_heads=8),
    "qwen2": Family(qkv_bias=True, kv_heads=32),
    "qwen3": Family(
        qkv_bias=ATTENTION_BIAS,
        output_bias=ATTENTION_BIAS,
        qk_norm="head",
        kv_heads=32,
        head_dim=128,
    ),
    "olmo2": Family(qkv_bias=ATTENTION_BIAS, output_bias=ATTENTION_BIAS, qk_norm="all"),
    "phi3": Family(
        attention="self_attn.qkv_proj self_attn.o_proj",
        mlp="mlp.gate_up_proj mlp.down_proj",
        concatenated_rope=True,
    ),
    "phi": Family(
        attention="self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.dense",
        mlp="mlp.fc1 mlp.fc2",
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        norm="layer",
        norms=1,
        parallel=True,
        concatenated_rope=True,
        activation_tensors=4,  # gelu_new is written out in Python
    ),
    "gemma": Family(
        qkv_bias=ATTENTION_BIAS,
        output_bias=ATTENTION_BIAS,
        offset_norm=True,
        tied=True,
        kv_heads=16,
        head_dim=256,
    ),
    "gemma2": Family(
        qkv_bias=ATTENTION_BIAS,
        output_bias=ATTENTION_BIAS,
        norms=4,
        offset_norm=True,
        eager=True,
        tied=True,
        kv_heads=4,
        head_dim=256,
    ),
    "gemma3_text": Family(
        qkv_bias=ATTENTION_BIAS,
        output_bias=ATTENTION_BIAS,
        norms=4,
        offset_norm=True,
        qk_norm="head",
        tied=True,
        kv_heads=4,
        head_dim=256,
    ),
    "starcoder2": Family(
        mlp="mlp.c_fc mlp.c_proj",
        gated=False,
        qkv_bias=USE_BIAS,
        output_bias=USE_BIAS,
        mlp_bias=USE_BIAS,
        norm="layer",
        tied=True,
        kv_heads=2,
    ),
    "gpt_neox": Family(
        attention="attention.query_key_value attention.dense",
        mlp="mlp.dense_h_to_4h mlp.dense_4h_to_h",
        gated=False,
        qkv_bias=("attention_bias", True),
        output_bias=("attention_bias", True),
        mlp_bias=True,
        norm="layer",
        parallel=True,
        concatenated_rope=True,
        blocks="gpt_neox.layers",
        embeddings="gpt_neox.embed_in",
    ),
    "gpt_bigcode": Family(
        attention="attn.c_attn attn.c_proj",
        mlp="mlp.c_fc mlp.c_proj",
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        norm="layer",
        rope=False,
        tied=True,
        blocks="transformer.h",
        embeddings="transformer.wte",
    ),
}
