"""
A card's front matter: what the Hub sorts, links and checks by.

Written by huggingface_hub's own ModelCardData, so that its readers read it. A base that is not on
the Hub is not named there: the name of a folder could be somebody else's model.
"""

import re
from typing import TYPE_CHECKING, Any

from tuner.hub.card.base import is_non_commercial
from tuner.hub.card.data import data_licence, dataset_name, hub_dataset
from tuner.hub.card.facts import Facts
from tuner.hub.card.markdown import one_line

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TAG = re.compile(r"[^a-z0-9-]+")
TASK = "text-generation"


def front_matter(facts: Facts) -> str:
    """The YAML block, fences included."""
    from huggingface_hub import ModelCardData

    results, dataset = _results(facts), hub_dataset(facts)
    licence: dict[str, Any] = dict(facts.base.licence)
    data = ModelCardData(
        base_model=facts.base.hub_id,
        base_model_relation="finetune" if facts.loads_alone else "adapter",
        **licence,
        library_name="transformers" if facts.loads_alone else "peft",
        pipeline_tag=TASK,
        datasets=[dataset] if dataset else None,
        tags=list(_tags(facts)),
        model_name=one_line(facts.name) if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _tags(facts: Facts) -> dict[str, None]:
    """Each once, in this order."""
    recipe = facts.recipe
    quantized = recipe.quantization == "nf4"
    adapter = "full-fine-tuning" if recipe.adapter == "none" else recipe.adapter
    tags = [
        "tuner",
        f"q{adapter}" if quantized else adapter,
        recipe.objective,
        TAG.sub("-", recipe.preset.lower())[:40].strip("-") if recipe.preset else "",
        "non-commercial" if _is_non_commercial(facts) else "",
    ]
    return dict.fromkeys(tag for tag in tags if tag)


def _is_non_commercial(facts: Facts) -> bool:
    licences = [data_licence(facts) or "", *facts.base.licence.values()]
    return any(map(is_non_commercial, licences))


def _results(facts: Facts) -> "list[EvalResult]":
    """The loss on held-out rows, as model-index has results."""
    from huggingface_hub import EvalResult

    value = facts.figure("eval_loss")
    if value is None:
        return []
    return [
        EvalResult(
            task_type=TASK,
            task_name="Text generation",
            dataset_type=hub_dataset(facts) or "private",
            dataset_name=one_line(f"{dataset_name(facts)}, held-out rows"),
            dataset_split="held-out",
            metric_type="loss",
            metric_name="Loss on held-out rows",
            metric_value=round(value, 4),
        )
    ]
