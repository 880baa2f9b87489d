"""
What a run says while it trains: metrics, evaluations, samples, checkpoints; and how it stops.

Everything goes through the run's EventWriter, and into status.json once a second at most.
"""

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from tuner.errors import TrainingError
from tuner.recipe import Recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import Run
from tuner.training.sampling import Sampler

STATUS_SECONDS = 1.0
# A stopped run evaluates what it saved if its last evaluation took no longer. A Space that restarts
# gives 25 seconds in all, and the proof loads the base once more.
QUICK_SECONDS = 5.0


class StopRequest:
    """Whether somebody asked this process to stop: SIGTERM (also a Space's restart) or Ctrl-C."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Answer signals from now on; the first one asks, training finishes its step."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True


class StoppedBeforeTraining(Exception):
    """A stop came while the run was being prepared."""


class EvaluationCut(StoppedBeforeTraining):
    """A stop came in the middle of an evaluation; of the one before training, it ends the run."""


def heed(stop: StopRequest) -> None:
    """Leave if somebody asked to stop."""
    if stop.asked:
        raise StoppedBeforeTraining


class MemoryMeter:
    """Memory that the run takes beyond what the process held before the model: bytes.

    Args:
        held: Of the model that this process holds already, on a CPU.
    """

    def __init__(self, device: torch.device, held: int = 0):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._baseline = _resident() - held
        _reset_peak_resident()

    def now(self) -> int:
        """What it takes now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return max(0, _resident() - self._baseline)

    def peak(self) -> int:
        """The most it took so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, _peak_resident() - self._baseline)


class Pace:
    """Speed of the training steps alone: evaluations, samples and checkpoints don't count."""

    def __init__(self) -> None:
        self.training_seconds = 0.0
        self.steps = 0
        self._begun = time.monotonic()
        self._step_begun = self._begun
        self._lap = (0.0, 0)

    def step_begins(self) -> None:
        self._step_begun = time.monotonic()

    def step_ends(self) -> None:
        self.training_seconds += time.monotonic() - self._step_begun
        self.steps += 1

    def tokens_per_second(self, tokens: int) -> float:
        """Tokens of the steps since the last call, over their seconds."""
        seconds, before = self._lap
        self._lap = (self.training_seconds, tokens)
        elapsed = self.training_seconds - seconds
        return (tokens - before) / elapsed if elapsed > 0 else 0.0

    def eta_seconds(self, remaining_steps: int) -> float:
        """What is left at the speed so far, evaluations included."""
        return (time.monotonic() - self._begun) / max(1, self.steps) * remaining_steps


class RunEvents(TrainerCallback):
    """Writes a run's events, takes its samples, stops it when asked or when the loss breaks."""

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        events: EventWriter,
        stop: StopRequest,
        sampler: Sampler,
        memory: MemoryMeter,
    ):
        self.run, self.recipe, self.events, self.stop = run, recipe, events, stop
        self.sampler, self.memory = sampler, memory
        self.pace = Pace()
        self.trainer: Any = None  # set once it is built: the trainer wants its callbacks first
        self.first_step_at: float | None = None
        self.eval_losses: list[tuple[int, float]] = []
        self._status_at = 0.0
        self._eval_seconds = 0.0  # of the last evaluation
        self._saving_since = 0.0
        self._must_finish = False  # the evaluation at hand

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.pace = Pace()
        self.run.update_status(state="running", max_steps=state.max_steps, step=state.global_step)
        self.events.write("state", state="running", reason="")

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.pace.step_begins()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.pace.step_ends()
        self.first_step_at = self.first_step_at or time.time()
        last = state.global_step >= state.max_steps
        if self.stop.asked and not last:
            # Saved at once: whoever asked may not wait. Evaluated at the end if that is quick.
            control.should_training_stop, control.should_evaluate = True, False
        elif last:  # the adapter that is kept is evaluated
            control.should_evaluate = self.trainer.eval_dataset is not None
        control.should_save |= last or self.stop.asked
        self._saving_since = time.monotonic()

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Answer a stop in the middle of an evaluation: what is trained is saved, no more."""
        if self.stop.asked and not self._must_finish:
            control.should_evaluate = False
            control.should_training_stop = control.should_save = True
            self._saving_since = time.monotonic()
            raise EvaluationCut

    def on_train_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Evaluate what a stop saved, if that is quick, so that it may be the best."""
        evaluated = self.eval_losses and self.eval_losses[-1][0] == state.global_step
        if self.trainer.eval_dataset is None or evaluated or self._eval_seconds > QUICK_SECONDS:
            return
        self._must_finish = True
        self.trainer._determine_best_metric(self.trainer.evaluate(), None)
        saved = self.run.checkpoints_dir / f"step-{state.global_step}" / TRAINER_STATE_NAME
        state.save_to_json(str(saved.with_suffix(".new")))  # a resume goes on from the best so far
        os.replace(saved.with_suffix(".new"), saved)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        self._require_finite(logs, state.global_step)
        self.events.write("metric", **self._metric(logs, state))
        self._tell_status(state)

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        measured = metrics or {}
        loss, self._eval_seconds = measured.get("eval_loss"), measured.get("eval_runtime", 0.0)
        if loss is None:
            return
        seconds = round(self._eval_seconds, 3)
        self.events.write("eval", step=state.global_step, eval_loss=loss, seconds=seconds)
        self.eval_losses.append((state.global_step, loss))
        self._warn_when_eval_loss_turns()
        self.sample(state.global_step)
        self._saving_since = time.monotonic()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, seconds = state.global_step, round(time.monotonic() - self._saving_since, 3)
        path = f"checkpoints/step-{step}"
        self.events.write("checkpoint", step=step, path=path, seconds=seconds)
        self.run.update_status(step=step)

    def sample(self, step: int) -> None:
        """Let the model answer the recipe's prompts as it is now; a stop is not kept waiting."""
        began, prompts = time.monotonic(), self.recipe.sample_prompts
        answers = self.sampler.answer(self.trainer.model, prompts, lambda: self.stop.asked)
        each = round((time.monotonic() - began) / max(1, len(answers)), 4)
        for index, (prompt, text) in enumerate(zip(prompts, answers, strict=False)):
            self.events.write(
                "sample", step=step, index=index, prompt=prompt, text=text, seconds=each
            )

    def _metric(self, logs: dict[str, Any], state: TrainerState) -> dict[str, Any]:
        speed = self.pace.tokens_per_second(self.trainer.token_count.seen)
        return {
            "step": state.global_step,
            "max_steps": state.max_steps,
            "epoch": state.epoch,
            "loss": logs["loss"],
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "tokens_per_second": round(speed, 1),
            "memory_bytes": self.memory.now(),
            "eta_seconds": round(self.pace.eta_seconds(state.max_steps - state.global_step), 1),
        }

    def _require_finite(self, logs: dict[str, Any], step: int) -> None:
        broken = [
            name for name in ("loss", "grad_norm") if not math.isfinite(logs.get(name) or 0.0)
        ]
        if broken:
            raise TrainingError(
                f"The {' and the '.join(broken).replace('_', ' ')} stopped being a number at step "
                f"{step}. Lower learning_rate (now {self.recipe.learning_rate:g}) to a tenth, or "
                "raise warmup_steps; checkpoints before this step are kept."
            )

    def _warn_when_eval_loss_turns(self) -> None:
        losses = [loss for _, loss in self.eval_losses]
        if len(losses) >= 3 and losses[-3] < losses[-2] < losses[-1] and losses[-3] == min(losses):
            best = self.eval_losses[-3][0]
            message = (
                f"The eval loss has risen twice since step {best}: the model begins to learn the "
                "rows by heart. The best checkpoint is kept; fewer epochs would do."
            )
            self.events.write("warning", message=message)

    def _tell_status(self, state: TrainerState) -> None:
        if time.monotonic() - self._status_at >= STATUS_SECONDS:
            self._status_at = time.monotonic()
            self.run.update_status(step=state.global_step)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _reset_peak_resident() -> None:
    """Let Linux count the peak anew, so that imports and data don't hide the model's."""
    clear = Path("/proc/self/clear_refs")
    try:
        clear.write_text("5")
    except OSError:  # not Linux, or not allowed: the peak then includes what came before
        return


def _peak_resident() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:  # no /proc
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
