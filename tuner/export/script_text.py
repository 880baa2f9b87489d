"""
A run's settings as the text of a training script, whole or block by block.

    Script(run, facts).text()             train.py
    Script(run, facts).block("model")     one part of it; notebook.py makes cells of them

The text is train.py.jinja's; what is decided here is which of it a run needs.
"""

import importlib.metadata
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from tuner.errors import RunError
from tuner.export.literals import literal, number
from tuner.recipe import Recipe
from tuner.runs.store import Run
from tuner.starter import STARTER_DIR

PADDING_STEP = 32  # as training/trainer.py has it; importing that would load torch
NOT_IN_SCRIPT = ("dataset", "levers")  # rows stand beside it, and it trains the libraries' own way
STARTER = "starter"
QUESTIONS = 3  # of the recipe's sample prompts
A_QUESTION = "What can you help me with?"

TRAINERS = {
    "sft": ("SFTTrainer", "SFTTrainer", "SFTConfig"),
    "dpo": ("PairTrainer", "DPOTrainer", "DPOConfig"),
    "kto": ("AnswerTrainer", "KTOTrainer", "KTOConfig"),
}
TASKS = {
    "sft": "Fine-tune a language model on answers",
    "dpo": "Teach a language model preferences (DPO, https://arxiv.org/abs/2305.18290)",
    "kto": "Teach a language model what is wanted (KTO, https://arxiv.org/abs/2402.01306)",
}
QLORA = "QLoRA (the base in 4 bits, NF4): https://arxiv.org/abs/2305.14314"
DORA = "DoRA: https://arxiv.org/abs/2402.09353"


@dataclass(frozen=True)
class RowFacts:
    """What the rows and the tokenizer ask of the script; see export/rows.py.

    Attributes:
        kind: "sft", "text", "preference" or "kto".
        labels: How answers are found: "prefix", "checked" or "marks"; see train.py.jinja.
        ending: "stop" where an answer ends on the template's own stop token, "eos" where the script
            puts one there (or, for "marks", where the marks cover it).
        stop: The token that ends an answer.
        stop_tokens: All that end a generation.
        adds_bos: The tokenizer begins plain text with a token of its own.
        pad_is_eos: Padding is the stop token.
        merges_system: The chat template refuses a system message; it goes into the first question.
        chat_template: Where the base has none of its own, the one that the run used.
        train_rows, eval_rows: Rows that train and are held out.
    """

    kind: str
    labels: str
    ending: str
    stop: str
    stop_tokens: list[str]
    adds_bos: bool
    pad_is_eos: bool
    merges_system: bool
    chat_template: str | None
    train_rows: int
    eval_rows: int


class Script:
    """The training script of one run.

    Args:
        notebook: Where it stands in cells: it then has no file of its own to find its folder by.

    Raises:
        RunError: The run was not prepared yet, so its settings are not decided.
    """

    def __init__(self, run: Run, facts: RowFacts, notebook: bool = False):
        recipe, result = run.recipe(), run.result() or {}
        require_decided(run, recipe)
        self.recipe, self.facts = recipe, facts
        self.device = str(result.get("device") or "cpu")
        here = "Path()" if notebook else "Path(__file__).parent"
        self.values = {
            **asdict(facts),
            **_about(run, recipe, self.device),
            **_base(recipe),
            **_model(recipe),
            **_training(recipe, facts, self.device),
            **_names(recipe, self.device),
            "here": here,
            "own_template": facts.chat_template is not None,
            "template_source": literal(facts.chat_template, 26)
            if notebook
            else '(HERE / "chat_template.jinja").read_text(encoding="utf-8")',
        }

    def text(self) -> str:
        """The whole script."""
        return train_template().render(self.values)

    def block(self, name: str) -> str:
        """One block of it, without blank lines around."""
        return render_block(name, self.values)

    def requirements(self, versions: dict[str, str]) -> list[str]:
        """What it needs, pinned: as the run had it, else as it is here."""
        names = ["torch", "transformers", "trl", "datasets", "accelerate"]
        if self.recipe.adapter != "none":
            names.append("peft")
        if self.recipe.quantization != "none" or "8bit" in self.recipe.optim:
            names.append("bitsandbytes")
        if self.recipe.optim == "paged_adamw_32bit":
            names.append("bitsandbytes")
        found = {name: versions.get(name) or importlib.metadata.version(name) for name in names}
        # torch's "+cpu" names a build, which PyPI does not have under that name.
        return [f"{name}=={version.partition('+')[0]}" for name, version in sorted(found.items())]


@cache
def train_template() -> jinja2.Template:
    """train.py.jinja, ready to be rendered."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it is Python; people's text comes in through literal
    )
    environment.filters["literal"] = literal
    return environment.get_template("train.py.jinja")


def render_block(name: str, values: dict[str, Any]) -> str:
    """One block of the template with only the values that it uses."""
    template = train_template()
    context = template.new_context(values)
    return "".join(template.blocks[name](context)).strip("\n")


def require_decided(run: Run, recipe: Recipe) -> None:
    """Refuse a run whose settings or data are still open.

    Raises:
        RunError: It has to train first.
    """
    open_settings = [
        name
        for name, value in recipe.model_dump().items()
        if value == "auto" and name not in NOT_IN_SCRIPT
    ]
    if not (run.data_dir / "train.jsonl").is_file() or open_settings:
        named = f" ({', '.join(open_settings)} still auto)" if open_settings else ""
        raise RunError(
            f"Run {run.id} has not decided its data and settings yet{named}, and a script repeats "
            "what was decided. Start the run, and export it once it trains."
        )


def _about(run: Run, recipe: Recipe, device: str) -> dict[str, Any]:
    references = [QLORA] if recipe.quantization == "nf4" else []
    references += [DORA] if recipe.adapter == "dora" else []
    elsewhere = "cpu" if device != "cpu" else "cuda:0"
    return {
        "task": TASKS[recipe.objective],
        "reference": "\n".join(references),
        "reads": "data/ and base/" if recipe.base_model == STARTER else "data/",
        "kept": "model" if recipe.adapter == "none" else "adapter",
        "made_by": f"# Run {run.id!a}.",
        "device": device,
        "device_comment": f'  # or "{elsewhere}"',
        "system_prompt": recipe.dataset.system_prompt or "",
        "questions": recipe.sample_prompts[:QUESTIONS] or [A_QUESTION],
        "max_new_tokens": recipe.sample_max_new_tokens,
    }


def _base(recipe: Recipe) -> dict[str, Any]:
    """The base as others can have it: a Hub id, a folder's last name, or what is shipped along."""
    if recipe.base_model == STARTER:
        return {"base_kind": "shipped", "base_model": "base", "revision": None}
    if recipe.revision:  # a run resolves it for what comes from the Hub, and only for that
        return {"base_kind": "hub", "base_model": recipe.base_model, "revision": recipe.revision}
    name = Path(recipe.base_model).name or "base"
    return {"base_kind": "folder", "base_model": name, "revision": None}


def _model(recipe: Recipe) -> dict[str, Any]:
    return {
        "full": recipe.adapter == "none",
        "quantization": "" if recipe.quantization == "none" else recipe.quantization,
        "dtype": recipe.dtype,
        "compute_dtype": "bfloat16" if recipe.dtype == "float32" else recipe.dtype,
        "r": recipe.lora.r,
        "lora_alpha": number(recipe.lora.lora_alpha),
        "lora_dropout": number(recipe.lora.lora_dropout),
        "target_modules": recipe.lora.target_modules,
        "use_rslora": recipe.lora.use_rslora,
        "use_dora": recipe.adapter == "dora",
    }


def _training(recipe: Recipe, facts: RowFacts, device: str) -> dict[str, Any]:
    """The same decisions that training/trainer.py makes of a recipe."""
    evaluates, micro = facts.eval_rows > 0, int(recipe.micro_batch_size)
    stays_bf16 = device == "cpu" and recipe.dtype == "bfloat16" and recipe.objective != "kto"
    best = "none"
    if evaluates and recipe.load_best_model_at_end:
        best = "trainer" if recipe.eval_steps == recipe.save_steps else "ours"
    return {
        "objective": recipe.objective,
        "evaluates": evaluates,
        "best": best,
        "patience": recipe.early_stopping_patience if evaluates else None,
        "max_length": recipe.max_length,
        "learning_rate": number(recipe.learning_rate),
        "max_steps": recipe.max_steps,
        "num_train_epochs": number(recipe.num_train_epochs),
        "batch_size": recipe.batch_size,
        "micro_batch_size": micro,
        "kl_batch_size": max(2, micro),
        "seed": recipe.seed,
        "packing": recipe.packing,
        "beta": number(recipe.beta),
        "gradient_checkpointing": bool(recipe.gradient_checkpointing),
        "pads": PADDING_STEP if stays_bf16 else None,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": number(recipe.warmup_steps),
        "warmup_is_share": 0 < recipe.warmup_steps < 1,
        "optim": recipe.optim,
        "weight_decay": number(recipe.weight_decay),
        "max_grad_norm": number(recipe.max_grad_norm),
        "neftune_noise_alpha": recipe.neftune_noise_alpha and number(recipe.neftune_noise_alpha),
        "logging_steps": recipe.logging_steps,
        "eval_steps": recipe.eval_steps,
        "save_steps": recipe.save_steps,
        "save_total_limit": recipe.save_total_limit,
    }


def _names(recipe: Recipe, device: str) -> dict[str, Any]:
    """What is imported: nothing that the run does not use."""
    trainer, trl_trainer, config = TRAINERS[recipe.objective]
    own_best = recipe.load_best_model_at_end and recipe.eval_steps != recipe.save_steps
    peft = ["LoraConfig", "get_peft_model"]
    peft += ["load_peft_weights", "set_peft_model_state_dict"] if own_best else []
    transformers = ["AutoModelForCausalLM", "AutoTokenizer"]
    transformers += ["BitsAndBytesConfig"] if recipe.quantization != "none" else []
    transformers += ["EarlyStoppingCallback"] if recipe.early_stopping_patience else []
    return {
        "trainer": trainer,
        "trl_trainer": trl_trainer,
        "config": config,
        "peft_names": sorted(peft, key=_as_isort_does),
        "transformers_names": transformers,
        "trl_names": sorted([config, trl_trainer], key=_as_isort_does),
    }


def _as_isort_does(name: str) -> tuple[bool, str]:
    return name[0].islower(), name


def base_files(recipe: Recipe) -> dict[str, bytes]:
    """The practice model, which the Hub does not have, under base/; nothing for any other."""
    if recipe.base_model != STARTER:
        return {}
    files = (path for path in sorted(STARTER_DIR.iterdir()) if path.is_file())
    return {f"base/{path.name}": path.read_bytes() for path in files}


def facts_of(text: str) -> RowFacts:
    """Row facts as export/rows.py writes them."""
    return RowFacts(**json.loads(text))
