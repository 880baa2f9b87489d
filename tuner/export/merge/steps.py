"""
Merge a run, step by step.

The base is loaded again in 16 bits (also where it was trained on in 4 or 8), the adapter is merged
into it, and a folder is written: weights in shards of 5 GB, tokenizer, chat template, Modelfile.
Then what was written is loaded once more, and its logits are compared with those of base and
adapter. A full fine-tune is rounded to 16 bits and compared likewise.

On the CPU: a GPU may be at work, and has less memory. One model is held at a time.
Not covered: the adapter as it is, which a push or a zip has.
"""

import gc
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from tuner.base_models.download import download
from tuner.base_models.lookup import BaseModel, find_base_model
from tuner.chat.adapter_files import read_adapter
from tuner.data.rendering import Renderer
from tuner.data.tokenizer import load_tokenizer
from tuner.errors import ExportError, ModelError, RunError
from tuner.export.merge.for_ollama import write_modelfile
from tuner.export.merge.room import require_memory, require_room
from tuner.export.merge.sixteen_bit import (
    logits_in_float32,
    merge_layers,
    name_of,
    relative_difference,
    sixteen_bit,
    stored_dtype,
    tolerance,
)
from tuner.export.merge.watch import Stages, Tell, bytes_in, memory_since_now
from tuner.export.merged import half_written
from tuner.models.loading import load_base
from tuner.recipe import Recipe
from tuner.runs.store import Run
from tuner.training.verify import Logits

CPU = torch.device("cpu")
SHARD = "5GB"
# What logits are compared on: the recipe's questions, else these.
PROMPTS, TOKENS = 4, 64
QUESTIONS = (
    "Hello, what can you do?",
    "Explain in one sentence why the sky is blue.",
    "Write a short poem about rain.",
    "2 + 2 =",
)

DOWNLOADING = "Downloading the base model"
LOADING = "Loading the model"
ASKING = "Computing what it says"
MERGING = "Merging the adapter"
WRITING = "Writing the weights"
CHECKING = "Loading what was written"


@dataclass(frozen=True)
class Figures:
    """How close the written weights are to what was trained.

    Attributes:
        dtype: bfloat16 or float16.
        logits_difference: Of the written weights from base and adapter; see relative_difference.
        tolerance: The most that it might be.
        adapter_effect: Of the base alone from base and adapter, likewise; None for a full
            fine-tune. Where it is as small as the difference, 16 bits hold little of the adapter.
    """

    dtype: str
    logits_difference: float
    tolerance: float
    adapter_effect: float | None


def merge(run: Run, out: Path, tell: Tell) -> dict[str, Any]:
    """Write a run's model to a folder that does not exist yet.

    Returns:
        The last message: figures, files and bytes, and sentences on Ollama.

    Raises:
        TunerError: It cannot be loaded, merged or written; nothing is left then.
    """
    transformers_logging.disable_progress_bar()
    aside = half_written(out)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        figures, notes = Merge(run, aside, Stages(tell)).all()
        files = [path for path in aside.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        os.rename(aside, out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    done = {"stage": "Merged", "done_bytes": size, "total_bytes": size}
    return {"kind": "merged", **done, "files": len(files), **asdict(figures), "notes": notes}


class Merge:
    """One merge into a folder."""

    def __init__(self, run: Run, folder: Path, stages: Stages):
        self.run, self.folder, self.stages = run, folder, stages
        self.recipe: Recipe = run.recipe()
        self.is_adapter = self.recipe.adapter != "none"
        self.kept = run.adapter_dir if self.is_adapter else run.model_dir
        if not self.kept.is_dir():
            raise RunError(f"Run {run.id} has kept no weights. Wait until it has completed.")
        self.base = self._base() if self.is_adapter else find_base_model(str(self.kept))
        self.dtype = sixteen_bit(self.base.config)

    def all(self) -> tuple[Figures, list[str]]:
        """Every step; figures, and sentences on Ollama."""
        require_room(self.base, self.folder.parent)
        require_memory(self.base, self.is_adapter)
        if self.is_adapter:
            read_adapter(str(self.kept))  # refuses what is no plain adapter, pickles above all
            download(self.base, lambda done, total: self.stages.told(DOWNLOADING, done, total))
        renderer = Renderer(self._tokenizer())
        rows = _rows(self.recipe, renderer)
        tuned, effect = self._merged(rows, renderer)
        gc.collect()
        figures = self._compared(rows, tuned, effect)
        base = self.base if self.is_adapter else self._base_or(self.base)
        return figures, write_modelfile(self.folder, self.run.id, self.recipe, base, renderer)

    def _base(self) -> BaseModel:
        return find_base_model(self.recipe.base_model, self.recipe.revision)

    def _base_or(self, other: BaseModel) -> BaseModel:
        try:
            return self._base()
        except ModelError:  # gone by now; a full fine-tune does not need it
            return other

    def _tokenizer(self) -> Any:
        if (self.kept / "tokenizer_config.json").is_file():
            return load_tokenizer(str(self.kept))
        return load_tokenizer(str(self.base.folder or self.base.name), self.base.revision)

    def _merged(self, rows: list[list[int]], renderer: Renderer) -> tuple[Logits, float | None]:
        """Write the merged model; what it said before that, and how far the adapter moved it."""
        stored = self.dtype if self.is_adapter else stored_dtype(self.base.config)
        model, effect = self._loaded(self.base, stored, LOADING), None
        if self.is_adapter:
            model = PeftModel.from_pretrained(model, str(self.kept)).eval()
        self.stages.told(ASKING)
        tuned = logits_in_float32(model, rows)
        if self.is_adapter:
            with model.disable_adapter():
                effect = relative_difference(logits_in_float32(model, rows), tuned)
            model = merge_layers(model, lambda done, all_: self.stages.told(MERGING, done, all_))
        self._write(model.to(self.dtype), renderer)
        return tuned, effect

    def _loaded(self, base: BaseModel, dtype: torch.dtype, stage: str) -> Any:
        plain = self.recipe.model_copy(update={"base_model": base.name, "quantization": "none"})
        with self.stages.watched(stage, base.parameters * dtype.itemsize, memory_since_now()):
            return load_base(plain, base, dtype, CPU).eval()

    def _write(self, model: Any, renderer: Renderer) -> None:
        model.config.use_cache = self.base.config.get("use_cache", True)  # load_base turned it off
        total = sum(parameter.nbytes for parameter in model.parameters())
        try:
            with self.stages.watched(WRITING, total, lambda: bytes_in(self.folder)):
                model.save_pretrained(self.folder, max_shard_size=SHARD)
                renderer.tokenizer.save_pretrained(self.folder)
        except (OSError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise ExportError(
                f"The merged weights cannot be written: {reason}. Free some room, or choose "
                "another folder."
            ) from error

    def _compared(self, rows: list[list[int]], tuned: Logits, effect: float | None) -> Figures:
        written = find_base_model(str(self.folder))
        model = self._loaded(written, self.dtype, CHECKING)
        self.stages.told(ASKING)
        difference = relative_difference(logits_in_float32(model, rows), tuned)
        figures = Figures(name_of(self.dtype), difference, tolerance(self.dtype), effect)
        if not difference <= figures.tolerance:  # so that a nan is none
            raise ExportError(
                f"The merged weights differ from base and adapter by {difference:.1%} of the "
                f"logits' spread; rounding explains {figures.tolerance:.1%} at most. Nothing was "
                "kept. Use the adapter on its base model."
            )
        return figures


def _rows(recipe: Recipe, renderer: Renderer) -> list[list[int]]:
    """Token ids of a few questions, as the model is asked them."""
    system = recipe.dataset.system_prompt
    before = [{"role": "system", "content": system}] if system else []
    questions = [*recipe.sample_prompts, *QUESTIONS][:PROMPTS]
    asked = [[*before, {"role": "user", "content": question}] for question in questions]
    # The end of each: a long system prompt is the same in all.
    return [renderer.prompt_ids(messages)[-TOKENS:] for messages in asked]
