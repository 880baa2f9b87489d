"""
Before the model: normalised data, tokens, the settings that were `auto`, and the model's files.

What is found out here is written back into recipe.yaml, so that a run can be read and repeated
without knowing the machine it ran on.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset

from tuner.base_models.checkpoint import INDEX, SINGLE
from tuner.base_models.download import download
from tuner.base_models.hub import cached_folder
from tuner.base_models.lookup import BaseModel, check_length, find_base_model
from tuner.data.prepare import load_examples, load_report, prepare_dataset
from tuner.data.rendering import Renderer
from tuner.data.stored_tokens import load_tokens, tokens_mark, tokens_path
from tuner.data.tokenized import TokenReport, require_trained_rows, tokenize
from tuner.data.tokenizer import load_tokenizer
from tuner.device import this_device
from tuner.memory.estimate import Estimate, estimate
from tuner.models.loading import base_dtype, training_device
from tuner.recipe import Recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import Run
from tuner.schedule import cadence, total_steps
from tuner.training.callbacks import StopRequest, heed
from tuner.training.progress import Progress
from tuner.training.verify import probe_rows

BaseKnown = Callable[[Recipe, BaseModel], None]

SIDES = {"train": "Tokenizing training rows", "eval": "Tokenizing held-out rows"}


@dataclass(frozen=True)
class Prepared:
    """All that training needs beside the model.

    Attributes:
        recipe: Resolved: no setting is `auto` any more.
        train, evaluation: Tokens; None where no rows are held out.
        longest: Tokens of the longest row that trains.
        probe_rows: Held-out token ids on which the saved adapter is compared with the trained one.
    """

    recipe: Recipe
    base: BaseModel
    renderer: Renderer
    train: Dataset
    evaluation: Dataset | None
    tokens: TokenReport
    longest: int
    estimate: Estimate
    dtype: torch.dtype
    device: torch.device
    data_fingerprint: str
    probe_rows: list[list[int]]


def prepare(
    run: Run,
    events: EventWriter,
    stop: StopRequest,
    tokens_dir: Path,
    *,
    base_known: BaseKnown | None = None,
) -> Prepared:
    """Read, render and resolve one run, and have its base model on this machine.

    Args:
        base_known: Called before any row is read, with the recipe as it stands and the base model,
            if its weights need no download: loading can begin beside what is done here. It returns
            at once; what it raises ends the run.

    Raises:
        RecipeError, DatasetError, ModelError: Training cannot begin.
        StoppedBeforeTraining: Asked to stop.
    """
    recipe = run.recipe()
    base = find_base_model(recipe.base_model, recipe.revision)
    check_length(recipe, base)
    # Before a base that is loaded meanwhile takes of the free memory that the estimate plans with.
    hardware, device = this_device(), training_device()
    if base_known and is_on_this_disk(base):
        base_known(recipe, base)
    report = _examples(run, recipe, events, stop)
    heed(stop)
    tokenizer = load_tokenizer(str(base.folder or base.name), base.revision)
    renderer = Renderer(tokenizer, recipe.max_length)
    train, evaluation, tokens = _tokens(run, renderer, tokens_dir, events, stop)
    heed(stop)
    longest = min(tokens.longest, recipe.max_length)
    dtype = base_dtype(recipe, device, hardware.bf16)
    recipe = recipe.model_copy(update={"dtype": str(dtype).removeprefix("torch.")})
    rows, mean = _sequences(recipe, tokens)
    fits = estimate(recipe, base, hardware, longest=longest, rows=rows, mean_tokens=mean)
    recipe = resolve(recipe, base, fits, device, rows, mean, report["fingerprint"])
    run.save_recipe(recipe)
    fetch_base(base, events, stop)
    return Prepared(
        recipe=recipe,
        base=base,
        renderer=renderer,
        train=train,
        evaluation=evaluation,
        tokens=tokens,
        longest=longest,
        estimate=fits,
        dtype=dtype,
        device=device,
        data_fingerprint=report["fingerprint"],
        probe_rows=probe_rows(evaluation if evaluation is not None else train),
    )


def is_on_this_disk(base: BaseModel) -> bool:
    """Whether all weights of a base model can be read without a download; nobody is asked."""
    if base.folder:
        return True
    folder = cached_folder(base.name, base.revision)
    if folder is None:
        return False
    if (folder / SINGLE).exists():
        return True
    try:
        files = json.loads((folder / INDEX).read_bytes())["weight_map"].values()
        return all((folder / file).exists() for file in files)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False  # it will be downloaded, or refused with its reason


def fetch_base(base: BaseModel, events: EventWriter, stop: StopRequest) -> None:
    """Download what is missing of the base model; after the data, which may not train at all."""
    with Progress(events, stop, f"Downloading {base.name}", "bytes", at_once=True) as progress:
        download(base, progress)


def resolve(
    recipe: Recipe,
    base: BaseModel,
    fits: Estimate,
    device: torch.device,
    rows: int,
    mean_tokens: float,
    fingerprint: str,
) -> Recipe:
    """The recipe with every `auto` decided; `rows` are packed sequences, where rows are packed."""
    decided: dict[str, Any] = {
        "revision": base.revision,
        "micro_batch_size": _decided(recipe.micro_batch_size, fits.micro_batch_size),
        "gradient_checkpointing": _decided(
            recipe.gradient_checkpointing, fits.gradient_checkpointing
        ),
        "optim": _optimizer(recipe, device),
        "dataset": recipe.dataset.model_copy(update={"fingerprint": fingerprint}),
        **cadence(recipe, total_steps(recipe, rows), rows, mean_tokens),
    }
    return recipe.model_copy(update=decided)


def _sequences(recipe: Recipe, tokens: TokenReport) -> tuple[int, float]:
    """How many sequences an epoch has, and their mean tokens: of rows, or of rows packed."""
    if recipe.packing:  # which leaves hardly a token of a sequence free
        return math.ceil(tokens.tokens / recipe.max_length), recipe.max_length
    return tokens.kept, tokens.tokens / max(1, tokens.kept)


def longest_rows(dataset: Dataset, count: int) -> list[dict[str, Any]]:
    """The rows of the largest micro-batch that `dataset` can make."""
    lengths = _row_lengths(dataset)
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    return [dataset[index] for index in order[:count]]


def _row_lengths(dataset: Dataset) -> list[int]:
    """Token ids of each row, all its id columns together."""
    table = dataset.data.table
    columns = [name for name in dataset.column_names if name.endswith("_ids")]
    lengths = [pc.list_value_length(table.column(name)).to_pylist() for name in columns]
    return [sum(row) for row in zip(*lengths, strict=True)]


def _examples(run: Run, recipe: Recipe, events: EventWriter, stop: StopRequest) -> Any:
    """Normalise the data once; a resumed run reads what the first one wrote."""
    report = load_report(run.data_dir)
    if report is None:
        reading = f"Reading {recipe.dataset.source}"
        events.write("log", message=reading)
        with Progress(events, stop, reading, "rows") as progress:
            report = prepare_dataset(
                recipe.dataset,
                recipe.objective,
                run.data_dir,
                max_length=recipe.max_length,
                progress=progress,
            )
            progress(report["rows"], report["rows"])
    for warning in report["warnings"]:
        events.write("warning", message=warning)
    return report


def _tokens(
    run: Run, renderer: Renderer, tokens_dir: Path, events: EventWriter, stop: StopRequest
) -> tuple[Dataset, Dataset | None, TokenReport]:
    """Both sides as tokens; the report is the training side's, with a word about what was cut."""
    tokens_dir.mkdir(parents=True, exist_ok=True)
    mark = tokens_mark(run.data_dir, renderer)
    side = partial(_side, run, renderer, tokens_dir, mark, events, stop)
    train, report = side("train")
    require_trained_rows(report, renderer.max_length or 0)
    evaluation, _ = side("eval")
    if report.truncated:
        events.write(
            "warning",
            message=f"max_length={renderer.max_length} cuts {report.truncated:,} of "
            f"{report.rows:,} rows; the longest has {report.longest:,} tokens.",
        )
    for reason, entry in report.dropped.items():
        events.write("warning", message=f"{entry['count']:,} rows do not train: {reason}.")
    return train, evaluation if len(evaluation) else None, report


def _side(
    run: Run,
    renderer: Renderer,
    tokens_dir: Path,
    mark: str,
    events: EventWriter,
    stop: StopRequest,
    side: Any,
) -> tuple[Dataset, TokenReport]:
    if handed_over := load_tokens(tokens_dir, side, mark):
        events.write("log", message=f"{SIDES[side]}: done for the preview, and taken from there")
        return handed_over
    examples = load_examples(run.data_dir, side)
    if not len(examples):
        return examples, TokenReport()
    with Progress(events, stop, SIDES[side], "rows", len(examples)) as progress:
        return tokenize(examples, renderer, tokens_path(tokens_dir, side), progress)


def _decided(setting: Any, otherwise: Any) -> Any:
    return otherwise if setting == "auto" else setting


def _optimizer(recipe: Recipe, device: torch.device) -> str:
    if recipe.optim != "auto":
        return str(recipe.optim)
    return "paged_adamw_8bit" if device.type == "cuda" else "adamw_torch_fused"
