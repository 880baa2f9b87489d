"""
trl's trainers, fitted to a run directory.

SFT, DPO (https://arxiv.org/abs/2305.18290) and KTO (https://arxiv.org/abs/2402.01306) stay trl's:
loss, optimizer, schedule and resume are theirs. What is ours: the tokens come ready from
data/tokenized.py, a checkpoint is complete or absent, and tokens are counted without padding.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import pack_dataset

from tuner.errors import TrainingError
from tuner.recipe import Recipe
from tuner.training.evaluation import CutEvaluation, ExactEvaluation
from tuner.training.speed.levers import NO_LEVERS, Levers
from tuner.training.speed.sft import ByLevers

PADDING_STEP = 32  # tokens
WRITING = ".writing"  # where a checkpoint stands until it is complete
TOKEN_COUNT = "token_count.json"


@dataclass
class TokenCount:
    """Tokens that went through the model in training; padding is not counted."""

    seen: int = 0
    trained: int = 0

    def add(self, inputs: dict[str, torch.Tensor]) -> None:
        """Count one micro-batch as a collator made it."""
        if "tokens" in inputs:  # rows one after the other
            self.seen += int(inputs["tokens"])
        elif "attention_mask" in inputs:
            self.seen += int(inputs["attention_mask"].sum())
        else:  # packed rows are concatenated without padding
            self.seen += inputs["input_ids"].numel()
        if "labels" in inputs:
            self.trained += int((inputs["labels"] != -100).sum())
        else:
            self.trained += int(inputs["completion_mask"].sum())


class RunTrainer(CutEvaluation):
    """What a run directory asks of any of trl's trainers. Mixed in before the trainer."""

    token_count: TokenCount
    checkpoints_dir: Path
    save_limit: int

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the run directory tells the story, and publishing writes the card."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Count the tokens, then train on them."""
        self.token_count.add(inputs)
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        return loss

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        # Written aside and renamed: a reader, or a resume after a kill, never sees half of one.
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        step = self.state.global_step
        written = self.checkpoints_dir / WRITING / f"checkpoint-{step}"
        (written / TOKEN_COUNT).write_text(json.dumps(asdict(self.token_count)))
        final = self.checkpoints_dir / f"step-{step}"
        if final.exists():
            shutil.rmtree(final)
        os.rename(written, final)
        self._forget_old_checkpoints()

    def restore_token_count(self, checkpoint: Path) -> None:
        """Continue counting where the checkpoint stood."""
        self.token_count = TokenCount(**json.loads((checkpoint / TOKEN_COUNT).read_text()))

    def _forget_old_checkpoints(self: Any) -> None:
        steps = sorted(int(path.name[5:]) for path in self.checkpoints_dir.glob("step-*"))
        best = self.state.best_global_step
        spared = {best, *steps[-max(1, self.save_limit - (best is not None)) :]}
        for step in set(steps) - spared:
            shutil.rmtree(self.checkpoints_dir / f"step-{step}")

    def try_batch(self: Any, rows: list[dict[str, Any]]) -> None:
        """Run one forward and backward on these rows and leave no trace in model or metrics.

        Raises:
            torch.OutOfMemoryError (or CPU's RuntimeError): They do not fit.
            TrainingError: The loss is not a number, or nothing that trains received a gradient.
        """
        state = torch.get_rng_state()
        self.model.train()
        if self.args.activation_checkpointing:  # transformers turns it on in train() only
            self.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs=self.args.activation_checkpointing_kwargs
            )
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            loss = self.compute_loss(self.model, self._prepare_inputs(self.data_collator(rows)))
        _require_finite(loss, self.model)
        loss.backward()
        _require_gradient(self.model)
        self.model.zero_grad(set_to_none=True)
        self._metrics["train"].clear()
        self._total_train_tokens = 0
        torch.set_rng_state(state)


class RunSFTTrainer(ByLevers, ExactEvaluation, RunTrainer, SFTTrainer):
    """Supervised fine-tuning on ready tokens."""

    def _prepare_dataset(self, dataset: Any, _tokenizer: Any, args: Any, packing: bool, *_: Any):  # type: ignore[no-untyped-def]
        if not packing:
            return dataset
        map_options = {"keep_in_memory": True}
        return pack_dataset(dataset, args.max_length, args.packing_strategy, map_options)


class RunDPOTrainer(RunTrainer, DPOTrainer):
    """Direct preference optimization on ready tokens."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class RunKTOTrainer(RunTrainer, KTOTrainer):
    """Kahneman-Tversky optimization on ready tokens."""

    def _prepare_dataset(self, dataset: Any, _tokenizer: Any, args: Any, *_: Any) -> Any:
        # KTO estimates its KL term from mismatched pairs: the completions of a batch, rotated.
        def rotate(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            answers = batch["completion_ids"]
            return {**batch, "KL_completion_ids": [answers[-1], *answers[:-1]]}

        size = max(2, args.per_device_train_batch_size)
        return dataset.map(rotate, batched=True, batch_size=size, keep_in_memory=True)


TRAINERS: dict[str, tuple[Any, Any]] = {
    "sft": (RunSFTTrainer, SFTConfig),
    "dpo": (RunDPOTrainer, DPOConfig),
    "kto": (RunKTOTrainer, KTOConfig),
}


def build_trainer(
    recipe: Recipe,
    model: Any,
    tokenizer: Any,
    train: Dataset,
    evaluation: Dataset | None,
    checkpoints_dir: Path,
    callbacks: list[TrainerCallback],
    levers: Levers = NO_LEVERS,
) -> Any:
    """Make the trainer of the recipe's objective.

    Args:
        recipe: Resolved: no setting is `auto` any more.
        train, evaluation: Tokens from data/tokenized.py; None where no rows are held out.
        levers: What the model's forwards were changed for (training/speed).
        checkpoints_dir: Complete checkpoints appear in it as step-N.
    """
    trainer_class, config_class = TRAINERS[recipe.objective]
    trainer = trainer_class(
        model=model,
        args=config_class(**training_arguments(recipe, model, evaluation, checkpoints_dir)),
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        callbacks=callbacks + _early_stopping(recipe),
    )
    trainer.token_count = TokenCount()
    trainer.checkpoints_dir = checkpoints_dir
    trainer.save_limit = recipe.save_total_limit
    if recipe.objective == "sft":
        trainer.adopt(levers)
    return trainer


def training_arguments(
    recipe: Recipe, model: Any, evaluation: Dataset | None, checkpoints_dir: Path
) -> dict[str, Any]:
    """The recipe in the names of transformers.TrainingArguments and trl's configs."""
    micro, device = int(recipe.micro_batch_size), model.device.type
    arguments = {
        "output_dir": str(checkpoints_dir / WRITING),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": recipe.batch_size // micro,
        "activation_checkpointing": bool(recipe.gradient_checkpointing),  # its name from v6 on
        "max_length": recipe.max_length,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": recipe.warmup_steps,
        "num_train_epochs": recipe.num_train_epochs,
        "max_steps": recipe.max_steps or -1,
        "optim": recipe.optim,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "neftune_noise_alpha": recipe.neftune_noise_alpha,
        "seed": recipe.seed,
        "bf16": recipe.dtype == "bfloat16",
        "fp16": recipe.dtype == "float16",
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,  # a NaN must be seen, not averaged away
        "eval_strategy": "steps" if evaluation is not None else "no",
        "eval_steps": recipe.eval_steps,
        "save_steps": recipe.save_steps,
        "metric_for_best_model": "eval_loss" if evaluation is not None else None,
        "greater_is_better": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if recipe.objective != "kto" and device == "cpu" and recipe.dtype == "bfloat16":
        # In bf16, oneDNN compiles and keeps a program for every shape that it meets.
        arguments["pad_to_multiple_of"] = PADDING_STEP
    if recipe.objective == "sft":
        arguments |= {"packing": recipe.packing, "eval_packing": False}
    else:
        arguments["beta"] = recipe.beta
    return arguments


def lower_micro_batch(batch_size: int, micro_batch_size: int) -> int | None:
    """The next smaller micro-batch that divides the batch; None below 1.

    >>> lower_micro_batch(16, 8), lower_micro_batch(12, 4), lower_micro_batch(16, 1)
    (4, 2, None)
    """
    for size in range(micro_batch_size // 2, 0, -1):
        if batch_size % size == 0:
            return size
    return None


def _early_stopping(recipe: Recipe) -> list[TrainerCallback]:
    patience = recipe.early_stopping_patience
    return [EarlyStoppingCallback(patience)] if patience else []


def _require_finite(loss: torch.Tensor, model: Any) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(
            f"The loss of a first try is not a number. dtype={str(model.dtype)[6:]} may be too "
            "narrow for this base model, or its weights are damaged. Set dtype to float32, or "
            "choose another base_model."
        )


def _require_gradient(model: torch.nn.Module) -> None:
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    if not any(bool(gradient.abs().sum() > 0) for gradient in gradients):
        raise TrainingError(
            "No trainable weight received a gradient in a first try, so nothing would be learnt. "
            "Set lora.target_modules to all-linear and gradient_checkpointing to false."
        )
