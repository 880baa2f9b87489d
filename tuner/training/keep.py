"""What a run leaves behind: its best checkpoint (or its last) as a folder that plain peft loads."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.recipe import Recipe
from tuner.runs.store import Run


@dataclass(frozen=True)
class Kept:
    """The weights that were kept.

    Attributes:
        folder: adapter/ in PEFT's format, or model/ for full fine-tuning.
        step: The optimizer step they come from.
        eval_loss: Their loss on the held-out rows; None without such rows.
    """

    folder: Path
    step: int
    eval_loss: float | None


def keep_best(run: Run, trainer: Any, recipe: Recipe) -> Kept:
    """Put the kept weights into the model and into their folder, tokenizer and template beside."""
    step, eval_loss = _choose(run, trainer, recipe)
    folder = run.model_dir if recipe.adapter == "none" else run.adapter_dir
    aside = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    trainer.model.config.use_cache = True  # off while it trained; whoever answers with it wants it
    trainer.model.save_pretrained(aside)
    trainer.processing_class.save_pretrained(aside)
    (aside / "README.md").unlink(missing_ok=True)  # peft's stub; publishing writes the real card
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(aside, folder)
    return Kept(folder, step, eval_loss)


def _choose(run: Run, trainer: Any, recipe: Recipe) -> tuple[int, float | None]:
    state = trainer.state
    best = run.checkpoints_dir / f"step-{state.best_global_step}"
    if recipe.load_best_model_at_end and state.best_global_step and best.is_dir():
        if state.best_global_step != state.global_step:
            state.best_model_checkpoint = str(best)
            trainer._load_best_model()
        return state.best_global_step, state.best_metric
    evaluated = {e["step"]: e["eval_loss"] for e in state.log_history if "eval_loss" in e}
    return state.global_step, evaluated.get(state.global_step)
