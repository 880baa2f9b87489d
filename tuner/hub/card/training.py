"""
How a run was trained and what came of it, as a card tells it: figures, hardware, recipe, versions.
"""

import math
from collections.abc import Sequence
from typing import Any

from tuner.hub.card.data import hub_dataset, is_sample, shown_source
from tuner.hub.card.facts import Facts, number
from tuner.hub.card.markdown import cleaned, code, fenced, table, text
from tuner.quantities import duration, gigabytes, loss, parameters, share
from tuner.recipe import Recipe, to_yaml

CURVE = "loss.png"
OBJECTIVES = {
    "sft": "supervised fine-tuning on the answers",
    "dpo": "preferences (DPO)",
    "kto": "preferences (KTO)",
}

Rows = list[tuple[str, str]]


def results(facts: Facts, has_curve: bool) -> str:
    """Figures on rows it did not train on, and the curve."""
    parts = []
    before, after = facts.figure("base_eval_loss"), facts.figure("eval_loss")
    if after is not None:
        parts.append(table(("On held-out rows", "Base", "Tuned"), _losses(facts, before, after)))
    if has_curve:
        told = f"Loss by optimizer step: training{_to(after, ' and held-out rows')}"
        parts.append(f"![{told}]({CURVE})")
    return "\n\n".join(parts)


def training_table(facts: Facts) -> str:
    """Method, hardware, time and memory."""
    rows = [row for row in [*_method(facts), *_machine(facts)] if row[1]]
    return table(("", ""), rows)


def proof(facts: Facts) -> str:
    """What was checked after training."""
    told = []
    if facts.result.get("base_weights_unchanged") is True:
        told.append("The frozen base's weights were the same after training, bit for bit.")
    reload = facts.figure("adapter_reload_max_logit_diff")
    if reload is not None:
        told.append(
            "Loaded again from its files, it gave "
            + ("the same logits." if reload == 0 else f"logits within {reload:.2g}.")
        )
    return " ".join(told)


def recipe_block(facts: Facts) -> str:
    """Every setting, folded, as YAML that Tuner reads."""
    block = fenced(cleaned(to_yaml(published_recipe(facts))), "yaml")
    return f"<details><summary>Every setting, as YAML</summary>\n\n{block}\n\n</details>"


def published_recipe(facts: Facts) -> Recipe:
    """The recipe as others can read it: a local base or file is its last name only."""
    recipe, dataset = facts.recipe, facts.recipe.dataset
    revision = facts.report.get("revision")
    known = {"revision": revision} if isinstance(revision, str) and hub_dataset(facts) else {}
    published = dataset.model_copy(update={"source": _source(facts), **known})
    base = {"base_model": facts.base.name, "revision": facts.base.revision}
    return recipe.model_copy(update={**base, "dataset": published})


def versions(facts: Facts) -> str:
    """Versions of the libraries, in one line."""
    found = facts.result.get("versions")
    known = found.items() if isinstance(found, dict) else ()
    return ", ".join(f"{text(str(name))} {text(str(version))}" for name, version in known)


def _source(facts: Facts) -> str:
    source = facts.recipe.dataset.source
    if is_sample(facts) and facts.preset:  # which everybody's Tuner has in the same place
        return str(facts.preset.values["dataset"]["source"])
    return hub_dataset(facts) or shown_source(source)


def _losses(facts: Facts, before: float | None, after: float) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("Loss", loss(before), loss(after))]
    if facts.recipe.objective == "sft":
        rows.append(("Perplexity", _perplexity(before), _perplexity(after)))
    count = facts.count("eval_rows")
    return [*rows, ("Rows", "", f"{count:,}")] if count else rows


def _perplexity(value: float | None) -> str:
    return "–" if value is None or value > 50 else f"{math.exp(value):.3g}"


def _method(facts: Facts) -> Rows:
    recipe, lora = facts.recipe, facts.recipe.lora
    modules = lora.target_modules
    where = ", ".join(modules) if isinstance(modules, list) else modules
    adapter = f"r {lora.r}, lora_alpha {lora.lora_alpha:g}, dropout {lora.lora_dropout:g}, on "
    packed = ", packed" if recipe.packing else ""
    return [
        ("Method", facts.method),
        ("Adapter", "" if recipe.adapter == "none" else adapter + code(where)),
        ("Objective", OBJECTIVES[recipe.objective]),
        ("Steps", _steps(facts)),
        ("Batch", f"{recipe.batch_size} rows, up to {recipe.max_length:,} tokens each{packed}"),
        ("Learning rate", f"{recipe.learning_rate:g}, {recipe.lr_scheduler_type}"),
        ("Optimizer", text(recipe.optim)),
        ("Trained parameters", _trained(facts)),
        ("Seed", str(recipe.seed)),
    ]


def _machine(facts: Facts) -> Rows:
    peak, planned = facts.figure("peak_memory_bytes"), facts.figure("estimated_memory_bytes")
    took, expected = facts.figure("seconds"), facts.figure("estimated_seconds")
    speed = facts.figure("tokens_per_second")
    return [
        ("Hardware", hardware(facts)),
        ("Precision", text(recipe_dtype(facts))),
        ("Time", duration(took) + _to(expected, ", estimated {}", duration) if took else ""),
        (
            "Peak memory",
            gigabytes(peak) + _to(planned, ", estimated {}", gigabytes) if peak else "",
        ),
        ("Speed", f"{speed:,.0f} tokens/s" if speed else ""),
        ("Versions", versions(facts)),
    ]


def recipe_dtype(facts: Facts) -> str:
    """Precision of the base; empty where it was not decided."""
    return "" if facts.recipe.dtype == "auto" else facts.recipe.dtype


def hardware(facts: Facts) -> str:
    """The machine it was trained on, without its name."""
    found = facts.result.get("hardware")
    told = found if isinstance(found, dict) else {}
    name, device = told.get("name"), facts.result.get("device")
    if not isinstance(name, str):
        return text(device) if isinstance(device, str) else ""
    count, cores, memory = (number(told, key) for key in ("count", "cores", "memory_bytes"))
    is_cpu = isinstance(device, str) and device.startswith("cpu")
    parts = [
        f"{count:g} × {text(name)}" if count and count > 1 else text(name),
        f"{cores:g} CPU cores" if cores and is_cpu else "",
        gigabytes(memory) if memory else "",
    ]
    return ", ".join(filter(None, parts))


def _steps(facts: Facts) -> str:
    steps, kept = facts.figure("steps"), facts.figure("kept_step")
    if steps is None:
        return ""
    epochs = f"at most {facts.recipe.num_train_epochs:g} epochs"
    told = f"{steps:,.0f}" + ("" if facts.recipe.max_steps else f" ({epochs})")
    return told + ("" if kept in (None, steps) else f"; the weights of step {kept:,.0f} were kept")


def _trained(facts: Facts) -> str:
    trained, total = facts.figure("trainable_parameters"), facts.figure("total_parameters")
    if not trained or not total:
        return ""
    return f"{parameters(int(trained))} of {parameters(int(total))} ({share(trained, total)})"


def _to(value: float | None, words: str, shown: Any = str) -> str:
    return "" if value is None else words.format(shown(value))
