"""The held-out loss is one number of model and rows, however the rows are batched."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tests.tiny_models import tiny_model
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import RunStore
from tuner.training import model as models
from tuner.training.callbacks import StopRequest
from tuner.training.evaluation import batches_by_length
from tuner.training.prepare import Prepared, prepare
from tuner.training.run import load_base
from tuner.training.speed.levers import choose_levers, pull
from tuner.training.trainer import build_trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


def prepared(base: Path, folder: Path, **settings: Any) -> Prepared:
    """Forty rows, whose answers have one word to twenty."""
    rows = [
        {"prompt": f"Where is order {n}?", "completion": "On its way. " * (n % 20 + 1)}
        for n in range(40)
    ]
    if settings.get("objective") == "dpo":
        rows = [
            {**row, "chosen": row.pop("completion"), "rejected": "No. " * (n % 7 + 1)}
            for n, row in enumerate(rows)
        ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "base_model": str(base),
        "dataset": {"source": str(folder / "rows.jsonl"), "eval_fraction": 0.3},
        "dtype": "float32",
        "max_length": 256,
        "batch_size": 8,
        "levers": "none",
    }
    run = RunStore(folder / "runs").create(make_recipe(values | settings))
    return prepare(run, EventWriter(run.events_path), StopRequest(), folder / "tokens")


def trainer_of(ready: Prepared, folder: Path) -> Any:
    recipe = ready.recipe
    model = models.add_adapter(load_base(recipe, ready.base, torch.float32, CPU), recipe)
    levers = choose_levers(model, recipe)
    pull(model, levers)
    tokenizer = ready.renderer.tokenizer
    return build_trainer(
        recipe, model, tokenizer, ready.train, ready.evaluation, folder, [], levers
    )


def by_hand(base: Path, rows: Any) -> float:
    """-log p of every trained token of every row, each row by itself; their mean."""
    model, losses = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), []
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        trained = labels[1:] != -100
        losses += functional.cross_entropy(
            logits[trained], labels[1:][trained], reduction="none"
        ).tolist()
    return sum(losses) / len(losses)


@pytest.mark.parametrize("levers", ["none", "auto"])
@pytest.mark.parametrize("micro", [1, 2, 8])
def test_the_eval_loss_is_the_mean_over_all_trained_tokens(micro, levers, base, tmp_path):
    ready = prepared(base, tmp_path, micro_batch_size=micro, levers=levers)

    metrics = trainer_of(ready, tmp_path).evaluate()

    assert len(ready.evaluation) == 12
    assert metrics["eval_loss"] == pytest.approx(by_hand(base, ready.evaluation), rel=1e-5)


def test_a_small_last_batch_of_preferences_counts_for_its_rows_only(base, tmp_path):
    losses = []
    for micro in (1, 8):  # of 12 rows: the last of two batches has four
        folder = tmp_path / str(micro)
        folder.mkdir()
        ready = prepared(base, folder, objective="dpo", micro_batch_size=micro)
        trainer = trainer_of(ready, folder)
        torch.manual_seed(1)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:  # as if it had trained: the base's own loss is log 2 for each row
                parameter.data = torch.randn_like(parameter)
        losses.append(trainer.evaluate()["eval_loss"])

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert abs(losses[0] - 0.6931) > 0.01


def test_held_out_rows_of_a_length_share_a_batch(base, tmp_path):
    ready = prepared(base, tmp_path, micro_batch_size=2)
    trainer = trainer_of(ready, tmp_path)

    batches = list(trainer.get_eval_dataloader())
    padded = sum(batch["input_ids"].numel() for batch in batches)

    tokens = [len(ids) for ids in ready.evaluation["input_ids"]]
    longest = max(tokens)
    assert sum(len(batch["input_ids"]) for batch in batches) == len(tokens)
    assert len(batches) < len(tokens) / 2
    assert all(batch["input_ids"].numel() <= 2 * longest for batch in batches)
    assert padded < 1.4 * sum(tokens)


def test_batches_by_length_hold_every_row_once_and_never_too_much():
    lengths = [(7 * n) % 31 + 1 for n in range(100)]

    batches = list(batches_by_length(lengths, 64))

    assert sorted(index for batch in batches for index in batch) == list(range(100))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 64 for batch in batches)
    assert list(batches_by_length([90, 90], 64)) == [[0], [1]]  # a row is never left out
