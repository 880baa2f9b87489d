"""
One run from recipe to result, in order: data, model, first try, training, what is kept, proof.

Every stage says in the run's events what it does, and a stop is answered between stages as well as
between steps. A resumed run goes the same way and continues at its last checkpoint.
"""

import ctypes
import gc
import logging
import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size
from datasets import disable_progress_bars

from tuner.errors import RunError, TrainingError
from tuner.models.loading import load_base
from tuner.recipe import Recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import Run
from tuner.training import model as models
from tuner.training import verify
from tuner.training.callbacks import (
    MemoryMeter,
    RunEvents,
    StoppedBeforeTraining,
    StopRequest,
    heed,
)
from tuner.training.keep import keep_best
from tuner.training.loading_ahead import LoadingAhead, load
from tuner.training.prepare import Prepared, longest_rows, prepare
from tuner.training.result import run_result
from tuner.training.sampling import Sampler
from tuner.training.speed.levers import choose_levers, pull, release
from tuner.training.trainer import WRITING, build_trainer, lower_micro_batch

EXIT_COMPLETED, EXIT_STOPPED = 0, 3


def train(run: Run, events: EventWriter, resume: bool, began: float) -> int:
    """Train `run` in this process.

    Args:
        began: When the process was started for this run, or was given it; Unix seconds.

    Returns:
        The process's exit code: EXIT_COMPLETED or EXIT_STOPPED.

    Raises:
        TunerError: With a sentence for the person; the caller marks the run failed.
    """
    stop = StopRequest()
    stop.listen()
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # One line a layer and step: "inputs will be cast to float16".
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    run.update_status(state="preparing", reason="")
    events.write("state", state="preparing", reason="")
    shutil.rmtree(run.checkpoints_dir / WRITING, ignore_errors=True)
    tokens_dir = run.data_dir / "tokens"
    try:
        ahead = LoadingAhead()
        prepared = prepare(run, events, stop, tokens_dir, base_known=ahead.begin)
        return Session(run, events, stop, prepared, ahead).run_to_end(resume, began)
    except StoppedBeforeTraining:
        reason = "Stopped before training began; there is nothing to keep yet."
        run.update_status(state="stopped", reason=reason)
        events.write("state", state="stopped", reason=reason)
        return EXIT_STOPPED
    finally:
        shutil.rmtree(tokens_dir, ignore_errors=True)


class Session:
    """One process's share of a run: from the loaded model to result.json."""

    def __init__(
        self,
        run: Run,
        events: EventWriter,
        stop: StopRequest,
        prepared: Prepared,
        ahead: LoadingAhead | None = None,
    ):
        self.run, self.events, self.stop, self.prepared = run, events, stop, prepared
        self.ahead = ahead or LoadingAhead()
        self.recipe: Recipe = prepared.recipe
        self.memory = MemoryMeter(prepared.device)

    def run_to_end(self, resume: bool, began: float) -> int:
        """Train, keep, prove, write the result (seconds since `began`); returns the exit code."""
        model, base_hash = self._load_model()
        trainer = self._fit(model)
        self._train(trainer, resume)
        kept = keep_best(self.run, trainer, self.recipe)
        facts = {
            "quantized_modules": models.quantized_modules(model),
            "quantized_bytes": models.quantized_bytes(model),
            "base_weights_unchanged": self._base_unchanged(model, base_hash),
            "seconds_to_first_step": _seconds(began, self.callback.first_step_at),
            **self._count(model),
        }
        stopped = trainer.state.global_step < trainer.state.max_steps and self.stop.asked
        steps, count = trainer.state.global_step, trainer.token_count
        facts |= {"steps": steps, "trained_tokens": count.trained, "tokens": count.seen}
        # Without the trainer's autocast: as plain peft will compute what was saved.
        plain = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        release(plain)
        trained = verify.trained_logits(plain, self.prepared.probe_rows)
        del trainer.model, trainer.model_wrapped, trainer, model, plain
        self._forget_model()
        facts |= self._proof(trained, kept.folder)
        facts["peak_memory_bytes"] = self.memory.peak()
        facts["seconds"] = _seconds(began, time.time())
        return self._finish("stopped" if stopped else "completed", facts, kept)

    def _load_model(self) -> tuple[Any, str]:
        prepared = self.prepared
        self.events.write("log", message=f"Loading {self.recipe.base_model}")
        model, base_hash = self._base()
        model = models.add_adapter(model, self.recipe)
        models.require_trainable(model, self.recipe)
        self.levers = choose_levers(model, self.recipe)
        pull(model, self.levers)
        self.events.write("log", message=self.levers.sentence())
        self.recipe = self.recipe.model_copy(update={"levers": self.levers.names()})
        self.run.save_recipe(self.recipe)
        heed(self.stop)
        self.callback = RunEvents(
            self.run,
            self.recipe,
            self.events,
            self.stop,
            Sampler(
                prepared.renderer,
                self.recipe.dataset.system_prompt,
                self.recipe.sample_max_new_tokens,
            ),
            self.memory,
        )
        return model, base_hash

    def _base(self) -> tuple[Any, str]:
        """The base model and its hash: loaded meanwhile, or now."""
        prepared = self.prepared
        if loaded := self.ahead.loaded(self.stop):
            self.memory = MemoryMeter(prepared.device, held=loaded.weight_bytes)
        else:
            loaded = load(self.recipe, prepared.base, prepared.dtype, prepared.device)
        return loaded.model, loaded.hash

    def _fresh_base(self) -> Any:
        prepared = self.prepared
        return load_base(self.recipe, prepared.base, prepared.dtype, prepared.device)

    def _fit(self, model: Any) -> Any:
        """Try the longest batch first; where it does not fit, halve the micro-batch and say so."""
        while True:
            trainer = self._build_trainer(model)
            try:
                trainer.try_batch(longest_rows(trainer.train_dataset, self._rows_to_try()))
                # Threads that will share rows out have heaps of their own, which reuse none of it.
                _give_memory_back()
                return trainer
            except Exception as error:
                if not should_reduce_batch_size(error):
                    raise
            self.recipe = self._smaller()
            model.zero_grad(set_to_none=True)
            del trainer
            gc.collect()
            if self.prepared.device.type == "cuda":
                torch.cuda.empty_cache()

    def _rows_to_try(self) -> int:
        """A micro-batch; one row where it certainly fits, as a try takes as long as a step there.

        Without a limit of the process, a CPU's memory that runs out is no error that could be
        answered anyway: the system kills.
        """
        fits, size = self.prepared.estimate, int(self.recipe.micro_batch_size)
        roomy = 2 * fits.estimated_memory_bytes < fits.available_memory_bytes
        sure = roomy and self.prepared.device.type == "cpu" and not _is_limited()
        return 1 if sure and self.recipe.objective == "sft" else size

    def _smaller(self) -> Recipe:
        before = int(self.recipe.micro_batch_size)
        micro = lower_micro_batch(self.recipe.batch_size, before)
        if micro is None and self.recipe.gradient_checkpointing:
            raise TrainingError(
                f"One row of {self.prepared.longest:,} tokens does not fit in this machine's "
                f"memory, even with gradient checkpointing. Lower max_length "
                f"(now {self.recipe.max_length}), or set quantization to nf4."
            )
        change: dict[str, Any] = (
            {"micro_batch_size": micro} if micro else {"gradient_checkpointing": True}
        )
        message = (
            f"The longest batch did not fit in memory: {next(iter(change)).replace('_', ' ')} is "
            f"now {next(iter(change.values()))}. batch_size stays {self.recipe.batch_size}."
        )
        self.events.write("warning", message=message)
        recipe = self.recipe.model_copy(update=change)
        self.run.save_recipe(recipe)
        return recipe

    def _build_trainer(self, model: Any) -> Any:
        prepared = self.prepared
        trainer = build_trainer(
            self.recipe,
            model,
            prepared.renderer.tokenizer,
            prepared.train,
            prepared.evaluation,
            self.run.checkpoints_dir,
            [self.callback],
            self.levers,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        if self.recipe.adapter != "none":
            models.adapters_in_float32(model)  # trl rounds them to bfloat16 on a quantized base
        self.callback.trainer = trainer
        return trainer

    def _train(self, trainer: Any, resume: bool) -> None:
        checkpoint = self.run.last_checkpoint() if resume else None
        if checkpoint:
            step, folder = checkpoint
            self.events.resume(step)
            self.run.update_status(resumed_from=step)
            trainer.restore_token_count(folder)
            resume_at(trainer, step, folder)
            return
        if resume:
            raise RunError(f"Run {self.run.id} has no checkpoint to resume from. Start it again.")
        if self.prepared.evaluation is not None:
            trainer.evaluate()  # the base, before it learns: its loss, and its answers
        else:
            self.callback.sample(0)
        heed(self.stop)
        trainer.train()

    def _base_unchanged(self, model: Any, before: str) -> bool | None:
        """None for full fine-tuning, which is there to change it."""
        if self.recipe.adapter == "none":
            return None
        return models.hash_base_weights(model) == before

    def _count(self, model: Any) -> dict[str, int]:
        count = models.count_parameters(model)
        return {"trainable_parameters": count.trainable, "total_parameters": count.total}

    def _forget_model(self) -> None:
        self.callback.trainer = None
        gc.collect()
        _give_memory_back()
        if self.prepared.device.type == "cuda":
            torch.cuda.empty_cache()

    def _proof(self, trained: verify.TrainedLogits, folder: Any) -> dict[str, float]:
        """Load what was saved as anybody would, and compare."""
        rows, base = self.prepared.probe_rows, self._fresh_base().eval()
        base_logits = trained.base or verify.logits(base, rows)
        if self.recipe.adapter == "none":
            reloaded = verify.reload_model(folder, like=base)
        else:
            reloaded = verify.reload_adapter(base, folder)
        again = verify.logits(reloaded, rows)
        return {
            "adapter_reload_max_logit_diff": verify.max_difference(trained.tuned, again),
            "adapter_effect_max_logit_diff": verify.max_difference(trained.tuned, base_logits),
        }

    def _finish(self, state: str, facts: dict[str, Any], kept: Any) -> int:
        result = run_result(self.run, self.prepared, state, facts, kept)
        self._warn_about(result)
        self.run.write_result(result)
        reason = f"Stopped; the adapter of step {kept.step} is kept." if state == "stopped" else ""
        self.run.update_status(state=state, reason=reason, step=facts["steps"])
        self.events.write("state", state=state, reason=reason)
        return EXIT_STOPPED if state == "stopped" else EXIT_COMPLETED

    def _warn_about(self, result: dict[str, Any]) -> None:
        """Say what the proof found wrong; the run stays, with its figures."""
        if result["adapter_effect_max_logit_diff"] == 0:
            self._warn("The tuned model answers exactly as the base does. Train longer.")
        if result["base_weights_unchanged"] is False:
            self._warn("Weights of the frozen base changed in training. Please report this.")

    def _warn(self, message: str) -> None:
        self.events.write("warning", message=message)


def _give_memory_back() -> None:
    """Let glibc return what was freed in small pieces; what follows would be held beside it."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def resume_at(trainer: Any, step: int, folder: Path) -> None:
    """Train on from a checkpoint, which a pull may have brought: anybody may have written it.

    Raises:
        TrainingError: It holds more than tensors; nothing of it was run.
    """
    try:  # transformers reads all of it with weights_only
        trainer.train(resume_from_checkpoint=str(folder))
    except UnpicklingError:
        raise TrainingError(
            f"The checkpoint of step {step} is not opened: its optimizer.pt, scheduler.pt or "
            "rng_state.pth holds something other than tensors, which could run code. Delete "
            f"{folder.name}, and resume at an earlier one or train anew."
        ) from None


def _is_limited() -> bool:
    """Whether this process may take less memory than there is (ulimit -v, -d)."""
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def _seconds(began: float, moment: float | None) -> float | None:
    return round(moment - began, 2) if moment else None
