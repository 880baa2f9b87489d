"""
What to train: one Recipe, in peft's and trl's own field names, YAML in and out.

A recipe is complete: every default is a value in it, so a run directory's recipe.yaml repeats the
run. Validation returns every problem at once; an unknown key is refused with the nearest known one.

Defaults: LoRA on all linear layers, r 16, learning rate 2e-4 (about ten times full fine-tuning's),
effective batch 16 (QLoRA, arXiv 2305.14314; LoRA Without Regret, Thinking Machines).
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuner.errors import RecipeError
from tuner.levers import LEVERS
from tuner.plain_yaml import read_plain
from tuner.problems import sentences, unknown_setting

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Auto = Literal["auto"]

LR_SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial")
OPTIMIZERS = (
    "auto",
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "sgd",
)
EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class Section(BaseModel):
    """Frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LoraSettings(Section):
    """The adapter: W' = W + (lora_alpha / r) · BA, with W frozen (https://arxiv.org/abs/2106.09685)."""

    r: Positive = Field(16, description="Rank: how much the adapter can learn.")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(32, description="Scale, over r.")
    lora_dropout: Fraction = Field(0.0, description="Share of adapter inputs dropped in training.")
    target_modules: str | list[str] = Field(
        "all-linear", description="Layers that get an adapter: all-linear, or a list of names."
    )
    use_rslora: bool = Field(False, description="Scale by the square root of r instead of r.")


class DatasetSettings(Section):
    """Where the rows come from and which column means what."""

    source: str = Field("", description="A file, folder or zip, or a Hub dataset id.")
    kind: Literal["auto", "file", "hub", "repository"] = Field(
        "auto", description="How to read the source; auto looks at it."
    )
    config: str | None = Field(None, description="Hub dataset configuration.")
    split: str = Field("train", description="Hub dataset split.")
    revision: str | None = Field(None, description="Hub dataset revision; resolved to a commit.")
    columns: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="Role to column; roles: system, prompt, answer, messages, text, chosen, "
        "rejected, label.",
    )
    system_prompt: str | None = Field(
        None, description="Put before every conversation that has no system message of its own."
    )
    max_rows: Positive | None = Field(None, description="Use this many rows, drawn by seed.")
    eval_fraction: Fraction = Field(
        0.05, description="Share held out (at least 8 rows, at most 500); 0 holds out none."
    )
    skip_bad_rows: bool = Field(False, description="Leave unreadable rows out and count them.")
    seed: int = Field(42, description="Draws max_rows and the held-out rows.")
    fingerprint: str | None = Field(
        None, description="Set by the run: SHA-256 of the rows it trained and evaluated on."
    )


class Recipe(Section):
    """All that decides what a run computes."""

    preset: str | None = Field(None, description="The preset this recipe began as.")
    base_model: str = Field("starter", description="starter, a Hub id or a local folder.")
    revision: str | None = Field(None, description="Hub revision; resolved to a commit.")
    quantization: Literal["nf4", "int8", "none"] = Field(
        "none", description="How the frozen base is held: 4-bit (QLoRA), 8-bit, 16-bit."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the base; auto: bfloat16 where the hardware has it."
    )
    adapter: Literal["lora", "dora", "none"] = Field(
        "lora", description="What trains: an adapter, or (none) all weights."
    )
    lora: LoraSettings = Field(default_factory=LoraSettings)
    objective: Literal["sft", "dpo", "kto"] = Field(
        "sft", description="Imitate answers (sft) or learn preferences (dpo, kto)."
    )
    beta: Annotated[float, Field(gt=0)] = Field(
        0.1, description="DPO and KTO: how closely to stay with the base."
    )
    dataset: DatasetSettings = Field(default_factory=DatasetSettings)

    max_length: Annotated[int, Field(ge=8)] = Field(1024, description="Tokens a row may have.")
    packing: bool = Field(False, description="Fill each sequence with several rows.")
    batch_size: Positive = Field(16, description="Rows per optimizer step, over all devices.")
    micro_batch_size: Positive | Auto = Field(
        "auto", description="Rows computed at once; the rest is accumulated."
    )
    gradient_checkpointing: bool | Auto = Field(
        "auto", description="Recompute activations to save memory; auto: when they don't fit."
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        2e-4, description="Step size at its highest; for LoRA ten times full fine-tuning's."
    )
    lr_scheduler_type: Literal[LR_SCHEDULERS] = Field(  # type: ignore[valid-type]
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_steps: Annotated[float, Field(ge=0)] = Field(
        0.03, description="Steps of rising learning rate; below 1, a share of all steps."
    )
    num_train_epochs: Annotated[float, Field(gt=0)] = Field(
        3.0, description="Passes over the training rows."
    )
    max_steps: Positive | None = Field(None, description="Optimizer steps; overrides epochs.")
    optim: Literal[OPTIMIZERS] = Field(  # type: ignore[valid-type]
        "auto", description="auto: paged_adamw_8bit on CUDA, adamw_torch_fused elsewhere."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Pull of the trained weights towards zero."
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Longer gradients are cut to this length; QLoRA uses 0.3."
    )
    neftune_noise_alpha: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Noise on embeddings while training; for chat, optional."
    )
    seed: int = Field(42, description="Initial adapter, row order, dropout, samples.")
    levers: str | list[str] = Field(
        "auto", description="What makes steps faster: auto (all that fit), none, or their names."
    )

    eval_steps: Positive | Auto = Field(
        "auto", description="auto: ten times a run; fewer where that would take a tenth of it."
    )
    save_steps: Positive | Auto = Field("auto", description="auto: whenever it evaluates.")
    save_total_limit: Positive = Field(
        3, description="Checkpoints kept; the best and the last always are."
    )
    logging_steps: Positive = Field(1, description="Steps between two points of the curves.")
    early_stopping_patience: Positive | None = Field(
        None, description="Stop after this many evaluations without a better eval loss."
    )
    load_best_model_at_end: bool = Field(
        True, description="adapter/ holds the best checkpoint by eval loss, else the last."
    )
    sample_prompts: list[str] = Field(
        default_factory=list, description="Answered before training and at each evaluation."
    )
    sample_max_new_tokens: Positive = Field(80, description="Length of a sample, at most.")

    push_every_save: bool = Field(
        False,
        description="Copy every checkpoint to hub_model_id, from where a pull brings it back.",
    )
    hub_model_id: str | None = Field(
        None, description="user/name: a private repo on the Hub, of this run alone."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        problems = list(_contradictions(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _contradictions(recipe: Recipe) -> Iterator[str]:
    if recipe.adapter == "none" and recipe.quantization != "none":
        yield (
            f"adapter=none trains all weights, which quantization={recipe.quantization} freezes. "
            "Set adapter to lora, or quantization to none."
        )
    if isinstance(recipe.micro_batch_size, int) and recipe.micro_batch_size > recipe.batch_size:
        yield (
            f"micro_batch_size={recipe.micro_batch_size} is larger than "
            f"batch_size={recipe.batch_size}. Lower it, or raise batch_size."
        )
    if isinstance(recipe.micro_batch_size, int) and recipe.batch_size % recipe.micro_batch_size:
        yield (
            f"batch_size={recipe.batch_size} is not a multiple of "
            f"micro_batch_size={recipe.micro_batch_size}. Choose one that divides it."
        )
    if unknown := set(chosen_levers(recipe)) - set(LEVERS):
        yield (
            f"levers={', '.join(sorted(unknown))} is not one that there is. Name some of "
            f"{', '.join(LEVERS)}, or write auto or none."
        )
    if recipe.packing and recipe.objective != "sft":
        yield f"packing is for objective=sft, not {recipe.objective}. Set packing to false."
    if recipe.early_stopping_patience and recipe.dataset.eval_fraction == 0:
        yield (
            "early_stopping_patience needs held-out rows, and dataset.eval_fraction is 0. "
            "Set dataset.eval_fraction to 0.05, or leave early stopping out."
        )
    if recipe.push_every_save and not recipe.hub_model_id:
        yield (
            "push_every_save has no repo to push to. Set hub_model_id to user/name, or "
            "push_every_save to false."
        )


def chosen_levers(recipe: Recipe) -> Sequence[str]:
    """Names of the levers that the recipe allows (training/speed)."""
    if isinstance(recipe.levers, list):
        return recipe.levers
    return {"auto": LEVERS, "none": ()}.get(recipe.levers, [recipe.levers])


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check nested settings and return the Recipe they make.

    Raises:
        RecipeError: Every problem found, a sentence each.

    >>> make_recipe({"max_lenght": 512})
    Traceback (most recent call last):
    tuner.errors.RecipeError: max_lenght is not a recipe setting. Did you mean max_length?
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        found = sentences(error, known_keys())
        raise RecipeError([*found, *_contradictions_beside(error, values)]) from None


def _contradictions_beside(error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    """Contradictions among the sound settings: pydantic looks for them only when all are sound."""
    unsound = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
    if not unsound:
        return []  # then the error is about contradictions already
    try:
        Recipe.model_validate({key: values[key] for key in values if str(key) not in unsound})
    except ValidationError as further:
        # A setting that is unsound has its default here: nothing can be said about it.
        lines = sentences(further, known_keys())
        return [line for line in lines if not any(key in line for key in unsound)]
    return []


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file. A preset's `about` block is passed over."""
    values = read_yaml(path)
    values.pop("about", None)
    return make_recipe(values)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        RecipeError: No such file, not YAML, or not a mapping.
    """
    try:
        values = read_plain(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe file {path}. Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds no settings. A recipe is lines of `key: value`.")
    return values


def to_yaml(recipe: Recipe) -> str:
    """Write every setting, defaults included, in the order of the class."""
    settings = recipe.model_dump(mode="json")
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge dotted settings (as given by `--set`) into nested values.

    Args:
        values: Nested settings, as in YAML.
        settings: `{"max_steps": 60, "lora.r": 8}`. A key that stands in one section only may be
            given without its section: `r` is `lora.r`.

    Raises:
        RecipeError: A key that is not a setting.
    """
    merged = copy.deepcopy(dict(values))
    problems = []
    for key, value in settings.items():
        full = full_key(key)
        if full is None:
            problems.append(unknown_setting(key, known_keys()))
        else:
            _put(merged, full, value)
    if problems:
        raise RecipeError(problems)
    return merged


def parse_setting(text: str) -> tuple[str, Any]:
    """Split one `key=value`; the value is read as YAML, so numbers and lists are what they seem.

    >>> parse_setting("lora.r=8")
    ('lora.r', 8)
    >>> parse_setting("learning_rate=2e-4")
    ('learning_rate', 0.0002)
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"--set {text} is not key=value. Write for example --set max_steps=60.")
    return key.strip(), _scalar(value.strip())


def known_keys() -> list[str]:
    """Every setting as a dotted key, sections first named then opened."""
    keys: list[str] = []
    for name, field in Recipe.model_fields.items():
        keys.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += [f"{name}.{inner}" for inner in field.annotation.model_fields]
    return keys


def full_key(key: str) -> str | None:
    """The dotted key that `key` names, or None. Top-level names win over a section's."""
    keys = known_keys()
    if key in keys or key.startswith("dataset.columns."):
        return key
    inside = [known for known in keys if known.endswith(f".{key}")]
    return inside[0] if len(inside) == 1 else None


def _scalar(text: str) -> Any:
    """A number, truth value, quoted text, [list] or {mapping} as YAML reads it; else the text.

    So prose stays prose, with its colons and hashes, and 2e-4 is a number: YAML 1.1 wants 2.0e-4.
    """
    try:
        value = float(text) if EXPONENT.fullmatch(text) else read_plain(text)
    except yaml.YAMLError:
        return text
    means_yaml = text.startswith(("[", "{", "'", '"')) or text.lower() in ("", "null", "~")
    return value if means_yaml or isinstance(value, bool | int | float) else text


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}  # a section left empty in YAML is None
        values = values[section]
    values[last] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
