"""What reaches the model: the batches that trl's trainers make of our tokens."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import tiny_model
from tuner.base_models.lookup import find_base_model
from tuner.data.preview import preview
from tuner.data.tokenizer import load_tokenizer
from tuner.errors import TrainingError
from tuner.models.loading import load_base
from tuner.recipe import Recipe, make_recipe
from tuner.runs.events import EventWriter
from tuner.runs.store import RunStore
from tuner.schedule import cadence, total_steps
from tuner.training import model as models
from tuner.training.callbacks import StopRequest
from tuner.training.prepare import Prepared, prepare
from tuner.training.run import resume_at
from tuner.training.trainer import build_trainer

CPU = torch.device("cpu")
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Where is order {number}?"},
            {"role": "assistant", "content": "On its way. " * (number % 7 + 1)},
            {"role": "user", "content": "And when?"},
            {"role": "assistant", "content": f"In {number} days."},
        ]
    }
    for number in range(40)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Recipe:
    data = tmp_path / "talks.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    return make_recipe(
        {
            "base_model": str(base),
            "dataset": {"source": str(data), "system_prompt": "Be brief."},
            "dtype": "float32",
            "max_length": 512,
            "batch_size": 4,
        }
    )


def prepared_run(recipe: Recipe, folder: Path) -> Prepared:
    run = RunStore(folder / "runs").create(recipe)
    return prepare(run, EventWriter(run.events_path), StopRequest(), folder / "tokens")


def trainer_of(prepared: Prepared, folder: Path) -> Any:
    recipe = prepared.recipe
    model = load_base(recipe, prepared.base, torch.float32, CPU)
    model = models.add_adapter(model, recipe)
    tokenizer = prepared.renderer.tokenizer
    return build_trainer(recipe, model, tokenizer, prepared.train, None, folder, [])


def test_the_preview_shows_exactly_the_tokens_and_labels_that_the_trainer_sees(recipe, tmp_path):
    tokenizer = load_tokenizer(str(find_base_model(recipe.base_model).folder))
    shown = preview(recipe, tokenizer, first_row=1, rows=len(ROWS))["examples"]
    expected = sorted(
        [(token["id"], token["trained"]) for token in row["tokens"]]
        for row in shown
        if row["side"] == "train"
    )

    seen = []
    trainer = trainer_of(prepared_run(recipe, tmp_path), tmp_path)
    for batch in trainer.get_train_dataloader():
        rows = zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
        for ids, labels, mask in rows:
            real = mask.bool()
            assert (labels[~real] == -100).all()
            pairs = zip(ids[real].tolist(), labels[real].tolist(), strict=True)
            seen.append([(token, label != -100) for token, label in pairs])
            assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))

    assert sorted(seen) == expected
    assert any(trained for row in seen for _, trained in row)


def test_packed_rows_have_the_loss_that_they_have_apart(recipe, tmp_path):
    packed = recipe.model_copy(update={"packing": True, "micro_batch_size": 1})
    trainer = trainer_of(prepared_run(packed, tmp_path), tmp_path)
    model = trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        together = model(**batch, use_cache=False).logits[0]
        starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
        edges = [*starts, batch["input_ids"].shape[1]]
        apart = [
            model(input_ids=batch["input_ids"][:, start:end], use_cache=False).logits[0]
            for start, end in pairwise(edges)
        ]

    assert len(starts) > 1
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-5)


def test_a_packed_run_plans_its_evaluations_for_packed_sequences(recipe, tmp_path):
    packed = recipe.model_copy(update={"packing": True, "num_train_epochs": 20.0})
    prepared = prepared_run(packed, tmp_path)
    trainer = trainer_of(prepared, tmp_path)

    sequences = len(trainer.train_dataset)
    steps = total_steps(packed, sequences)

    assert sequences < len(prepared.train)
    planned = cadence(packed, steps, sequences, packed.max_length)["eval_steps"]
    assert prepared.recipe.eval_steps == pytest.approx(planned, abs=2)


def test_the_first_try_recomputes_activations_as_training_will(recipe, tmp_path):
    settings = {"gradient_checkpointing": True, "micro_batch_size": 2}
    trainer = trainer_of(prepared_run(recipe.model_copy(update=settings), tmp_path), tmp_path)
    runs = Counter[str]()
    layer = trainer.model.get_base_model().model.layers[0]
    layer.mlp.register_forward_pre_hook(lambda *_: runs.update(["forward"]))

    trainer.try_batch([trainer.train_dataset[0], trainer.train_dataset[1]])

    assert runs["forward"] == 2  # once forward, and again in the backward


def test_batches_in_16_bit_on_a_cpu_have_few_widths(recipe, tmp_path):
    prepared = prepared_run(recipe.model_copy(update={"dtype": "bfloat16"}), tmp_path)
    trainer = trainer_of(prepared, tmp_path)

    widths = {batch["input_ids"].shape[1] for batch in trainer.get_train_dataloader()}

    assert all(width % 32 == 0 for width in widths), widths


class Payload:
    """What makes a file when it is unpickled: code that runs."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_holds_code_is_not_opened_and_runs_nothing(recipe, tmp_path):
    prepared = prepared_run(recipe.model_copy(update={"max_steps": 2, "save_steps": 1}), tmp_path)
    trainer_of(prepared, tmp_path).train()
    folder = tmp_path / "step-1"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        sound = (folder / name).read_bytes()
        torch.save(Payload(tmp_path / "ran"), folder / name)
        trainer = trainer_of(prepared, tmp_path)
        trainer.restore_token_count(folder)
        with pytest.raises(TrainingError, match="step 1 is not opened"):
            resume_at(trainer, 1, folder)
        assert not (tmp_path / "ran").exists(), name
        (folder / name).write_bytes(sound)
    trainer = trainer_of(prepared, tmp_path)
    resume_at(trainer, 1, folder)
    assert trainer.state.global_step == 2
