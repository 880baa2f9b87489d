"""
Which levers a run gets, and why it does not get the others.

    levers = choose_levers(model, recipe)
    pull(model, levers)

What is not known to fit steps aside: the reasons are for the run's log.
"""

from dataclasses import dataclass, field
from typing import Any

from tuner.levers import (
    CONTEXT_PARALLEL,
    GATED_MLP,
    LEVERS,
    LORA_LINEAR,
    PROVEN,
    RMS_NORM,
    ROTARY,
    ROW_ATTENTION,
    TRAINED_LOSS,
)
from tuner.recipe import Recipe, chosen_levers
from tuner.training.speed import gated_mlp, lora_linear, rms_norm, rotary
from tuner.training.speed.last_layer import bare
from tuner.training.speed.trained_loss import lend_loss

# What a config calls the number that its logits are multiplied with, or divided by.
MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
DIVISOR = "logits_scaling"


@dataclass(frozen=True)
class Levers:
    """What is on, and for the rest a reason."""

    on: frozenset[str] = frozenset()
    aside: dict[str, str] = field(default_factory=dict)

    def __contains__(self, lever: object) -> bool:
        return lever in self.on

    def names(self) -> list[str] | str:
        """As a recipe has them."""
        return [name for name in LEVERS if name in self.on] or "none"

    def sentence(self) -> str:
        """For the log."""
        shown = ", ".join(name for name in LEVERS if name in self.on) or "no lever"
        left = "; ".join(f"not {name}: {why}" for name, why in self.aside.items())
        return f"Faster by {shown}" + (f" ({left})." if left else ".")


NO_LEVERS = Levers()


def choose_levers(model: Any, recipe: Recipe) -> Levers:
    """What of the recipe's `levers` fits.

    Args:
        model: With its adapter, on its device.
        recipe: Its dtype is no `auto` any more.
    """
    wanted, reasons = chosen_levers(recipe), dict[str, str]()
    for_none = _none_fits(model, recipe)
    for lever, why_not in CHECKS.items():
        reason = for_none or why_not(model, recipe, reasons)
        if reason or lever not in wanted:
            reasons[lever] = reason if lever in wanted else "switched off"
    return Levers(frozenset(CHECKS) - reasons.keys(), reasons)


def pull(model: Any, levers: Levers) -> None:
    """Change the model's forwards; weights and names stay as they are."""
    if TRAINED_LOSS in levers:
        scale = logit_scale(model.config.get_text_config())
        # Nothing is dropped by chance where rows have no padding: see _no_rows.
        lend_loss(bare(model), scale, narrowed=ROW_ATTENTION in levers)
    for lever, fuse in FUSED.items():
        if lever in levers:
            fuse(model)


def release(model: Any) -> None:
    """Give layers their libraries' own forward back, as whoever loads the adapter will compute."""
    for part in (lora_linear.part_lora, gated_mlp.part_mlps, rms_norm.part_norms):
        part(model)


def logit_scale(config: Any) -> float:
    """What a model's logits are multiplied with after its head."""
    for name in MULTIPLIERS:
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    divisor = getattr(config, DIVISOR, None)
    return 1.0 if divisor is None else 1.0 / float(divisor)


def _none_fits(model: Any, recipe: Recipe) -> str:
    return "" if model.device.type == "cpu" else "not measured on GPUs yet"


def _no_trained_loss(model: Any, recipe: Recipe, reasons: dict[str, str]) -> str:
    config = model.config.get_text_config()
    if recipe.objective != "sft":
        return f"{recipe.objective} has a loss of its own"
    if recipe.adapter == "none":
        return "the head trains"
    if getattr(config, "final_logit_softcapping", None):
        return "the logits are capped"
    if getattr(config, "output_router_logits", False) or getattr(config, "num_experts", None):
        return "experts have a loss of their own"
    return "" if config.model_type in PROVEN else f"not proven for {config.model_type}"


def _no_rows(model: Any, recipe: Recipe, reasons: dict[str, str]) -> str:
    config = model.config.get_text_config()
    if TRAINED_LOSS in reasons:
        return "it comes with trained_loss"
    if recipe.lora.lora_dropout or recipe.neftune_noise_alpha or _drops(config):
        # It would fall on other numbers than in a plain script, and NEFTune's depends on the shape.
        return "dropout and noise are drawn for padded rows"
    if _has_windows(config):
        return "attention has a window"
    if getattr(config, "attn_logit_softcapping", None):
        return "attention is capped"
    if config._attn_implementation != "sdpa":
        return f"attention is {config._attn_implementation}"
    return ""


def _no_context_parallel(model: Any, recipe: Recipe, reasons: dict[str, str]) -> str:
    return "it comes with row_attention" if ROW_ATTENTION in reasons else ""


def _drops(config: Any) -> bool:
    """Whether a base brings dropout along, as StarCoder2's do: residual_dropout, resid_pdrop, …"""
    given = config.to_dict().items()
    return any(value for name, value in given if "drop" in name and "classifier" not in name)


def _has_windows(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds:
        return bool(kinds - {"full_attention"})
    window = getattr(config, "sliding_window", None)
    return bool(window) and getattr(config, "use_sliding_window", True)


def _no_lora_linear(model: Any, recipe: Recipe, reasons: dict[str, str]) -> str:
    if recipe.adapter != "lora":
        return f"adapter is {recipe.adapter}"
    if recipe.dtype == "float16":
        return "float16 needs autocast"
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    if not layers or not all(map(lora_linear.qualifies, layers)):
        return "layers of another kind have an adapter"
    return ""


def _no_gated_mlp(model: Any, recipe: Recipe, reasons: dict[str, str]) -> str:
    if LORA_LINEAR in reasons:
        return "it comes with lora_linear"
    if any(map(gated_mlp.qualifies, model.modules())):
        return ""
    return "no MLP is a gated one with LoRA on all of its layers, and without dropout"


def _no_rms_norm(model: Any, recipe: Recipe, reasons: dict[str, str]) -> str:
    return "" if any(map(rms_norm.qualifies, model.modules())) else "no norm is as Llama's"


def _no_rotary(model: Any, recipe: Recipe, reasons: dict[str, str]) -> str:
    if recipe.objective != "sft":
        return "only measured for sft"
    return "" if rotary.qualifies(model) else "positions are not turned as Llama's"


# Lever → why it does not fit, "" where it does; a later one may ask about those before it.
CHECKS = {
    TRAINED_LOSS: _no_trained_loss,
    ROW_ATTENTION: _no_rows,
    CONTEXT_PARALLEL: _no_context_parallel,
    LORA_LINEAR: _no_lora_linear,
    GATED_MLP: _no_gated_mlp,
    RMS_NORM: _no_rms_norm,
    ROTARY: _no_rotary,
}
FUSED = {
    LORA_LINEAR: lora_linear.fuse_lora,
    GATED_MLP: gated_mlp.fuse_mlps,
    RMS_NORM: rms_norm.fuse_norms,
}
