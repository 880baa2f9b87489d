"""
Trainers of tiny models, this project's and a plain script's, and one optimizer step of each: its
loss, and the gradients of all that trains.

    ours = our_step(tiny("llama"), ROWS, folder, levers="auto")
    theirs = plain_step(tiny("llama"), ROWS, folder)  # trl and peft, nothing of this project
    assert max(differences(ours, theirs)) < 1e-5

Both go through trainer.train(), with its batches, its counting of trained tokens and its
accumulation; gradients are taken just before the optimizer has them.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tests.tiny_models import tiny_config, tiny_tokenizer
from tuner.levers import LEVERS
from tuner.recipe import Recipe, make_recipe
from tuner.training.model import adapters_in_float32, add_adapter
from tuner.training.speed.levers import Levers, choose_levers, pull
from tuner.training.trainer import build_trainer

Rows = Sequence[dict[str, list[int]]]

UNCUT = 1e9  # a max_grad_norm that leaves gradients as they are
CPU = torch.device("cpu")
FAINT = 1e-3  # a smaller share of the whole gradient is measured as if it were that
ADAPTER = {"r": 4, "lora_alpha": 8}
SETTINGS = {
    "dtype": "float32",
    "max_length": 1024,
    "gradient_checkpointing": False,
    "optim": "adamw_torch",
    "max_grad_norm": UNCUT,
    "max_steps": 1,
    "eval_steps": 1000,
    "save_steps": 1000,
    "lora": ADAPTER,
}


class Step(NamedTuple):
    """What one optimizer step saw; gradients by name of the parameter."""

    loss: float
    gradients: dict[str, torch.Tensor]


class Watch(TrainerCallback):
    """Keeps loss and gradients of the first step, and no checkpoint of it."""

    def __init__(self) -> None:
        self.loss = float("nan")
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        named = model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.loss = logs.get("loss", self.loss)


def row(length: int, trained: int, seed: int = 0) -> dict[str, list[int]]:
    """Random tokens, the last of which are trained."""
    torch.manual_seed(1000 * length + seed)
    ids = torch.randint(3, 400, (length,)).tolist()
    return {"input_ids": ids, "labels": [-100] * (length - trained) + ids[length - trained :]}


# Of very different lengths; a row whose answer is its stop token only; a text, all of it trained;
# one that trains nothing.
ROWS = [row(7, 3), row(61, 20), row(130, 64), row(33, 1), row(20, 20), row(25, 0)]


def tiny(family: str = "llama", dtype: torch.dtype = torch.float32, **shape: Any) -> Any:
    """A base with random weights, the same at every call."""
    torch.manual_seed(0)
    config = tiny_config(family, SETTINGS["max_length"], **shape)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def recipe_of(rows: Rows = ROWS, **settings: Any) -> Recipe:
    """A recipe that takes all rows in one batch, unless settings say otherwise."""
    size = settings.get("batch_size", len(rows))
    return make_recipe({**SETTINGS, "batch_size": size, "micro_batch_size": size, **settings})


def our_trainer(
    base: Any,
    recipe: Recipe,
    folder: Path,
    rows: Rows = ROWS,
    callbacks: Sequence[TrainerCallback] = (),
    evaluation: Rows | None = None,
) -> Any:
    """As a run builds it, its adapter set to what every other here has."""
    model = add_adapter(base, recipe)
    levers = choose_levers(model, recipe)
    pull(model, levers)
    data, held_out = (given and Dataset.from_list(list(given)) for given in (rows, evaluation))
    trainer = build_trainer(
        recipe, model, tiny_tokenizer(), data, held_out, folder, list(callbacks), levers
    )
    trainer.remove_callback(PrinterCallback)
    adapters_in_float32(model)
    set_adapter(model)
    return trainer


def our_step(base: Any, rows: Rows, folder: Path, **settings: Any) -> Step:
    """One step of this project's trainer; `levers="none"` is trl's own way."""
    watch = Watch()
    our_trainer(base, recipe_of(rows, **settings), folder, rows, [watch]).train()
    return Step(watch.loss, watch.gradients)


def plain_step(base: Any, rows: Rows, folder: Path, micro_batch_size: int = 0) -> Step:
    """One step of trl's SFTTrainer with peft's LoRA, as their documentation has it."""
    watch, micro = Watch(), micro_batch_size or len(rows)
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=len(rows) // micro,
            max_grad_norm=UNCUT,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=base.dtype == torch.bfloat16,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    set_adapter(trainer.model)
    trainer.train()
    return Step(watch.loss, watch.gradients)


def set_adapter(model: Any) -> None:
    """Random A and B, the same whoever made them: where B is zero, A has no gradient."""
    numbers = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=numbers) * 0.1)


def curve(trainer: Any, name: str = "loss") -> list[float]:
    """What it logged of itself, a number a step; or `eval_loss`, one an evaluation."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def trained(model: Any) -> list[torch.Tensor]:
    """A copy of all that trains."""
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def differences(ours: Step, theirs: Step) -> tuple[float, float]:
    """Relative distances: of the losses, and of the gradients that differ most."""
    assert ours.gradients.keys() == theirs.gradients.keys() and ours.gradients
    whole = norm(theirs.gradients.values())
    assert theirs.loss > 0 and whole > 0
    return abs(ours.loss - theirs.loss) / theirs.loss, max(
        float((ours.gradients[name] - wanted).norm() / max(wanted.norm(), FAINT * whole))
        for name, wanted in theirs.gradients.items()
    )


def norm(gradients: Iterable[torch.Tensor]) -> torch.Tensor:
    """Length of all of them together."""
    return torch.stack([gradient.norm() for gradient in gradients]).norm()


def levers_with(lever: str, base: Any) -> Levers:
    """The fewest that are on together with this one; without it, where it fits this base not."""
    model, others = add_adapter(base, recipe_of()), [name for name in LEVERS if name != lever]
    tried = [
        choose_levers(model, recipe_of(levers=[lever, *few]))
        for count in range(len(LEVERS))
        for few in combinations(others, count)
    ]
    return next((levers for levers in tried if lever in levers), tried[-1])
