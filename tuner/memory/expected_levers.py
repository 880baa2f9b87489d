"""
Which levers of training/speed a run will take, as far as its recipe and a config tell.

    expected_levers(recipe, config, read_architecture(config), "cpu")

training/speed/levers.py decides with the model in hand; tests compare the two for every family.
What a config does not show is taken as not there, so that memory is rather over- than
underestimated: an unknown family gets norms and an MLP of its own.
"""

from collections.abc import Mapping
from typing import Any

from tuner.base_models.architecture import Architecture, target_linears
from tuner.levers import (
    CONTEXT_PARALLEL,
    GATED_MLP,
    LORA_LINEAR,
    PROVEN,
    RMS_NORM,
    ROW_ATTENTION,
    TRAINED_LOSS,
)
from tuner.recipe import Recipe, chosen_levers

# What comes with another lever.
COMPANIONS = (
    (ROW_ATTENTION, TRAINED_LOSS),
    (CONTEXT_PARALLEL, ROW_ATTENTION),
    (GATED_MLP, LORA_LINEAR),
)

# Where the config does not say: Mistral's attention has a window, of others that can have one the
# window is off.
WINDOWED, OFF_UNLESS_SAID = ("mistral", "gemma2", "gemma3_text"), ("qwen2", "qwen3", "smollm3")
GATED_MLP_LAYERS = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}


def expected_levers(
    recipe: Recipe, config: Mapping[str, Any], model: Architecture, device: str
) -> frozenset[str]:
    """Levers by name, of those that change what is held in memory (rotary does not).

    Args:
        config: As in config.json.
        device: Its kind.
    """
    if device != "cpu" or recipe.adapter == "none":
        return frozenset()
    config = {**config, **config.get("text_config", {})}
    fitting = set()
    if _has_trained_loss(recipe, config, model):
        fitting.add(TRAINED_LOSS)
        if not _is_random(recipe, config) and _attends_to_all(config, model):
            fitting |= {ROW_ATTENTION, CONTEXT_PARALLEL}
    if _has_plain_adapters(recipe):
        fitting.add(LORA_LINEAR)
        if _has_gated_mlps(recipe, model):
            fitting.add(GATED_MLP)
    if _has_plain_norms(model):
        fitting.add(RMS_NORM)
    return _that_may(fitting, recipe)


def _that_may(fitting: set[str], recipe: Recipe) -> frozenset[str]:
    """Those that the recipe allows; what comes with a lever goes with it."""
    allowed = fitting & set(chosen_levers(recipe))
    for lever, companion in COMPANIONS:
        if companion not in allowed:
            allowed.discard(lever)
    return frozenset(allowed)


def _has_trained_loss(recipe: Recipe, config: Mapping[str, Any], model: Architecture) -> bool:
    experts = config.get("output_router_logits") or config.get("num_experts")
    known = config.get("model_type") in PROVEN and not experts
    return known and recipe.objective == "sft" and not model.softcapped_logits


def _is_random(recipe: Recipe, config: Mapping[str, Any]) -> bool:
    if recipe.lora.lora_dropout or recipe.neftune_noise_alpha:
        return True
    return any(v for name, v in config.items() if "drop" in name and "classifier" not in name)


def _attends_to_all(config: Mapping[str, Any], model: Architecture) -> bool:
    """Whether attention is neither capped nor limited to a window."""
    kinds = set(config.get("layer_types") or ())
    if kinds:
        return kinds == {"full_attention"} and not model.family.eager
    kind = config.get("model_type")
    if not config.get("sliding_window", kind in WINDOWED):
        return not model.family.eager
    return not config.get("use_sliding_window", kind not in OFF_UNLESS_SAID)


def _has_plain_adapters(recipe: Recipe) -> bool:
    plain = recipe.adapter == "lora" and recipe.quantization != "int8"
    return plain and recipe.dtype != "float16"


def _has_gated_mlps(recipe: Recipe, model: Architecture) -> bool:
    targets = target_linears(model, recipe.lora.target_modules)
    adapted = {linear.name for linear, _ in targets} >= GATED_MLP_LAYERS
    return model.exact and adapted and not recipe.lora.lora_dropout


def _has_plain_norms(model: Architecture) -> bool:
    """Whether norms are written as Llama's."""
    family = model.family
    like_llama = family.norm == "rms" and not family.offset_norm and family.qk_norm != "all"
    return model.exact and like_llama
