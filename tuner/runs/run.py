"""
One run directory: where its files are, and what they say.

    20261123-0915-support-bot/
      recipe.yaml  data/  status.json  events.jsonl  train.log  checkpoints/step-N/
      adapter/ (model/ for full fine-tuning)  result.json

The directory is the truth: nothing about a run is held in memory, so whoever reads it, a page, a
shell or the training process itself, sees the same.
Not covered: making and finding runs (store.py); starting, stopping, resuming (launch.py).
"""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import yaml

try:  # libyaml's parser is seven times as fast; a list of runs parses a recipe for each
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

from tuner.errors import RunError
from tuner.recipe import Recipe, load_recipe, to_yaml
from tuner.runs.atomic import locked, replace_json, replace_text
from tuner.runs.events import Event, current_history, read_events
from tuner.runs.process import is_alive
from tuner.runs.status import LIVE_STATES, Status, changed, read_status, write_status

CHECKPOINT = re.compile(r"step-(\d+)")


class Summary(TypedDict):
    """A run in one line, as `runs --json` prints it. `created` is in Unix seconds."""

    run: str
    state: str
    preset: str | None
    base_model: str | None
    created: float
    steps: int
    eval_loss: float | None


@dataclass(frozen=True)
class Run:
    """One run directory: where its files are, and what they say.

    Attributes:
        dir: The folder; its name is the run's id.
    """

    dir: Path

    @property
    def id(self) -> str:
        return self.dir.absolute().name

    @property
    def recipe_path(self) -> Path:
        return self.dir / "recipe.yaml"

    @property
    def data_dir(self) -> Path:
        return self.dir / "data"

    @property
    def status_path(self) -> Path:
        return self.dir / "status.json"

    @property
    def events_path(self) -> Path:
        return self.dir / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.dir / "train.log"

    @property
    def checkpoints_dir(self) -> Path:
        return self.dir / "checkpoints"

    @property
    def adapter_dir(self) -> Path:
        return self.dir / "adapter"

    @property
    def model_dir(self) -> Path:
        """What full fine-tuning keeps in place of an adapter."""
        return self.dir / "model"

    @property
    def result_path(self) -> Path:
        return self.dir / "result.json"

    def recipe(self) -> Recipe:
        """The recipe; RecipeError when it is gone or was edited into something else."""
        return load_recipe(self.recipe_path)

    def save_recipe(self, recipe: Recipe) -> None:
        """Replace the recipe, with what was decided for it."""
        replace_text(self.recipe_path, to_yaml(recipe))

    def status(self) -> Status:
        """Where the run stands now.

        A live state whose process is gone reads as interrupted: that process cannot say so itself.

        Raises:
            RunError: This is not a run.
        """
        status = read_status(self.status_path)
        if status["state"] in LIVE_STATES and not _has_process(status):
            # It may have written its last words between our two looks, and gone. Look again.
            status = read_status(self.status_path)
            if status["state"] in LIVE_STATES and not _has_process(status):
                reason = f"The training process is gone. {self.what_is_left()}"
                return {**status, "state": "interrupted", "reason": reason}
        return status

    def update_status(self, **changes: Unpack[Status]) -> None:
        """Change some of the status and leave the rest; see status.Status for the keys."""
        with locked(self.dir):
            status = read_status(self.status_path)
            write_status(self.status_path, changed(status, changes))

    def is_process_alive(self) -> bool:
        """Whether its process is there, be it only to tidy up after its last step."""
        return _has_process(read_status(self.status_path))

    def result(self) -> dict[str, Any] | None:
        """What came out of the run; None before it ended."""
        try:
            return dict(json.loads(self.result_path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.result_path} cannot be read: {error}") from None

    def write_result(self, result: dict[str, Any]) -> None:
        """Replace the result."""
        replace_json(self.result_path, result)

    def events(self, offset: int = 0) -> tuple[list[Event], int]:
        """Events after a byte offset, and the offset to go on from; see read_events."""
        return read_events(self.events_path, offset)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Complete checkpoints by step: a name without `step-` is still being written."""
        try:
            entries = list(self.checkpoints_dir.iterdir())
        except FileNotFoundError:
            return []
        steps = ((CHECKPOINT.fullmatch(entry.name), entry) for entry in entries if entry.is_dir())
        return sorted((int(found[1]), entry) for found, entry in steps if found)

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """Where a resume would begin; None when there is nowhere."""
        return max(self.checkpoints(), default=None)

    def what_is_left(self) -> str:
        """What can be done with a run that ended early, in a sentence."""
        if checkpoint := self.last_checkpoint():
            return f"Its checkpoint of step {checkpoint[0]} is kept, and a resume continues there."
        return f"It left no checkpoint. Start again: `{self.train_again()}`."

    def train_again(self) -> str:
        """The shell command that trains this run's recipe anew."""
        return f"python -m tuner train --recipe {shlex.quote(str(self.recipe_path))}"

    def summary(self) -> Summary:
        """The run in one line. Settings are None where the recipe cannot be read."""
        status = self.status()
        settings = self._settings()
        return Summary(
            run=self.id,
            state=status["state"],
            preset=settings.get("preset"),
            base_model=settings.get("base_model"),
            created=status["created"],
            steps=status["step"],
            eval_loss=self._eval_loss(status),
        )

    def _settings(self) -> dict[str, Any]:
        """The recipe unchecked: a list of runs also shows those of older versions."""
        try:
            settings = yaml.load(self.recipe_path.read_bytes(), Loader=SafeLoader)
        except (OSError, yaml.YAMLError):
            return {}
        return settings if isinstance(settings, dict) else {}

    def _eval_loss(self, status: Status) -> float | None:
        """That of the kept weights, once some are kept; before, the latest."""
        if status["state"] in ("completed", "stopped") and (result := self.result()):
            return result.get("eval_loss")
        history = current_history(self.events()[0])
        losses = [event["eval_loss"] for event in history if event["kind"] == "eval"]
        return losses[-1] if losses else None


def _has_process(status: Status) -> bool:
    return is_alive(status["pid"], status["pid_started"], status["pid_started_after_boot"])
